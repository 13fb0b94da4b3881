// TEAL: a vector with few active inputs times a matrix that is stored column by column, so that a skipped input skips its bytes.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kAcross = 64;  // threads beside each other, 8 outputs each: 1 KB of a column at once
constexpr int kRows = 4;     // active inputs that a block takes at once
constexpr int kOutputs = 8 * kAcross;
constexpr int kDeep = 4;  // reads of a thread that are under way together

struct TealShared {
  float sums[kRows][kOutputs];
};

// A block takes 512 outputs and one part of the list of a token's active inputs.
template <class Element>
XM_KERNEL(kAcross* kRows)
void teal_columns(const uint16_t* columns, const int* indices, const float* values, const int* counts, int outputs, int inputs, float* parts) {
  TealShared& block = shared<TealShared>();
  const int token = blockIdx.z, part = blockIdx.y, count = counts[token];
  const int64_t share = count, last = share * (part + 1) / gridDim.y;
  const int* index = indices + static_cast<int64_t>(token) * inputs;
  const float* value = values + static_cast<int64_t>(token) * inputs;
  const int own = threadIdx.x % kAcross, row = threadIdx.x / kAcross;
  const int output = static_cast<int>(blockIdx.x) * kOutputs + 8 * own;
  float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (output < outputs) {
    for (int64_t i = share * part / gridDim.y + row; i < last; i += kDeep * kRows) {
      uint4 words[kDeep];
      float factors[kDeep];
      XM_UNROLL(4)
      for (int n = 0; n < kDeep; ++n) {
        const int64_t place = i + n * kRows;
        const bool there = place < last;
        factors[n] = there ? value[place] : 0.0f;
        words[n] = there ? stream_16(columns + static_cast<int64_t>(index[place]) * outputs + output) : uint4{0, 0, 0, 0};
      }
      XM_UNROLL(4)
      for (int n = 0; n < kDeep; ++n) add_eight<Element>(sums, words[n], factors[n]);
    }
  }
  XM_UNROLL(8)
  for (int n = 0; n < 8; ++n) block.sums[row][8 * own + n] = sums[n];
  block_sync();
  const int64_t out = (static_cast<int64_t>(part) * gridDim.z + token) * outputs;
  for (int i = threadIdx.x; i < kOutputs; i += kAcross * kRows) {
    const int place = static_cast<int>(blockIdx.x) * kOutputs + i;
    if (place < outputs) parts[out + place] = block.sums[0][i] + block.sums[1][i] + block.sums[2][i] + block.sums[3][i];
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// columns [inputs, outputs]; the list as xm_cuda_list_active makes it; parts [count, tokens, outputs]; outputs is a multiple of 8.
XM_API int xm_cuda_teal_columns(int half, const uint16_t* columns, const int* indices, const float* values, const int* counts, int tokens,
                                int outputs, int inputs, int parts_count, float* parts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kOutputs)), static_cast<unsigned>(parts_count), static_cast<unsigned>(tokens)};
  return launch(half ? teal_columns<Half> : teal_columns<Bf16>, blocks, kAcross * kRows, sizeof(TealShared), stream, columns, indices, values,
                counts, outputs, inputs, parts);
}
