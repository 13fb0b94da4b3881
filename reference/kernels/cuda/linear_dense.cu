// The dense baseline of ours: one vector times a matrix, read once, 16 bytes at a time.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kWarps = 8;
constexpr int kNumbers = 8;  // of 16 bytes
constexpr int kDeep = 4;     // reads of a lane that are under way together: 16 KB a block, to cover memory's latency
constexpr int kStep = kWarp * kNumbers;

// A warp takes a row of the matrix.
template <class Element>
XM_KERNEL(kWarps* kWarp)
void dense_rows(const uint16_t* weights, const uint16_t* x, int outputs, int inputs, const uint16_t* bias, uint16_t* y) {
  const int row = static_cast<int>(blockIdx.x) * kWarps + warp();
  const uint16_t* own = weights + static_cast<int64_t>(row) * inputs;
  let_next_start();
  if (row < outputs) prefetch_by_lanes(own, sizeof(uint16_t) * (inputs < kDeep * kStep ? inputs : kDeep * kStep));
  wait_for_kernel_before();
  if (row >= outputs) return;
  const uint16_t* vector = x + static_cast<int64_t>(blockIdx.y) * inputs;
  float sum = 0;
  for (int start = lane() * kNumbers; start < inputs; start += kDeep * kStep) {
    uint4 words[kDeep];
    XM_UNROLL(4)
    for (int i = 0; i < kDeep; ++i) words[i] = start + i * kStep < inputs ? stream_16(own + start + i * kStep) : uint4{0, 0, 0, 0};
    XM_UNROLL(4)
    for (int i = 0; i < kDeep; ++i) {
      if (start + i * kStep >= inputs) break;
      const uint4 others = *reinterpret_cast<const uint4*>(vector + start + i * kStep);
      const uint32_t a[4] = {words[i].x, words[i].y, words[i].z, words[i].w}, b[4] = {others.x, others.y, others.z, others.w};
      XM_UNROLL(4)
      for (int n = 0; n < 4; ++n) {
        sum = fused(low_of<Element>(a[n]), low_of<Element>(b[n]), sum);
        sum = fused(high_of<Element>(a[n]), high_of<Element>(b[n]), sum);
      }
    }
  }
  sum = lanes_sum(sum);
  if (lane() == 0) put<Element>(y, bias, static_cast<int>(blockIdx.y), outputs, row, sum);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// weights [outputs, inputs], x [tokens, inputs], bias [outputs] or none, y [tokens, outputs]; inputs is a multiple of 8.
XM_API int xm_cuda_dense_rows(int half, const uint16_t* weights, const uint16_t* x, int tokens, int outputs, int inputs,
                              const uint16_t* bias, uint16_t* y, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kWarps)), static_cast<unsigned>(tokens), 1};
  return launch_early(half ? dense_rows<Half> : dense_rows<Bf16>, blocks, kWarps * kWarp, 0, stream, weights, x, outputs,
                      inputs, bias, y);
}
