// SPDP's spMspV: active inputs × a bitmap by columns (formats/column_bitmap.py). What an inactive input would need is not read.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;  // rows and columns of a GroupTile
constexpr int kWarps = 8;

struct Column {
  HalfWord halves[2];
  float factor;
};

struct SpdpShared {
  Column columns[kWarps][kWarp];
  float sums[kWarps][kGroup];
};

// A block takes 64 rows and one part of the list of a token's active inputs; a warp 32 of them at a time: first each lane looks one up, so
// that 32 reads are under way together, then all lanes go through them with two rows each.
template <class Element>
XM_KERNEL(kWarps* kWarp)
void spdp_columns(const uint16_t* values, const uint64_t* bitmap, const int* group_offsets, const uint16_t* column_offsets, const int* indices,
                  const float* factors, const int* counts, int outputs, int inputs, float* parts) {
  SpdpShared& block = shared<SpdpShared>();
  const int token = blockIdx.z, part = blockIdx.y;
  const int64_t share = counts[token], first = share * part / gridDim.y, last = share * (part + 1) / gridDim.y;
  const int* index = indices + static_cast<int64_t>(token) * inputs;
  const float* factor = factors + static_cast<int64_t>(token) * inputs;
  const int across = ceil_div(inputs, kGroup);
  Column* own = block.columns[warp()];
  float low = 0, high = 0;
  for (int64_t start = first + warp() * kWarp; start < last; start += kWarps * kWarp) {
    const int found = static_cast<int>(last - start < kWarp ? last - start : kWarp);
    if (lane() < found) {
      const int input = index[start + lane()];
      const int group = static_cast<int>(blockIdx.x) * across + input / kGroup;
      const int64_t record = static_cast<int64_t>(group) * kGroup + input % kGroup;
      split_word(bitmap[record], group_offsets[group] + column_offsets[record], own[lane()].halves);
      own[lane()].factor = factor[start + lane()];
    }
    warp_sync();
    XM_UNROLL(8)
    for (int i = 0; i < found; ++i) {
      const Pair pair = two_numbers(own[i].halves[lane() / 16], values);
      low = fused(value_of<Element>(pair.low), own[i].factor, low);
      high = fused(value_of<Element>(pair.high), own[i].factor, high);
    }
    warp_sync();
  }
  block.sums[warp()][2 * lane()] = low;
  block.sums[warp()][2 * lane() + 1] = high;
  block_sync();
  const int row = static_cast<int>(blockIdx.x) * kGroup + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kGroup && row < outputs) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += block.sums[w][threadIdx.x];
    parts[(static_cast<int64_t>(part) * gridDim.z + token) * outputs + row] = sum;
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a ColumnBitmap [outputs, inputs]; the list as xm_cuda_list_active makes it; parts [count, tokens, outputs].
XM_API int xm_cuda_spdp_columns(int half, const uint16_t* values, const uint64_t* bitmap, const int* group_offsets,
                                const uint16_t* column_offsets, const int* indices, const float* factors, const int* counts, int tokens,
                                int outputs, int inputs, int parts_count, float* parts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kGroup)), static_cast<unsigned>(parts_count), static_cast<unsigned>(tokens)};
  return launch(half ? spdp_columns<Half> : spdp_columns<Bf16>, blocks, kWarps * kWarp, sizeof(SpdpShared), stream, values, bitmap,
                group_offsets, column_offsets, indices, factors, counts, outputs, inputs, parts);
}
