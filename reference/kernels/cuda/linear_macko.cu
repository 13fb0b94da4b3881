// One vector times weights as MACKO stores them (formats/macko.py): lanes go from one stored weight to the next, so that zeros cost nothing.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kWarps = 16;
constexpr int kNumbers = 8;  // of a lane at once: 16 bytes of values, 4 of distances
constexpr int kStep = kWarp * kNumbers;
constexpr int kAhead = 4;  // steps of a warp that are prefetched
constexpr int kBeyond = 16;  // zeros behind the vector, which fillers at the end of a row and lanes beyond it are multiplied with

struct MackoWeights {
  const uint16_t* values;
  const uint32_t* deltas;
  const int* row_starts;  // of what follows the part that is equally long in all rows
  int steps;              // of a warp in that part
  int outputs, inputs;
};

// What a lane reads in a step: eight weights, the zeros before each, and whether they are the row's.
struct Step {
  uint4 words;
  uint32_t gaps;
  int numbers;
};

XM_DEVICE Step read_step(const MackoWeights& weights, int place, bool there) {
  if (!there) return {{0, 0, 0, 0}, 0, 0};
  return {stream_16(weights.values + place), weights.deltas[place / kNumbers], kNumbers};
}

// A warp takes a row, and reads two steps ahead. As rows are equally long at first, it does so before it knows where they end. The vector lies
// in shared memory as it came, since lanes read it at random.
template <class Element>
XM_RESIDENT_KERNEL(kWarps* kWarp, 2)
void macko_rows(MackoWeights weights, const uint16_t* x, const uint16_t* bias, uint16_t* y) {
  uint16_t* vector = &shared<uint16_t>();
  const int token = blockIdx.y, row = static_cast<int>(blockIdx.x) * kWarps + uniform_warp(), inputs = weights.inputs;
  const bool own = row < weights.outputs;
  const int start = row * weights.steps * kStep, place = start + kNumbers * lane();
  let_next_start();
  if (own) {  // of what is equally long, and so known to be there before any start is read
    const int ahead = (weights.steps < kAhead ? weights.steps : kAhead) * kStep;
    prefetch_by_lanes(weights.values + start, sizeof(uint16_t) * ahead);
    prefetch_by_lanes(weights.deltas + start / kNumbers, ahead / 2);
    prefetch_by_lanes(weights.row_starts + row, 2 * sizeof(int));
  }
  wait_for_kernel_before();
  const int first = own ? weights.row_starts[row] : 0, last = own ? weights.row_starts[row + 1] : 0;
  const int equal = own ? weights.steps : 0;
  const auto read = [&](int i) {
    if (i < equal) return read_step(weights, place + i * kStep, true);
    const int rest = first + (i - equal) * kStep + kNumbers * lane();
    return read_step(weights, rest, rest < last);
  };
  Step next = read(0), then = read(1);  // under way while the vector is copied
  const uint16_t* given = x + static_cast<int64_t>(token) * inputs;
  for (int i = 8 * threadIdx.x; i < inputs + kBeyond; i += 8 * kWarps * kWarp) {
    *reinterpret_cast<uint4*>(vector + i) = i < inputs ? *reinterpret_cast<const uint4*>(given + i) : uint4{0, 0, 0, 0};
  }
  block_sync();
  uint32_t column = shared_place(vector);  // behind the weights of the step before
  float sum = 0;
  const auto multiply = [&](const Step& step, int numbers) {
    const uint32_t pairs[4] = {step.words.x, step.words.y, step.words.z, step.words.w};
    // byte k of `odd` and `even`: columns from the lane's first to its weights 2 k + 1 and 2 k, at most 8 × 16; a product adds bytes up
    const uint32_t second = step.gaps >> 4 & 0x0f0f0f0f, zeros = ((step.gaps & 0x0f0f0f0f) + second) * 0x01010101u;
    const uint32_t odd = zeros + 0x07050301u, even = zeros - second + 0x06040200u;
    const int all = static_cast<int>(zeros >> 24) + numbers, through = lanes_running_sum(all);
    const uint32_t from = column + 2 * (through - all);
    column += 2 * shfl(through, kWarp - 1);
    XM_UNROLL(4)
    for (int k = 0; k < kNumbers / 2; ++k) {
      const uint32_t places[2] = {choose_bytes(even, 0, 0x4440 + k), choose_bytes(odd, 0, 0x4440 + k)};
      sum = fused(low_of<Element>(pairs[k]), value_of<Element>(static_cast<uint16_t>(shared_16(from + 2 * places[0]))), sum);
      sum = fused(high_of<Element>(pairs[k]), value_of<Element>(static_cast<uint16_t>(shared_16(from + 2 * places[1]))), sum);
    }
  };
  int i = 0;
  for (; i + 2 < equal; ++i) {
    const Step step = next;
    next = then;
    then = read_step(weights, place + (i + 2) * kStep, true);
    multiply(step, kNumbers);
  }
  const int steps = equal + ceil_div(last - first, kStep);
  for (; i < steps; ++i) {
    const Step step = next;
    next = then;
    then = read(i + 2);
    multiply(step, step.numbers);
  }
  sum = lanes_sum(sum);
  if (lane() == 0 && own) put<Element>(y, bias, token, weights.outputs, row, sum);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a GpuMacko [outputs, inputs], with `steps` times 256 values of each row in front; x [tokens, inputs], inputs a multiple of 8;
// bias [outputs] or none; y [tokens, outputs].
XM_API int xm_cuda_macko_rows(int half, const uint16_t* values, const uint32_t* deltas, const int* row_starts, const uint16_t* x, int steps,
                              int tokens, int outputs, int inputs, const uint16_t* bias, uint16_t* y, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kWarps)), static_cast<unsigned>(tokens), 1};
  const MackoWeights weights = {values, deltas, row_starts, steps, outputs, inputs};
  return launch_early(half ? macko_rows<Half> : macko_rows<Bf16>, blocks, kWarps * kWarp, sizeof(uint16_t) * (inputs + kBeyond), stream, weights,
                      x, bias, y);
}
