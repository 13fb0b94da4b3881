// SPDP's spMspV: active inputs × a bitmap by columns (formats/column_bitmap.py). What an inactive input would need is not read.
#include "linear_active.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;  // rows and columns of a GroupTile
constexpr int kRows = 32;   // of a block, half of a word: 4096 outputs are blocks for all multiprocessors
constexpr int kWarps = 16;
constexpr int kDeep = 16;         // columns of a half warp that are read together: 4096 outputs leave 16 warps to a multiprocessor
constexpr int kStep = 2 * kDeep;  // active columns that a warp takes at once

// An active column in 16 bytes, that are read at once: where its values start, half of its word, and its input.
XM_DEVICE uint4 column_of(const uint16_t* values, uint32_t bits, float factor) {
  const uint64_t place = reinterpret_cast<uint64_t>(values);
  return {static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), bits, bits_of_float(factor)};
}

XM_DEVICE const uint16_t* pointer_of(const uint4& column) {
  return reinterpret_cast<const uint16_t*>(static_cast<uint64_t>(column.y) << 32 | column.x);
}

struct SpdpShared {
  uint4 columns[kWarps][kRing + 1];
  float sums[kWarps][kRows];
};

struct SpdpWeights {
  const uint16_t* values;
  const uint4* words;  // two columns each
  const int* group_offsets;
  const uint2* column_offsets;  // four columns each
  int outputs, inputs;
};

// What a lane reads of four columns before it is known which of them are active.
struct Ahead {
  uint2 pairs;  // the inputs
  uint4 words[2];
  uint2 starts;
  uint32_t first;  // of the GroupTile's values
};

XM_DEVICE Ahead look_ahead(const SpdpWeights& weights, const uint16_t* x, uint32_t groups, int input) {
  const bool inside = input < weights.inputs;
  const uint32_t there = inside ? input : 0;  // beyond the last: zeros with any weights
  const uint32_t four = groups * (kGroup / kLooked) + there / kLooked;
  const uint2 pairs = *reinterpret_cast<const uint2*>(x + there);
  return {{inside ? pairs.x : 0, inside ? pairs.y : 0}, {weights.words[2 * four], weights.words[2 * four + 1]}, weights.column_offsets[four],
          static_cast<uint32_t>(weights.group_offsets[groups + there / kGroup])};
}

// A block takes 32 rows of a token. A warp reads the words of 128 columns, lists the active ones and goes through its list 32 at a time, what
// is left with the next, while the words of the columns 16 × 128 further come. Half of the warp has a column, two rows a lane.
template <class Element>
XM_RESIDENT_KERNEL(kWarps* kWarp, 1)
void spdp_columns(SpdpWeights weights, const uint16_t* x, float threshold, const uint16_t* bias, uint16_t* y) {
  SpdpShared& block = shared<SpdpShared>();
  const int token = blockIdx.y, groups = static_cast<int>(blockIdx.x) / 2 * ceil_div(weights.inputs, kGroup);
  const uint32_t high = 0u - blockIdx.x % 2;  // all bits if the rows are the word's upper half
  x += static_cast<int64_t>(token) * weights.inputs;
  uint4* ring = block.columns[warp()];
  const uint32_t low = 1u << 2 * (lane() % 16), below = low - 1;
  float sums[2] = {0, 0};
  const auto add_step = [&](uint32_t first) {  // a step never wraps around the ring
    const uint4* step = ring + first % kRing + lane() / 16;
    uint16_t lower[kDeep], upper[kDeep];
    float factors[kDeep];
    XM_UNROLL(16)
    for (int n = 0; n < kDeep; ++n) {
      const uint4 column = step[2 * n];
      factors[n] = float_of_bits(column.w);
      const uint16_t* place = pointer_of(column) + static_cast<uint32_t>(popcount(column.z & below));
      const bool first = column.z & low;
      lower[n] = load_16_where(first, place, 0);
      upper[n] = load_16_where(column.z & (2 * low), place + static_cast<uint32_t>(first), 0);
    }
    XM_UNROLL(16)
    for (int n = 0; n < kDeep; ++n) {
      sums[0] = fused(value_of<Element>(lower[n]), factors[n], sums[0]);
      sums[1] = fused(value_of<Element>(upper[n]), factors[n], sums[1]);
    }
  };
  uint32_t listed = 0, taken = 0;
  int start = uniform_warp() * kListed;
  Ahead ahead = look_ahead(weights, x, groups, start + kLooked * lane());
  while (start < weights.inputs) {
    listed = list_active<Element>(ahead.pairs, threshold, listed, [&](uint32_t place, int i, float value) {
      const uint4& two = ahead.words[i / 2];
      const uint32_t halves[2] = {i % 2 ? two.z : two.x, i % 2 ? two.w : two.y};
      const uint32_t offset = (i / 2 ? ahead.starts.y : ahead.starts.x) >> 16 * (i % 2) & 0xffff;
      const uint32_t first = ahead.first + offset + popcount(halves[0] & high);
      ring[place] = column_of(weights.values + first, halves[0] ^ ((halves[0] ^ halves[1]) & high), value);
    });
    start += kWarps * kListed;
    ahead = look_ahead(weights, x, groups, start + kLooked * lane());
    warp_sync();
    for (; listed - taken >= kStep; taken += kStep) add_step(taken);
    warp_sync();
  }
  if (taken < listed) {  // the last, with columns of no weights behind them
    const uint32_t place = listed + lane();
    if (place < taken + kStep) ring[place % kRing] = {0, 0, 0, 0};
    warp_sync();
    add_step(taken);
  }
  XM_UNROLL(2)
  for (int n = 0; n < 2; ++n) {
    const float sum = sum_over_lanes(sums[n], kRows / 2);
    if (lane() < kRows / 2) block.sums[warp()][2 * lane() + n] = sum;
  }
  block_sync();
  const int row = static_cast<int>(blockIdx.x) * kRows + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kRows && row < weights.outputs) {
    float sum = 0;
    XM_UNROLL(16)
    for (int part = 0; part < kWarps; ++part) sum += block.sums[part][threadIdx.x];
    put<Element>(y, bias, token, weights.outputs, row, sum);
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a ColumnBitmap [outputs, inputs]; x [tokens, inputs], inputs a multiple of 8, threshold at least 0; bias [outputs] or none;
// y [tokens, outputs].
XM_API int xm_cuda_spdp_columns(int half, const uint16_t* values, const uint4* words, const int* group_offsets, const uint2* column_offsets,
                                const uint16_t* x, float threshold, int tokens, int outputs, int inputs, const uint16_t* bias, uint16_t* y,
                                void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(outputs, kRows)), static_cast<unsigned>(tokens), 1};
  const SpdpWeights weights = {values, words, group_offsets, column_offsets, outputs, inputs};
  return launch(half ? spdp_columns<Half> : spdp_columns<Bf16>, blocks, kWarps * kWarp, sizeof(SpdpShared), stream, weights, x, threshold, bias,
                y);
}
