// What the kernels of linear layers have before and behind them: the list of active inputs, and the sum of the parts of a product.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kListThreads = 1024;

struct ListShared {
  int counts[kListThreads / kWarp];
};

// Inputs with a magnitude above the threshold, in ascending order, so that sums do not depend on who came first. A block takes a token.
template <class Element>
XM_KERNEL(kListThreads) void list_active(const uint16_t* x, int inputs, float threshold, int* indices, float* values, int* counts) {
  ListShared& block = shared<ListShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * inputs;
  int listed = 0;
  for (int start = 0; start < inputs; start += kListThreads) {
    const int own = start + static_cast<int>(threadIdx.x);
    const float value = own < inputs ? value_of<Element>(x[row + own]) : 0.0f;
    const bool active = value > threshold || value < -threshold;
    const uint32_t votes = ballot(active);
    if (lane() == 0) block.counts[warp()] = popcount(votes);
    block_sync();
    int before = 0, all = 0;
    for (int w = 0; w < kListThreads / kWarp; ++w) {
      before += w < warp() ? block.counts[w] : 0;
      all += block.counts[w];
    }
    block_sync();
    if (active) {
      const int64_t place = row + listed + before + popcount(votes & ((1u << lane()) - 1));
      indices[place] = own;
      values[place] = value;
    }
    listed += all;
  }
  if (threadIdx.x == 0) counts[blockIdx.x] = listed;
}

// y = the sum of the parts, in their order, + bias.
template <class Element>
XM_KERNEL(256) void sum_parts(const float* parts, int count, int64_t part_size, const uint16_t* bias, int outputs, uint16_t* y) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= part_size) return;
  float sum = 0;
  for (int part = 0; part < count; ++part) sum += parts[part * part_size + place];
  if (bias) sum += value_of<Element>(bias[place % outputs]);
  y[place] = bits_of<Element>(sum);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// x [tokens, inputs]; indices and values [tokens, inputs], of which counts [tokens] are filled.
XM_API int xm_cuda_list_active(int half, const uint16_t* x, int tokens, int inputs, float threshold, int* indices, float* values, int* counts,
                               void* stream) {
  const dim3 blocks = {static_cast<unsigned>(tokens), 1, 1};
  return launch(half ? list_active<Half> : list_active<Bf16>, blocks, kListThreads, sizeof(ListShared), stream, x, inputs, threshold, indices,
                values, counts);
}

// parts [count, tokens, outputs], y [tokens, outputs], bias [outputs] or none.
XM_API int xm_cuda_sum_parts(int half, const float* parts, int count, int tokens, int outputs, const uint16_t* bias, uint16_t* y,
                             void* stream) {
  const int64_t size = static_cast<int64_t>(tokens) * outputs;
  const dim3 blocks = {static_cast<unsigned>(ceil_div<int64_t>(size, 256)), 1, 1};
  return launch(half ? sum_parts<Half> : sum_parts<Bf16>, blocks, 256, 0, stream, parts, count, size, bias, outputs, y);
}
