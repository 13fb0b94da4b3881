// Scores as integers of 16 bits, two a word: half the traffic to shared memory, and two lists of sixteen are sorted at once. For products
// whose magnitudes stay below 2^15 and factors below 32, without slopes: the order of products is that of scores.
#pragma once

#include "mask_select.h"

namespace xmsim {

// A score is its product plus 2^15; 0 where a row does not see. Word 4e + t of a row has keys 8e + t and 8e + t + 4.
constexpr int32_t kPackedZero = 1 << 15;
constexpr int kRowWords = kTileKeys / 2;

// A row of packed scores, the bytes from a place on. Four words of a lane, 4e + t of four e, lie next to each other. Such fours are turned by
// the row's number: 8 rows that are read, or two that are written, lie in different banks.
struct PackedRow {
  unsigned char* rows;
  uint32_t place;
};

XM_DEVICE uint32_t place_of_row(uint32_t row) { return row * kRowWords * 4 + (row % 2 * 4 + row / 2 % 4) * 16; }

XM_DEVICE uint4& four_at(const PackedRow& row, int four) { return *reinterpret_cast<uint4*>(row.rows + (row.place ^ four * 16)); }

XM_DEVICE uint32_t lower_halves(uint32_t low, uint32_t high) { return choose_bytes(low, high, 0x5410); }

// Scores of a warp's rows on a tile of keys, from the places of those on that have one (others: less than 0).
template <int kDim>
XM_DEVICE void score_slots(const CodeScores& from, const Rows& rows, int tile, bool whole, const Queries<kDim, kBands>& queries,
                           const int8_t* keys, uint32_t* scores, const int (&places)[kLaneRows]) {
  const int column = lane() % 8, key = column % 2 * 4 + column / 2, own = lane() % 4;  // neighbours in the sums share a word
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    uint32_t words[kLaneRows][4];
    XM_UNROLL(4)
    for (int e = 0; e < 4; ++e) {
      int32_t sums[kBands][4];
      multiply_eight(queries, keys + (32 * half + 8 * e) * kDim, key, kPackedZero, sums);
      XM_UNROLL(4)
      for (int i = 0; i < kLaneRows; ++i)
        words[i][e] = lower_halves(static_cast<uint32_t>(sums[i / 2][i % 2 * 2]), static_cast<uint32_t>(sums[i / 2][i % 2 * 2 + 1]));
    }
    if (!whole) {
      const Columns seen = seen_columns(from, rows, tile);
      XM_UNROLL(4)
      for (int i = 0; i < kLaneRows; ++i) {
        XM_UNROLL(4)
        for (int e = 0; e < 4; ++e) {
          const int first = 32 * half + 8 * e + own;
          words[i][e] &= (is_seen(seen, i, first) ? 0xffffu : 0) | (is_seen(seen, i, first + 4) ? 0xffff0000u : 0);
        }
      }
    }
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i) {
      const PackedRow row{reinterpret_cast<unsigned char*>(scores), static_cast<uint32_t>(places[i])};
      if (places[i] >= 0) four_at(row, own + 4 * half) = {words[i][0], words[i][1], words[i][2], words[i][3]};
    }
  }
}

// 32 scores of a row.
struct PackedSixteen {
  uint32_t of[kSixteen];
};

XM_DEVICE PackedSixteen sixteen_words(const PackedRow& row, int key) {
  PackedSixteen found;
  XM_UNROLL(4)
  for (int t = 0; t < 4; ++t) {
    const uint4 words = four_at(row, key / 8 + t);
    found.of[t] = words.x;
    found.of[4 + t] = words.y;
    found.of[8 + t] = words.z;
    found.of[12 + t] = words.w;
  }
  return found;
}

XM_DEVICE uint32_t exchanged(uint32_t word) { return word << 16 | word >> 16; }

// Of two sorted lists, one in either half of the words, the sixteen largest: word j has the two that follow the 2j largest.
XM_DEVICE void merge_halves(const uint32_t (&lists)[kSixteen], uint32_t (&pairs)[kSixteen / 2]) {
  // word i of n has numbers i and 2n - 1 - i of a list that rises and falls; its larger half and its smaller half are such lists again
  XM_UNROLL(8)
  for (int i = 0; i < 8; ++i) pairs[i] = max_u16x2(lists[i], exchanged(lists[15 - i]));
  XM_UNROLL()
  for (int n = 8; n > 1; n /= 2) {
    uint32_t before[kSixteen / 2];
    XM_UNROLL(8)
    for (int i = 0; i < 8; ++i) before[i] = pairs[i];
    XM_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      const int in_list = i % n, first = i - in_list;
      if (in_list >= n / 2) continue;
      const uint32_t other = exchanged(before[first + n - 1 - in_list]);
      pairs[i] = max_u16x2(before[i], other);
      pairs[i + n / 2] = min_u16x2(before[i], other);
    }
  }
}

// The kept-th largest of a block of 32 or 64 scores from a key on.
template <int kSize>
XM_DEVICE uint32_t packed_cut(const PackedRow& row, int key, int kept) {
  PackedSixteen largest = sixteen_words(row, key);
  sort_sixteen(largest.of);
  if (kSize > 2 * kSixteen) {
    PackedSixteen others = sixteen_words(row, key + 2 * kSixteen);
    sort_sixteen(others.of);
    merge_sixteen(largest.of, others.of);
  }
  uint32_t pairs[kSixteen / 2];
  merge_halves(largest.of, pairs);
  const int number = kept - 1;
  uint32_t left[kSixteen / 4];
  XM_UNROLL(4)
  for (int i = 0; i < 4; ++i) left[i] = number & 8 ? pairs[i + 4] : pairs[i];
  const uint32_t first = number & 4 ? left[2] : left[0], second = number & 4 ? left[3] : left[1];
  const uint32_t pair = number & 2 ? second : first, other = exchanged(pair);
  return (number & 1 ? min_u16x2(pair, other) : max_u16x2(pair, other)) & 0xffffu;
}

// Of fields of two bits, four times four in the order of words, the even bits: those of sixteen keys.
XM_DEVICE uint32_t even_bits(uint32_t fields) {
  uint32_t bits = fields & 0x55555555u;
  bits = (bits | bits >> 1) & 0x33333333u;
  bits = (bits | bits >> 2) & 0x0f0f0f0fu;
  return bits | bits >> 12;  // the first keys of words, and the others four bits on
}

// The `kept` largest of a block, the first of equals; called by all lanes, with blocks of their own.
template <int kSize>
XM_DEVICE uint64_t largest_packed(const PackedRow& row, int key, int kept) {
  const uint32_t cut = packed_cut<kSize>(row, key, kept);
  const uint32_t last_below = cut ? cut - 1 : 0, below = last_below * 0x10001u, down = (0u - last_below & 0xffffu) * 0x10001u;
  uint64_t equal = 0, higher = 0;
  XM_UNROLL(2)
  for (int half = 0; half < kSize / 32; ++half) {
    const PackedSixteen part = sixteen_words({row.rows, anew(row.place)}, key + 32 * half);
    uint32_t fields[2] = {0, 0};  // of each score two bits: 0 below the cut, 1 at it, 2 above
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) fields[i / 8] += add_min_u16x2(max_u16x2(part.of[i], below), down, 0x20002u) << i % 8 * 2;
    equal |= static_cast<uint64_t>(lower_halves(even_bits(fields[0]), even_bits(fields[1]))) << 32 * half;
    higher |= static_cast<uint64_t>(lower_halves(even_bits(fields[0] >> 1), even_bits(fields[1] >> 1))) << 32 * half;
  }
  if (!cut) return equal | higher;  // fewer are seen
  return higher | first_bits(equal, kept - popcount(higher));
}

}  // namespace xmsim
