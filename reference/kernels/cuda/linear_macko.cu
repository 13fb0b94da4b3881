// One vector times weights as MACKO stores them (formats/macko.py): lanes go from one stored weight to the next, so that zeros cost nothing.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kWarps = 8;
constexpr int kNumbers = 8;  // of a lane at once: 16 bytes of values, 4 of distances

// A warp takes a row, and then one further on. The vector lies in shared memory as it came, since lanes read it at random.
template <class Element>
XM_KERNEL(kWarps* kWarp)
void macko_rows(const uint16_t* values, const uint32_t* deltas, const int* row_starts, const uint16_t* x, int outputs, int inputs, float* y) {
  uint16_t* vector = &shared<uint16_t>();
  const uint16_t* given = x + static_cast<int64_t>(blockIdx.y) * inputs;
  for (int i = threadIdx.x; i < inputs; i += kWarps * kWarp) vector[i] = given[i];
  block_sync();
  for (int row = static_cast<int>(blockIdx.x) * kWarps + warp(); row < outputs; row += static_cast<int>(gridDim.x) * kWarps) {
    const int first = row_starts[row], last = row_starts[row + 1];
    int column = -1;  // of the weight before those of this step
    float sum = 0;
    for (int start = first / kNumbers * kNumbers; start < last; start += kWarp * kNumbers) {
      const int own = start + kNumbers * lane();
      const bool there = own < last;
      const uint4 words = there ? stream_16(values + own) : uint4{0, 0, 0, 0};
      const uint32_t gaps = there ? deltas[own / kNumbers] : 0;
      // a step of 0 for what belongs to the rows before and after
      int steps[kNumbers], all = 0;
      XM_UNROLL(8)
      for (int i = 0; i < kNumbers; ++i) {
        steps[i] = own + i >= first && own + i < last ? 1 + static_cast<int>(gaps >> 4 * i & 15) : 0;
        all += steps[i];
      }
      int before = all;  // over the lanes up to this one, and then without it
      XM_UNROLL(5)
      for (int by = 1; by < kWarp; by *= 2) {
        const int other = shfl_up(before, by);
        before += lane() >= by ? other : 0;
      }
      const int end = shfl(before, kWarp - 1);
      int place = column + before - all;
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
      XM_UNROLL(8)
      for (int i = 0; i < kNumbers; ++i) {
        place += steps[i];
        const float weight = i % 2 ? high_of<Element>(pairs[i / 2]) : low_of<Element>(pairs[i / 2]);
        if (steps[i]) sum = fused(weight, value_of<Element>(vector[place]), sum);
      }
      column += end;
    }
    sum = lanes_sum(sum);
    if (lane() == 0) y[static_cast<int64_t>(blockIdx.y) * outputs + row] = sum;
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a Macko [outputs, inputs], x [tokens, inputs], y float32 [tokens, outputs]; at most `blocks` blocks a token.
XM_API int xm_cuda_macko_rows(int half, const uint16_t* values, const uint32_t* deltas, const int* row_starts, const uint16_t* x, int tokens,
                              int outputs, int inputs, int blocks, float* y, void* stream) {
  const int rows = ceil_div(outputs, kWarps);
  const dim3 grid = {static_cast<unsigned>(rows < blocks ? rows : blocks), static_cast<unsigned>(tokens), 1};
  return launch(half ? macko_rows<Half> : macko_rows<Bf16>, grid, kWarps * kWarp, sizeof(uint16_t) * inputs, stream, values, deltas, row_starts,
                x, outputs, inputs, y);
}
