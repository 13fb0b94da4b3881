// Scores as integers of 16 bits, two a word: half the traffic to shared memory, and two lists of sixteen are sorted at once. For products
// whose magnitudes stay below 2^15 and factors below 32, without slopes: the order of products is that of scores.
#pragma once

#include "mask_select.h"

namespace xmsim {

// A score is its product plus 2^15; 0 where a row does not see. Word 4e + t of a row has keys 8e + t and 8e + t + 4.
constexpr int32_t kPackedZero = 1 << 15;
constexpr int kRowWords = kTileKeys / 2;

template <int kDim>
struct PackedTile {
  alignas(16) int8_t keys[2][kTileKeys * kDim];
  alignas(16) uint32_t scores[kRows * kRowWords];
};

// A row of packed scores of one thread. Fours of words are turned by the row: 8 rows read, or write, the same four in different banks.
struct PackedRow {
  uint32_t* first;
  int turn;
  float factor;  // of the products
};

XM_DEVICE PackedRow packed_row(uint32_t* scores, int row, float factor) { return {scores + row * kRowWords, row % 8, factor}; }

XM_DEVICE uint32_t& word_at(const PackedRow& row, int word) { return row.first[((word / 4) ^ row.turn) * 4 + word % 4]; }

XM_DEVICE int word_of_key(int key) { return key / 8 * 4 + key % 4; }
XM_DEVICE int shift_of_key(int key) { return key / 4 % 2 * 16; }

template <int kBands, int kDim>
XM_DEVICE void score_tile(const CodeScores&, const Rows&, int64_t, const Queries<kDim, kBands>& queries, const int8_t* keys,
                          PackedTile<kDim>& block) {
  const int column = lane() % 8, key = column % 2 * 4 + column / 2;  // neighbours in the sums share a word
  XM_UNROLL(4)
  for (int eight = 0; eight < kTileKeys / 8; ++eight) {
    int32_t sums[kBands][4];
    multiply_eight(queries, keys, 8 * eight + key, kPackedZero, sums);
    XM_UNROLL(kBands)
    for (int band = 0; band < kBands; ++band) {
      XM_UNROLL(2)
      for (int half = 0; half < 2; ++half) {
        const PackedRow row = packed_row(block.scores, 16 * (kBands * warp() + band) + sum_row(lane(), 2 * half), 0);
        const uint32_t low = static_cast<uint32_t>(sums[band][2 * half]), high = static_cast<uint32_t>(sums[band][2 * half + 1]);
        word_at(row, 4 * eight + lane() % 4) = (low & 0xffffu) | high << 16;
      }
    }
  }
}

XM_DEVICE void hide_keys(const PackedRow& row, int64_t tile, const KeyRange& allowed) {
  const int64_t first = tile * kTileKeys;
  if (allowed.first <= first && first + kTileKeys <= allowed.end) return;
  for (int key = 0; key < kTileKeys; ++key)
    if (first + key < allowed.first || first + key >= allowed.end) word_at(row, word_of_key(key)) &= 0xffff0000u >> shift_of_key(key);
}

// 32 scores of a row.
struct PackedSixteen {
  uint32_t of[kSixteen];
};

XM_DEVICE PackedSixteen sixteen_words(const PackedRow& row, int key) {
  PackedSixteen found;
  XM_UNROLL(4)
  for (int i = 0; i < kSixteen; i += 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(&word_at(row, key / 2 + i));
    found.of[i] = words.x;
    found.of[i + 1] = words.y;
    found.of[i + 2] = words.z;
    found.of[i + 3] = words.w;
  }
  return found;
}

XM_DEVICE float packed_score(const PackedRow& row, uint32_t score) {
  return times(static_cast<float>(static_cast<int32_t>(score) - kPackedZero), row.factor);
}

// 2^23 plus a number of 16 bits, as a float.
XM_DEVICE float float_of_low(uint32_t word) { return float_of_bits(0x4b000000u | (word & 0xffffu)); }
XM_DEVICE float float_of_high(uint32_t word) { return float_of_bits(upper_halves(word, 0x4b000000u)); }
constexpr float kFloatOfZero = 8388608.0f;

// As sum_of of scores in float32; each 32 count from their own top. A power's exponent is one fused step from 2^23 plus the product, less what
// that step makes of the top; what its rounding leaves is the same for all 32 and taken off their sum.
XM_DEVICE PartSum sum_of(const PackedRow& row, int key, int count, int seen) {
  PartSum all;
  const float factor = times(row.factor, kLog2OfE);
  for (int first = 0; first < count; first += 2 * kSixteen) {
    const PackedSixteen part = sixteen_words(row, key + first);
    uint32_t tops = 0, leasts = ~0u, there = 2 * kSixteen;
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) tops = max_u16x2(tops, part.of[i]);
    const uint32_t top = (tops & 0xffffu) > tops >> 16 ? tops & 0xffffu : tops >> 16;
    if (!top) continue;
    const float base = -times(float_of_low(top), factor), rest = fused(float_of_low(top), factor, base);
    float sums[4] = {0, 0, 0, 0};
    if (seen == count) {
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) {
        leasts = min_u16x2(leasts, part.of[i]);
        sums[i % 2] += exp2_fast(fused(float_of_low(part.of[i]), factor, base));
        sums[i % 2 + 2] += exp2_fast(fused(float_of_high(part.of[i]), factor, base));
      }
    } else {
      there = 0;
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) {
        const bool low = part.of[i] & 0xffffu, high = part.of[i] >> 16;
        there += low + high;
        leasts = min_u16x2(leasts, part.of[i] | (low ? 0 : 0xffffu) | (high ? 0 : 0xffff0000u));
        sums[i % 2] += low ? exp2_fast(fused(float_of_low(part.of[i]), factor, base)) : 0.0f;
        sums[i % 2 + 2] += high ? exp2_fast(fused(float_of_high(part.of[i]), factor, base)) : 0.0f;
      }
    }
    const uint32_t least = (leasts & 0xffffu) < leasts >> 16 ? leasts & 0xffffu : leasts >> 16;
    const float sum = times((sums[0] + sums[1]) + (sums[2] + sums[3]), exp2_fast(-rest));
    const float part_top = packed_score(row, top), larger = fmaxf(part_top, all.top);
    const float whole = least == top ? static_cast<float>(there) : sum;
    all.sum = times(all.sum, exponential(all.top - larger)) + times(whole, exponential(part_top - larger));
    all.top = larger;
    all.least = fminf(all.least, packed_score(row, least));
  }
  return all;
}

// Sums of such rows that lie closer to a threshold are decided again. A difference of products is exact; times the factor and log2 e, both
// rounded, down to 69 it is off by 7.6e-6, the exponential and a sum of 32 by 2.1e-6, of which both sides of a comparison have their share. The
// reference's scores are rounded before their difference: half a bit of each score, of both sides.
XM_DEVICE double packed_margin(const RowSum& row) {
  const float top = fabsf(row.top);
  return kMargin + 2.4e-7 * fminf(fmaxf(top, fabsf(row.least)), top + 69);
}

// A block of a row: 32 or 64 scores.
struct PackedBlock {
  PackedRow row;
  int key, count;
};

XM_DEVICE PackedBlock block_of(const PackedRow& row, int key, int count) { return {row, key, count}; }

XM_DEVICE uint32_t score_in(const PackedBlock& block, int number) {
  const int key = block.key + number;
  return word_at(block.row, word_of_key(key)) >> shift_of_key(key) & 0xffffu;
}

// The sixteen largest of a block, the largest first, in either half of the words.
XM_DEVICE PackedSixteen sixteen_largest(const PackedBlock& block) {
  PackedSixteen largest = sixteen_words(block.row, block.key), others;
  sort_sixteen(largest.of);
  if (block.count > 2 * kSixteen) {
    others = sixteen_words(block.row, block.key + 2 * kSixteen);
    sort_sixteen(others.of);
    merge_sixteen(largest.of, others.of);
  }
  XM_UNROLL(16)
  for (int i = 0; i < kSixteen; ++i) others.of[i] = largest.of[i] << 16 | largest.of[i] >> 16;
  merge_sixteen(largest.of, others.of);
  return largest;
}

XM_DEVICE uint32_t cut_in(const PackedSixteen& largest, int kept) { return entry(largest.of, kept - 1) & 0xffffu; }

// Which scores of a block reach the limit, and are seen.
XM_DEVICE uint64_t at_least(const PackedBlock& block, uint32_t limit) {
  const uint32_t below = limit ? (limit - 1) * 0x10001u : 0;
  uint64_t bits = 0;
  for (int first = 0; first < block.count; first += 2 * kSixteen) {
    const PackedSixteen part = sixteen_words(block.row, block.key + first);
    uint32_t found = 0;
    XM_UNROLL(4)
    for (int eight = 0; eight < 4; ++eight) {
      uint32_t fours = 0;  // of four words, the first keys low and the others high
      XM_UNROLL(4)
      for (int t = 0; t < 4; ++t) fours += min_u16x2(max_u16x2(part.of[4 * eight + t], below) - below, 0x10001u) << t;
      found |= ((fours | fours >> 12) & 0xffu) << 8 * eight;
    }
    bits |= static_cast<uint64_t>(found) << first;
  }
  return bits;
}

}  // namespace xmsim
