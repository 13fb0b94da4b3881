// Selection in float64, as reference/attention computes it: log-probabilities of each row, their sum or largest over a list's rows.
#include <algorithm>
#include <vector>

#include "attention.h"

namespace xmsim {
namespace {

const float* scores_of(const PredictionCall& call, int64_t row) { return call.scores + row * call.blocks() * kWordKeys; }

double log_add(double a, double b) {
  if (a == b) return a + std::log(2.0);
  return std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}

double row_top(const PredictionCall& call, int64_t row) {
  const float* tops = call.tops + row * call.blocks();
  return *std::max_element(tops, tops + call.blocks());
}

}  // namespace

double ExactSelection::weight(int64_t key) {
  const PredictionCall& prediction = call_.prediction;
  if (!rows_) {
    rows_ = new RowTotal[call_.heads_a_list];
    for (int64_t i = 0; i < call_.heads_a_list; ++i) {
      const int64_t row = call_.row(list_, i);
      const double top = row_top(prediction, row);
      const float* scores = scores_of(prediction, row);
      double total = 0;
      for (int64_t other = 0; other < prediction.keys; ++other) total += std::exp(scores[other] - top);
      rows_[i] = {top, std::log(total)};
    }
  }
  double combined = 0;
  for (int64_t i = 0; i < call_.heads_a_list; ++i) {
    const int64_t row = call_.row(list_, i);
    const double own = scores_of(prediction, row)[key] - rows_[i].top - rows_[i].log_total;
    combined = i == 0 ? own : call_.largest ? std::max(combined, own) : log_add(combined, own);
  }
  return combined;
}

void ExactSelection::classify(uint8_t* classes) {
  const PredictionCall& prediction = call_.prediction;
  const int64_t seen = prediction.position(list_ % prediction.queries) + 1, blocks = prediction.blocks();
  std::vector<double> weights(seen);
  for (int64_t key = 0; key < seen; ++key)  // of one row the scores themselves: exponentials relative to the top need no total
    weights[key] = call_.heads_a_list > 1 ? weight(key) : scores_of(prediction, call_.row(list_, 0))[key];
  const double top = *std::max_element(weights.begin(), weights.end());
  std::vector<double> masses(blocks);
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = std::min(seen, (block + 1) * kWordKeys);
    for (int64_t key = block * kWordKeys; key < end; ++key) masses[block] += std::exp(weights[key] - top);
    total += masses[block];
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const double share = masses[block] * (static_cast<double>(prediction.keys) / kWordKeys);
    const bool high = share > call_.threshold_high * total;
    classes[block] = high ? 2 : share < call_.threshold_low * total ? 0 : 1;
  }
}

void ExactSelection::keep_largest(uint64_t* candidates, int64_t words, int64_t first, int64_t count) {
  std::vector<std::pair<double, int64_t>> ranked;  // the largest weight first, then the lowest key
  for (int64_t i = 0; i < words; ++i)
    for (uint64_t rest = candidates[i]; rest; rest &= rest - 1) {
      const int64_t key = i * kWordKeys + __builtin_ctzll(rest);
      ranked.emplace_back(-weight(first + key), key);
    }
  std::sort(ranked.begin(), ranked.end());
  std::fill(candidates, candidates + words, 0);
  for (int64_t i = 0; i < count; ++i) candidates[ranked[i].second / kWordKeys] |= 1ull << ranked[i].second % kWordKeys;
}

}  // namespace xmsim
