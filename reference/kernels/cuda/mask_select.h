// The largest of a block of scores, by one thread: sixteen at a time are sorted and merged into the sixteen largest so far.
#pragma once

#include "mask_sums.h"

namespace xmsim {

XM_DEVICE void put_in_order(float& larger, float& smaller) {
  const float a = larger, b = smaller;
  larger = fmaxf(a, b);
  smaller = fminf(a, b);
}

// Two numbers of 16 bits in each word: two lists that are sorted beside each other.
XM_DEVICE void put_in_order(uint32_t& larger, uint32_t& smaller) {
  const uint32_t a = larger, b = smaller;
  larger = max_u16x2(a, b);
  smaller = min_u16x2(a, b);
}

XM_DEVICE float larger_of(float a, float b) { return fmaxf(a, b); }
XM_DEVICE uint32_t larger_of(uint32_t a, uint32_t b) { return max_u16x2(a, b); }

// Batcher's odd-even merge sort of sixteen, the largest first: 63 comparisons.
template <class Value>
XM_DEVICE void sort_sixteen(Value (&values)[kSixteen]) {
  XM_UNROLL()
  for (int p = 1; p < kSixteen; p *= 2) {
    XM_UNROLL()
    for (int k = p; k; k /= 2) {
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) {
        if (i >= k % p && (i - k % p) / k % 2 == 0 && i + k < kSixteen && i / (2 * p) == (i + k) / (2 * p))
          put_in_order(values[i], values[i + k]);
      }
    }
  }
}

// Sorts sixteen that rise and then fall, or fall and then rise, from wherever in it they begin.
template <class Value>
XM_DEVICE void settle_sixteen(Value (&values)[kSixteen]) {
  XM_UNROLL()
  for (int k = kSixteen / 2; k; k /= 2) {
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i)
      if (i / k % 2 == 0) put_in_order(values[i], values[i + k]);
  }
}

// The sixteen largest of two sorted sixteens, sorted.
template <class Value>
XM_DEVICE void merge_sixteen(Value (&values)[kSixteen], const Value (&others)[kSixteen]) {
  XM_UNROLL(16)
  for (int i = 0; i < kSixteen; ++i) {
    values[i] = larger_of(values[i], others[kSixteen - 1 - i]);
  }
  settle_sixteen(values);
}

// A block of a row: `count` scores, a multiple of sixteen up to 64.
struct ScoreBlock {
  ScoreRow row;
  int column, count;
};

XM_DEVICE ScoreBlock block_of(const ScoreRow& row, int column, int count) { return {row, column, count}; }

XM_DEVICE float score_in(const ScoreBlock& block, int number) { return score_at(block.row, block.column + number); }

// The sixteen largest of a block, the largest first.
XM_DEVICE Sixteen sixteen_largest(const ScoreBlock& block) {
  Sixteen largest = sixteen_at(block.row, block.column);
  sort_sixteen(largest.of);
  for (int first = kSixteen; first < block.count; first += kSixteen) {
    Sixteen next = sixteen_at(block.row, block.column + first);
    sort_sixteen(next.of);
    merge_sixteen(largest.of, next.of);
  }
  return largest;
}

// An entry whose number is known at run time only, by halves: an index would put the entries into memory.
template <class Value>
XM_DEVICE Value entry(const Value (&sorted)[kSixteen], int number) {
  Value left[kSixteen / 2];
  XM_UNROLL(8)
  for (int i = 0; i < 8; ++i) left[i] = number & 8 ? sorted[i + 8] : sorted[i];
  XM_UNROLL(4)
  for (int i = 0; i < 4; ++i) left[i] = number & 4 ? left[i + 4] : left[i];
  const Value first = number & 2 ? left[2] : left[0], second = number & 2 ? left[3] : left[1];
  return number & 1 ? second : first;
}

XM_DEVICE float cut_in(const Sixteen& largest, int kept) { return entry(largest.of, kept - 1); }

// Which scores of a block reach the limit, and are not -inf.
XM_DEVICE uint64_t at_least(const ScoreBlock& block, float limit) {
  const float reached = limit > -kInfinity ? limit : -3.402823466e38f;
  uint64_t bits = 0;
  for (int first = 0; first < block.count; first += kSixteen) {
    const Sixteen part = sixteen_at(block.row, block.column + first);
    uint32_t sixteen = 0;
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) sixteen |= part.of[i] >= reached ? 1u << i : 0u;
    bits |= static_cast<uint64_t>(sixteen) << first;
  }
  return bits;
}

XM_DEVICE uint64_t first_bits(uint64_t bits, int count) {
  uint64_t left = bits;
  for (; count > 0 && left; --count) left &= left - 1;
  return bits & ~left;
}

// Of marked scores the `kept` largest, the first of equals; `cut` is the kept-th largest, and none that is larger is unmarked.
template <class Block, class Score>
XM_DEVICE uint64_t largest_of(const Block& block, uint64_t marked, Score cut, int kept) {
  uint64_t higher = 0, equal = 0;
  for (uint64_t left = marked; left; left &= left - 1) {
    const int number = lowest_bit(left);
    const Score score = score_in(block, number);
    higher |= static_cast<uint64_t>(score > cut) << number;
    equal |= static_cast<uint64_t>(score == cut) << number;
  }
  return higher | first_bits(equal, kept - popcount(higher));
}

// Keys that a block keeps if its class is high, and if it is low.
struct Candidates {
  uint64_t high, low;
};

// The `kept` largest of a block, whose largest are these.
template <class Block, class Largest>
XM_DEVICE uint64_t largest_in(const Block& block, const Largest& largest, int kept) {
  const auto cut = cut_in(largest, kept);
  const uint64_t reached = at_least(block, cut);
  return popcount(reached) > kept ? largest_of(block, reached, cut, kept) : reached;
}

template <class Block>
XM_DEVICE Candidates candidates(const Block& block, int kept_high, int kept_low) {
  const auto largest = sixteen_largest(block);
  const uint64_t high = largest_in(block, largest, kept_high);
  return {high, kept_low == kept_high ? high : kept_low ? largest_in(block, largest, kept_low) : 0};
}

// The length that X:M's shares are relative to, in blocks, of a row that sees so many keys.
XM_DEVICE double counted_blocks(const MaskRule& rule, int64_t keys, int64_t seen) {
  const int64_t counted = rule.kind == MaskKind::xm ? keys : seen > rule.block ? seen : rule.block;
  return static_cast<double>(counted) / static_cast<double>(rule.block);
}

enum class BlockClass { empty, low, high };

// X:M's classes of a row's blocks. A lone block is the row, so that its share is known exactly.
struct ClassLimits {
  double high, low, blocks;
  bool doubts_high, doubts_low;  // whether rounding matters
};

XM_DEVICE ClassLimits limits_of(const MaskRule& rule, double row_mass, double blocks, bool is_lone) {
  return {times(rule.high, row_mass), times(rule.low, row_mass), blocks, !(is_lone && blocks == rule.high),
          rule.low > 0 && !(is_lone && blocks == rule.low)};
}

XM_DEVICE BlockClass class_of(const ClassLimits& limits, double mass, bool& doubtful, double margin = kMargin) {
  const double share = times(mass, limits.blocks);
  doubtful |= (limits.doubts_high && is_near(share, limits.high, margin)) || (limits.doubts_low && is_near(share, limits.low, margin));
  return share > limits.high ? BlockClass::high : share < limits.low ? BlockClass::empty : BlockClass::low;
}

}  // namespace xmsim
