// Sums of exponentials of a thread's own row, in float32 by tiles and float64 over them.
#pragma once

#include "mask_scores.h"

namespace xmsim {

// e to the power of a difference of scores; of 0 exactly 1.
XM_DEVICE float exponential(float difference) { return exp2_fast(times(difference, kLog2OfE)); }

// Sums of exponentials closer than this to their threshold are decided again. Down to kSmallest a difference of float32 scores is at most
// 69: it is off by 2^-18 = 3.8e-6, its product with log2 e by as much again in all (2.6e-6 and 0.9e-6), the exponential and a sum of 64
// (in parts) by 1.9e-6. Sums count from the top of sixteen scores, then of their block, then of the row: more differences, but of the same
// 69 in all, and three exponentials, 1.2e-7 each.
constexpr double kMargin = 2e-5;
constexpr double kSmallest = 1e-30;

XM_DEVICE bool is_near(double sum, double limit, double margin) {
  const double gap = sum > limit ? sum - limit : limit - sum;
  return gap <= margin * limit + kSmallest;
}

// The part of keys [first, first + size) that a row sees.
XM_DEVICE int seen_of(const KeyRange& allowed, int64_t first, int64_t size) {
  const int64_t begin = allowed.first > first ? allowed.first : first;
  const int64_t end = allowed.end < first + size ? allowed.end : first + size;
  return begin < end ? static_cast<int>(end - begin) : 0;
}

constexpr int kSixteen = 16;

// Sixteen scores of a row in registers, read four at a time.
struct Sixteen {
  float of[kSixteen];
};

XM_DEVICE Sixteen sixteen_at(const ScoreRow& row, int column) {
  Sixteen found;
  XM_UNROLL(4)
  for (int i = 0; i < kSixteen; i += 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(&score_at(row, column + i));
    found.of[i] = float_of_bits(words.x);
    found.of[i + 1] = float_of_bits(words.y);
    found.of[i + 2] = float_of_bits(words.z);
    found.of[i + 3] = float_of_bits(words.w);
  }
  return found;
}

// Exponentials of some scores below the largest of them, added up; the smallest that is not -inf.
struct PartSum {
  float top = -kInfinity, least = kInfinity, sum = 0;
};

// Of `count` scores from a column on, a multiple of sixteen, read once: each sixteen counts from its own top. Of equal scores, sums are whole
// numbers. `seen` of them are not -inf.
XM_DEVICE PartSum sum_of(const ScoreRow& row, int column, int count, int seen) {
  PartSum all;
  for (int first = 0; first < count; first += kSixteen) {
    const Sixteen part = sixteen_at(row, column + first);
    float top = part.of[0];
    XM_UNROLL(16)
    for (int i = 1; i < kSixteen; ++i) top = fmaxf(top, part.of[i]);
    if (!(top > -kInfinity)) continue;
    if (seen == count) {
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) all.least = fminf(all.least, part.of[i]);
    } else {
      XM_UNROLL(16)
      for (int i = 0; i < kSixteen; ++i) all.least = fminf(all.least, part.of[i] > -kInfinity ? part.of[i] : kInfinity);
    }
    float sums[4] = {0, 0, 0, 0};
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) sums[i % 4] += exponential(part.of[i] - top);
    const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]), larger = fmaxf(top, all.top);
    all.sum = times(all.sum, exponential(all.top - larger)) + times(sum, exponential(top - larger));
    all.top = larger;
  }
  return all;
}

// What a row's softmax needs, in memory.
struct RowFacts {
  float top, least;  // largest and smallest score: a row of equal ones is decided exactly
  double sum;        // of exponentials below top
};

// The same while it is added up, relative to an anchor, which is moved only by steps that leave little of what was added before: the
// rounding of many small steps would add up.
struct RowSum {
  float top = -kInfinity, least = kInfinity, anchor = -kInfinity;
  double sum = 0;
};

constexpr float kAnchorReach = 32;

// Adds the sum of a part that is not empty.
XM_DEVICE void add_to(RowSum& row, const PartSum& part) {
  row.top = fmaxf(row.top, part.top);
  row.least = fminf(row.least, part.least);
  if (part.top > row.anchor + kAnchorReach) {
    row.sum *= exponential(row.anchor - part.top);
    row.anchor = part.top;
  }
  row.sum += static_cast<double>(part.sum) * exponential(part.top - row.anchor);
}

XM_DEVICE RowFacts facts_of(const RowSum& row) { return {row.top, row.least, row.sum * exponential(row.anchor - row.top)}; }

XM_DEVICE bool is_equal(const RowFacts& row) { return !(row.least < row.top); }

// The rows of a block of threads that has 128 queries of a head; those with the most keys to see start first.
constexpr int kBands = 2;           // of 16 rows a warp: keys are read from shared memory once for both
constexpr int kRows = 64 * kBands;  // of a block of threads

template <int kDim>
using RowTile = ScoreTile<kDim, kRows, kTurnedFours>;

XM_DEVICE Rows rows_of_head() {
  return {static_cast<int64_t>(blockIdx.y), static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows, kRows};
}

template <class Scores>
dim3 blocks_of_rows(const Scores& from) {
  return {static_cast<unsigned>(ceil_div<int64_t>(from.queries, kRows)), static_cast<unsigned>(from.heads), 1};
}

template <class Scores>
XM_DEVICE KeyRange own_keys(const Scores& from, int64_t query) {
  return query < from.queries ? allowed_keys(from, query) : KeyRange{0, 0};
}

}  // namespace xmsim
