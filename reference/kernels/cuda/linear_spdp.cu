// SPDP's spMspV: active inputs × a bitmap by columns (formats/column_bitmap.py). What an inactive input would need is not read.
#include "linear_active.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;  // rows and columns of a GroupTile
constexpr int kPiece = 16;  // rows: a block has as many pieces as its neighbours, or one less
constexpr int kMostRows = 2 * kPiece;  // of a pass, half of a word
constexpr int kWarps = 16;
constexpr int kDeep = 16;  // columns of a lane that are read together: a multiprocessor has no more than 16 warps

constexpr int kAhead = 4;  // rounds of a warp whose words are prefetched

// An active column in 16 bytes, that are read at once: where its values start, the bits of its rows, and its input.
XM_DEVICE uint4 column_of(const uint16_t* values, uint32_t bits, float factor) {
  const uint64_t place = reinterpret_cast<uint64_t>(values);
  return {static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), bits, bits_of_float(factor)};
}

XM_DEVICE const uint16_t* pointer_of(const uint4& column) {
  return reinterpret_cast<const uint16_t*>(static_cast<uint64_t>(column.y) << 32 | column.x);
}

struct SpdpShared {
  uint4 columns[kWarps][kRing + 1];
  float sums[2][kWarps][kMostRows];  // of a pass, and of the one before, which may still be read
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

// What look_ahead reads of the weights for the first rounds of a warp.
XM_DEVICE void prefetch_ahead(const SpdpWeights& weights, uint32_t groups) {
  const int columns = ceil_div(weights.inputs, kGroup) * kGroup;
  for (int start = uniform_warp() * kListed, round = 0; start < columns && round < kAhead; start += kWarps * kListed, ++round) {
    const int count = columns - start < kListed ? columns - start : kListed;
    const uint32_t column = groups * kGroup + start;
    prefetch_by_lanes(weights.words + column / 2, count * sizeof(uint64_t));
    prefetch_by_lanes(weights.column_offsets + column / kLooked, count * sizeof(uint16_t));
    prefetch_by_lanes(weights.group_offsets + column / kGroup, count / kGroup * sizeof(int));
  }
}

// Adds the columns of a step, so many of a lane's, to the sums of its two rows. Two numbers are read whatever the bits are, which then say which
// one belongs to which row: there are two more behind the last.
template <class Element, int kRows, int kColumns>
XM_DEVICE void add_step(float (&sums)[2], const uint4* step) {
  constexpr int kAcross = kRows / 2;  // lanes beside each other have the rows of a column
  const uint32_t low = 1u << 2 * (lane() % kAcross);
  step += lane() / kAcross;
  uint32_t first[kColumns], second[kColumns], bits[kColumns];
  float factors[kColumns];
  XM_UNROLL(16)
  for (int n = 0; n < kColumns; ++n) {
    const uint4 column = step[kWarp / kAcross * n];
    factors[n] = float_of_bits(column.w);
    bits[n] = column.z;
    const uint16_t* place = pointer_of(column) + static_cast<uint32_t>(popcount(column.z & (low - 1)));
    first[n] = load_16(place);
    second[n] = load_16(place + 1);
  }
  XM_UNROLL(16)
  for (int n = 0; n < kColumns; ++n) {
    const uint32_t upper = bits[n] & low ? second[n] : first[n];
    if (bits[n] & low) sums[0] = fused(low_of<Element>(first[n]), factors[n], sums[0]);
    if (bits[n] & 2 * low) sums[1] = fused(low_of<Element>(upper), factors[n], sums[1]);
  }
}

// A pass takes 16 or 32 rows. A warp reads the words of 128 columns, lists the active ones and goes through its list a step at a time, what is
// left with the next, while the words of the columns 16 × 128 further come, and at last those of the next pass.
template <class Element, int kRows>
XM_DEVICE void add_rows(const SpdpWeights& weights, const uint16_t* x, float threshold, int piece, int groups, int next_groups, Ahead& ahead,
                        uint4* ring, float* results) {
  constexpr uint32_t kStep = kDeep * 2 * kWarp / kRows;  // active columns that a warp takes at once
  const int shift = piece % (kGroup / kPiece) * kPiece;  // of the rows in their words
  const uint32_t upper = 0u - shift / 32;                // all bits if they are in the upper half
  const uint32_t below = (1u << shift % 32) - 1;
  float sums[2] = {0, 0};
  uint32_t listed = 0, taken = 0;
  for (int start = uniform_warp() * kListed; start < weights.inputs;) {
    listed = list_active<Element>(ahead.pairs, threshold, listed, [&](uint32_t place, int i, float value) {
      const uint4& two = ahead.words[i / 2];
      const uint32_t halves[2] = {i % 2 ? two.z : two.x, i % 2 ? two.w : two.y};
      const uint32_t half = halves[0] ^ ((halves[0] ^ halves[1]) & upper);
      const uint32_t offset = (i / 2 ? ahead.starts.y : ahead.starts.x) >> 16 * (i % 2) & 0xffff;
      uint32_t first = ahead.first + offset + popcount(halves[0] & upper);
      if constexpr (kRows == kPiece) first += popcount(half & below);
      ring[place] = column_of(weights.values + first, kRows == kPiece ? half >> shift % 32 & 0xffff : half, value);
    });
    start += kWarps * kListed;
    const bool more = start < weights.inputs;
    ahead = look_ahead(weights, x, more ? groups : next_groups, (more ? start : uniform_warp() * kListed) + kLooked * lane());
    warp_sync();
    for (; listed - taken >= kStep; taken += kStep) add_step<Element, kRows, kDeep>(sums, ring + taken % kRing);  // never around its end
    warp_sync();
  }
  if (taken < listed) {  // the last, whole or half, with columns of no weights behind them
    for (uint32_t place = listed + lane(); place < taken + kStep; place += kWarp) ring[place % kRing] = column_of(weights.values, 0, 0);
    warp_sync();
    if (listed - taken > kStep / 2) {
      add_step<Element, kRows, kDeep>(sums, ring + taken % kRing);
    } else {
      add_step<Element, kRows, kDeep / 2>(sums, ring + taken % kRing);
    }
    warp_sync();
  }
  XM_UNROLL(2)
  for (int n = 0; n < 2; ++n) {
    const float sum = sum_over_lanes(sums[n], kRows / 2);
    if (lane() < kRows / 2) results[2 * lane() + n] = sum;
  }
}

// A block takes so many pieces of 16 rows of a token, two at once where they are halves of the same half word.
template <class Element>
XM_RESIDENT_KERNEL(kWarps* kWarp, 1)
void spdp_columns(SpdpWeights weights, int pieces, const uint16_t* x, float threshold, const uint16_t* bias, uint16_t* y) {
  SpdpShared& block = shared<SpdpShared>();
  uint4* ring = block.columns[warp()];
  const int token = blockIdx.y, across = ceil_div(weights.inputs, kGroup);
  x += static_cast<int64_t>(token) * weights.inputs;
  int piece = static_cast<int>(blockIdx.x) * pieces;
  const int last = piece + pieces, all = ceil_div(weights.outputs, kPiece), end = last < all ? last : all;
  const auto groups_of = [&](int own) { return own / (kGroup / kPiece) * across; };
  let_next_start();
  prefetch_ahead(weights, groups_of(piece));
  wait_for_kernel_before();
  Ahead ahead = look_ahead(weights, x, groups_of(piece), uniform_warp() * kListed + kLooked * lane());
  for (int pass = 0; piece < end; ++pass) {
    const bool two = piece % 2 == 0 && piece + 1 < end;
    const int next = piece + 1 + two, following = next < end ? next : piece;
    float (&sums)[kWarps][kMostRows] = block.sums[pass % 2];
    if (two) {
      add_rows<Element, 2 * kPiece>(weights, x, threshold, piece, groups_of(piece), groups_of(following), ahead, ring, sums[warp()]);
    } else {
      add_rows<Element, kPiece>(weights, x, threshold, piece, groups_of(piece), groups_of(following), ahead, ring, sums[warp()]);
    }
    block_sync();
    const int own = threadIdx.x, row = piece * kPiece + own;
    if (own < (1 + two) * kPiece && row < weights.outputs) {
      float sum = 0;
      XM_UNROLL(16)
      for (int part = 0; part < kWarps; ++part) sum += sums[part][own];
      put<Element>(y, bias, token, weights.outputs, row, sum);
    }
    piece = next;
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a GpuColumnBitmap [outputs, inputs]; x [tokens, inputs], inputs a multiple of 8, threshold at least 0; so many pieces of 16 rows
// for a block; bias [outputs] or none; y [tokens, outputs].
XM_API int xm_cuda_spdp_columns(int half, const uint16_t* values, const uint4* words, const int* group_offsets, const uint2* column_offsets,
                                const uint16_t* x, float threshold, int pieces, int tokens, int outputs, int inputs, const uint16_t* bias,
                                uint16_t* y, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(ceil_div(outputs, kPiece), pieces)), static_cast<unsigned>(tokens), 1};
  const SpdpWeights weights = {values, words, group_offsets, column_offsets, outputs, inputs};
  return launch_early(half ? spdp_columns<Half> : spdp_columns<Bf16>, blocks, kWarps * kWarp, sizeof(SpdpShared), stream, weights, pieces, x,
                      threshold, bias, y);
}
