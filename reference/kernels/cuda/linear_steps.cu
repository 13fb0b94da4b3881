// What the kernels of linear layers have before and behind them: the list of active inputs, and the sum of the parts of a product.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kListThreads = 1024;
constexpr int kListNumbers = 8;  // of a thread at once, 16 bytes: two steps for the 14336 inputs of Llama-3-8B's longest layer

struct ListShared {
  int counts[kListThreads / kWarp];
};

// Inputs with a magnitude that is not at or below the threshold, NaN among them, in ascending order, so that sums do not depend on who came
// first. A block takes a token.
template <class Element>
XM_KERNEL(kListThreads) void list_active(const uint16_t* x, int inputs, float threshold, int* indices, float* values, int* counts) {
  ListShared& block = shared<ListShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * inputs;
  int listed = 0;
  for (int start = 0; start < inputs; start += kListThreads * kListNumbers) {
    const int own = start + kListNumbers * static_cast<int>(threadIdx.x);
    const uint4 words = own < inputs ? *reinterpret_cast<const uint4*>(x + row + own) : uint4{0, 0, 0, 0};
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
    uint32_t active = 0;
    XM_UNROLL(8)
    for (int n = 0; n < kListNumbers; ++n) {
      const float value = n % 2 ? high_of<Element>(pairs[n / 2]) : low_of<Element>(pairs[n / 2]);
      active |= static_cast<uint32_t>(!(value <= threshold && value >= -threshold)) << n;
    }
    const int count = popcount(active);
    int before = count;  // over the lanes up to this one
    XM_UNROLL(5)
    for (int by = 1; by < kWarp; by *= 2) {
      const int other = shfl_up(before, by);
      before += lane() >= by ? other : 0;
    }
    if (lane() == kWarp - 1) block.counts[warp()] = before;
    block_sync();
    int64_t place = row + listed + before - count;
    for (int w = 0; w < kListThreads / kWarp; ++w) {
      place += w < warp() ? block.counts[w] : 0;
      listed += block.counts[w];
    }
    block_sync();
    XM_UNROLL(8)
    for (int n = 0; n < kListNumbers; ++n) {
      if (!(active >> n & 1)) continue;
      indices[place] = own + n;
      values[place] = n % 2 ? high_of<Element>(pairs[n / 2]) : low_of<Element>(pairs[n / 2]);
      ++place;
    }
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

// x [tokens, inputs], inputs a multiple of 8; indices and values [tokens, inputs], of which counts [tokens] are filled.
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
