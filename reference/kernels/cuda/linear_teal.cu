// TEAL: a vector with few active inputs times a matrix that is stored column by column, so that a skipped input skips its bytes.
#include "linear_active.h"

namespace xmsim {
namespace {

constexpr int kAcross = 4;             // lanes beside each other, 8 outputs each
constexpr int kOutputs = 8 * kAcross;  // of a block, 64 bytes of a column: 4096 outputs are blocks for all multiprocessors
constexpr int kWarps = 16;
constexpr int kDeep = 4;                          // reads of a lane that are under way together
constexpr int kStep = kDeep * (kWarp / kAcross);  // active inputs that a warp takes at once

struct Input {
  uint32_t index;
  float value;
};

struct TealShared {
  Input inputs[kWarps][kRing + 1];
  float sums[kWarps][kOutputs];
};

// A block takes 32 outputs of a token. A warp lists the active ones of 128 inputs and takes 32 of its list at a time, what is left with the
// next; then it goes on to the inputs 16 × 128 further.
template <class Element>
XM_RESIDENT_KERNEL(kWarps* kWarp, 2)
void teal_columns(const uint16_t* columns, const uint16_t* x, float threshold, int outputs, int inputs, const uint16_t* bias, uint16_t* y) {
  TealShared& block = shared<TealShared>();
  let_next_start();
  wait_for_kernel_before();
  const int token = blockIdx.y, output = static_cast<int>(blockIdx.x) * kOutputs + lane() % kAcross * 8;
  x += static_cast<int64_t>(token) * inputs;
  Input* ring = block.inputs[warp()];
  // lanes beyond the last output read the one before for nothing
  const unsigned char* own = reinterpret_cast<const unsigned char*>(columns + (output < outputs ? output : outputs - 8));
  const uint32_t column_bytes = 2 * static_cast<uint32_t>(outputs);
  float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  const auto add_step = [&](uint32_t first, uint32_t count) {  // a step never wraps around the ring
    uint4 words[kDeep];
    float factors[kDeep];
    XM_UNROLL(4)
    for (int n = 0; n < kDeep; ++n) {
      const uint32_t place = n * (kWarp / kAcross) + lane() / kAcross;
      const Input input = place < count ? ring[first % kRing + place] : Input{0, 0};
      factors[n] = input.value;
      words[n] = place < count ? stream_16(own + static_cast<uint64_t>(input.index) * column_bytes) : uint4{0, 0, 0, 0};
    }
    XM_UNROLL(4)
    for (int n = 0; n < kDeep; ++n) add_eight<Element>(sums, words[n], factors[n]);
  };
  uint32_t listed = 0, taken = 0;
  for (int start = uniform_warp() * kListed; start < inputs; start += kWarps * kListed) {
    const int input = start + kLooked * lane();
    const uint2 pairs = input < inputs ? *reinterpret_cast<const uint2*>(x + input) : uint2{0, 0};
    listed = list_active<Element>(pairs, threshold, listed, [&](uint32_t place, int i, float value) {
      ring[place] = {static_cast<uint32_t>(input + i), value};
    });
    warp_sync();
    for (; listed - taken >= kStep; taken += kStep) add_step(taken, kStep);
    warp_sync();
  }
  if (taken < listed) add_step(taken, listed - taken);
  XM_UNROLL(8)
  for (int n = 0; n < 8; ++n) {
    const float sum = sum_over_lanes(sums[n], kAcross);
    if (lane() < kAcross) block.sums[warp()][8 * lane() + n] = sum;
  }
  block_sync();
  const int row = static_cast<int>(blockIdx.x) * kOutputs + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kOutputs && row < outputs) {
    float sum = 0;
    XM_UNROLL(16)
    for (int part = 0; part < kWarps; ++part) sum += block.sums[part][threadIdx.x];
    put<Element>(y, bias, token, outputs, row, sum);
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// columns [inputs, outputs], both multiples of 8; x [tokens, inputs], threshold at least 0; bias [outputs] or none; y [tokens, outputs].
XM_API int xm_cuda_teal_columns(int half, const uint16_t* columns, const uint16_t* x, float threshold, int tokens, int outputs, int inputs,
                                const uint16_t* bias, uint16_t* y, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kOutputs)), static_cast<unsigned>(tokens), 1};
  return launch_early(half ? teal_columns<Half> : teal_columns<Bf16>, blocks, kWarps * kWarp, sizeof(TealShared), stream, columns, x, threshold,
                      outputs, inputs, bias, y);
}
