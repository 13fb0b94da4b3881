// Which keys of a cache the newest token keeps: scores from the few-bit copy of the keys, sums of their exponentials, and X:M's selection.
// Scores are exact; exponentials are float64, as the reference's are, and what lies within their rounding of a cut is reported as doubtful.
#include "simt.h"

namespace xmsim {
namespace {

constexpr int kBlockKeys = 64;
constexpr int kWarps = 8;  // key blocks of a block of threads
constexpr int kThreads = kWarps * kWarp;
constexpr int kMostHeads = 8;     // that share a KV head
constexpr int kMostWords = 64;    // of a query's codes: 256 channels
constexpr double kDoubt = 1e-12;  // relative: sums of so many float64 exponentials err by less
constexpr double kVanishing = 1e-290;  // below it float64 has fewer digits

struct Scoring {
  const uint32_t* codes;     // [kv_heads, room_blocks, words_per_key, 64]: of 4 bits eight channels a word, of 8 bits four
  const uint32_t* queries;   // int8 [heads, channels], four a word
  const float *factors, *slopes;  // [heads], slopes or none
  float *scores, *tops;      // [heads, blocks × 64] and [heads, blocks]
  double *powers, *sums;     // exponentials, [heads, blocks × 64], and their sum, [heads, blocks]; relative to the block's top
  int heads, kv_heads, keys, room_blocks, channels, code_bits;
};

struct ScoringShared {
  uint32_t queries[kMostHeads][kMostWords];
  int offsets[kMostHeads];
};

XM_DEVICE int sum_of_bytes(uint32_t word) { return dot4(word, 0x01010101u, 0); }

// A warp takes a block of keys of one KV head, a lane two keys, for all query heads that share it.
XM_KERNEL(kThreads) void score_keys(Scoring job) {
  ScoringShared& block = shared<ScoringShared>();
  const int kv_head = blockIdx.y, sharing = job.heads / job.kv_heads, words = job.channels / 4;
  const int blocks = ceil_div(job.keys, kBlockKeys);
  for (int i = threadIdx.x; i < sharing * words; i += kThreads) {
    block.queries[i / words][i % words] = job.queries[(static_cast<int64_t>(kv_head) * sharing + i / words) * words + i % words];
  }
  block_sync();
  if (static_cast<int>(threadIdx.x) < sharing) {  // codes of 4 bits are the integers plus 8
    int sum = 0;
    for (int i = 0; i < words; ++i) sum += sum_of_bytes(block.queries[threadIdx.x][i]);
    block.offsets[threadIdx.x] = job.code_bits == 4 ? 8 * sum : 0;
  }
  block_sync();
  const int own = static_cast<int>(blockIdx.x) * kWarps + warp();
  if (own >= blocks) return;
  const int words_per_key = job.channels * job.code_bits / 32;
  const uint32_t* codes = job.codes + (static_cast<int64_t>(kv_head) * job.room_blocks + own) * words_per_key * kBlockKeys + 2 * lane();
  int products[kMostHeads][2] = {};
  for (int w = 0; w < words_per_key; ++w) {
    const uint32_t pair[2] = {codes[w * kBlockKeys], codes[w * kBlockKeys + 1]};
    XM_UNROLL(8)
    for (int h = 0; h < kMostHeads; ++h) {
      if (h >= sharing) break;
      XM_UNROLL(2)
      for (int key = 0; key < 2; ++key) {
        if (job.code_bits == 4) {
          products[h][key] = dot4(pair[key] & 0x0f0f0f0fu, block.queries[h][2 * w], products[h][key]);
          products[h][key] = dot4(pair[key] >> 4 & 0x0f0f0f0fu, block.queries[h][2 * w + 1], products[h][key]);
        } else {
          products[h][key] = dot4(pair[key], block.queries[h][w], products[h][key]);
        }
      }
    }
  }
  const int first = own * kBlockKeys + 2 * lane();
  XM_UNROLL(8)
  for (int h = 0; h < kMostHeads; ++h) {
    if (h >= sharing) break;
    const int head = kv_head * sharing + h;
    float scores[2];
    XM_UNROLL(2)
    for (int key = 0; key < 2; ++key) {
      float score = times(static_cast<float>(products[h][key] - block.offsets[h]), job.factors[head]);
      if (job.slopes) score += times(job.slopes[head], static_cast<float>(first + key));
      scores[key] = first + key < job.keys ? score : -INFINITY;
    }
    const float top = lanes_max(scores[0] > scores[1] ? scores[0] : scores[1]);
    const int64_t place = (static_cast<int64_t>(head) * blocks + own) * kBlockKeys + 2 * lane();
    double both = 0;
    XM_UNROLL(2)
    for (int key = 0; key < 2; ++key) {
      const double power = exponential(static_cast<double>(scores[key]) - top);
      both += power;
      job.powers[place + key] = power;
      job.scores[place + key] = scores[key];
    }
    const double sum = lanes_sum(both);
    if (lane() == 0) {
      job.tops[static_cast<int64_t>(head) * blocks + own] = top;
      job.sums[static_cast<int64_t>(head) * blocks + own] = sum;
    }
  }
}

struct SumShared {
  double sums[kWarps];
  float tops[kWarps];
};

// The largest, or the sum, over all threads of a block; every thread gets it.
XM_DEVICE float block_max(SumShared& block, float value) {
  value = lanes_max(value);
  if (lane() == 0) block.tops[warp()] = value;
  block_sync();
  for (int w = 0; w < kWarps; ++w) value = block.tops[w] > value ? block.tops[w] : value;
  return value;
}

XM_DEVICE double block_sum(SumShared& block, double value) {
  value = lanes_sum(value);
  if (lane() == 0) block.sums[warp()] = value;
  block_sync();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += block.sums[w];
  return sum;
}

// Sum of the exponentials of each head's row, from those of its blocks, and what the top of a block is of the row's.
XM_KERNEL(kThreads) void total_rows(const float* tops, const double* sums, int blocks, double* heights, double* row_totals) {
  SumShared& block = shared<SumShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blocks;
  float top = -INFINITY;
  for (int i = threadIdx.x; i < blocks; i += kThreads) top = tops[row + i] > top ? tops[row + i] : top;
  top = block_max(block, top);
  double total = 0;
  XM_UNROLL(1)
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    const double height = exponential(static_cast<double>(tops[row + i]) - top);
    heights[row + i] = height;
    total += sums[row + i] * height;
  }
  total = block_sum(block, total);
  if (threadIdx.x == 0) row_totals[blockIdx.x] = total;
}

struct Selection {
  const float* scores;
  const double *powers, *row_totals;
  double* heights;  // [heads, blocks]; weigh_blocks divides them by the totals
  double *weights, *masses, *totals;  // [lists, blocks × 64], [lists, blocks] and [lists]
  uint64_t* words;                    // [lists, blocks]
  int* doubtful;                      // [lists]
  int heads_a_list, largest, keys, kept_high, kept_low;
  double threshold_high, threshold_low;
};

// The probability that a list's heads give each key together, their sum or the largest, and what each block holds of it.
XM_KERNEL(kThreads) void weigh_blocks(Selection job) {
  const int list = blockIdx.y, blocks = ceil_div(job.keys, kBlockKeys), own = static_cast<int>(blockIdx.x) * kWarps + warp();
  if (own >= blocks) return;
  const int64_t first = static_cast<int64_t>(list) * job.heads_a_list;
  double factor = 0;  // of a lane's head
  if (lane() < job.heads_a_list) {
    double* height = job.heights + (first + lane()) * blocks + own;
    *height = factor = *height / job.row_totals[first + lane()];
  }
  double weights[2] = {0, 0};
  for (int i = 0; i < job.heads_a_list; ++i) {
    const double shared_factor = shfl(factor, i);
    const double* powers = job.powers + ((first + i) * blocks + own) * kBlockKeys + 2 * lane();
    XM_UNROLL(2)
    for (int key = 0; key < 2; ++key) {
      const double weight = powers[key] * shared_factor;
      weights[key] = job.largest ? (weight > weights[key] ? weight : weights[key]) : weights[key] + weight;
    }
  }
  const int64_t place = static_cast<int64_t>(list) * blocks + own;
  job.weights[place * kBlockKeys + 2 * lane()] = weights[0];
  job.weights[place * kBlockKeys + 2 * lane() + 1] = weights[1];
  const double mass = lanes_sum(weights[0] + weights[1]);
  if (lane() == 0) job.masses[place] = mass;
}

XM_KERNEL(kThreads) void total_lists(const double* masses, int blocks, double* totals) {
  SumShared& block = shared<SumShared>();
  double total = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) total += masses[static_cast<int64_t>(blockIdx.x) * blocks + i];
  total = block_sum(block, total);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

XM_DEVICE bool near(double a, double b) {
  const double difference = a > b ? a - b : b - a;
  return difference <= kDoubt * (a > b ? a : b);
}

struct RankShared {
  double values[kWarps][kBlockKeys];
};

XM_DEVICE int lowest_bit(uint32_t bits) { return popcount((bits & (0u - bits)) - 1); }

// Whether a key on one side of the cut is as probable as one on the other without having the same scores: rounding might have made them so.
// Of a tie for certain the order is known. Called by all lanes of a warp, whose block it is.
XM_DEVICE bool tie_is_doubtful(const Selection& job, int list, int own, const double* values, const bool (&keeps)[2], double value) {
  int others[2] = {0, 0};  // of the keys of this probability one that is dropped, and one that is kept
  XM_UNROLL(2)
  for (int i = 1; i >= 0; --i) {
    const bool equal = values[lane() + kWarp * i] == value;
    const uint32_t dropped = ballot(equal && !keeps[i]), kept = ballot(equal && keeps[i]);
    others[0] = dropped ? lowest_bit(dropped) + kWarp * i : others[0];
    others[1] = kept ? lowest_bit(kept) + kWarp * i : others[1];
  }
  const int64_t blocks = ceil_div(job.keys, kBlockKeys);
  bool differs = false;
  XM_UNROLL(2)
  for (int i = 0; i < 2; ++i) {
    const int key = lane() + kWarp * i;
    if (values[key] != value) continue;
    bool all = true, leading = false;  // of the heads have the same score of both; one that gives the largest probability
    for (int head = list * job.heads_a_list; head < (list + 1) * job.heads_a_list; ++head) {
      const int64_t block = head * blocks + own;
      const bool same = job.scores[block * kBlockKeys + key] == job.scores[block * kBlockKeys + others[keeps[i] ? 0 : 1]];
      all = all && same;
      leading = leading || (same && job.powers[block * kBlockKeys + key] * job.heights[block] == value);
    }
    differs = differs || !(all || (job.largest && leading));
  }
  return differs;
}

// How many keys of each block are kept, and which: those that fewer of the block outrank, the lowest first among equals.
XM_KERNEL(kThreads) void select_keys(Selection job) {
  RankShared& block = shared<RankShared>();
  const int list = blockIdx.y, blocks = ceil_div(job.keys, kBlockKeys), own = static_cast<int>(blockIdx.x) * kWarps + warp();
  if (own >= blocks) return;
  const int64_t place = static_cast<int64_t>(list) * blocks + own;
  const double share = job.masses[place] * (static_cast<double>(job.keys) / kBlockKeys), total = job.totals[list];
  const double high = job.threshold_high * total, low = job.threshold_low * total;
  bool doubtful = (high > 0 && near(share, high)) || (low > 0 && near(share, low));
  const int kept = share > high ? job.kept_high : share < low ? 0 : job.kept_low;
  const int left = job.keys - own * kBlockKeys, allowed = left < kBlockKeys ? left : kBlockKeys;
  const bool ranked = kept > 0 && kept < allowed;
  bool keeps[2];
  double* values = block.values[warp()];
  XM_UNROLL(2)
  for (int i = 0; i < 2; ++i) {
    const int key = lane() + kWarp * i;
    keeps[i] = kept > 0 && key < allowed;
    if (!ranked) continue;
    const int64_t place_of_key = place * kBlockKeys + key;
    values[key] = key >= allowed          ? -1.0 / 0.0
                  : job.heads_a_list == 1 ? static_cast<double>(job.scores[place_of_key])
                                          : job.weights[place_of_key];
  }
  warp_sync();
  if (ranked) {
    double least_kept = 1.0 / 0.0, most_dropped = -1.0 / 0.0;
    XM_UNROLL(2)
    for (int i = 0; i < 2; ++i) {
      const int key = lane() + kWarp * i;
      const double value = values[key];
      int before = 0;  // keys that go first
      XM_UNROLL(8)
      for (int other = 0; other < kBlockKeys; ++other) before += other < key ? values[other] >= value : values[other] > value;
      keeps[i] = key < allowed && before < kept;
      if (keeps[i]) least_kept = value < least_kept ? value : least_kept;
      if (!keeps[i]) most_dropped = value > most_dropped ? value : most_dropped;
    }
    least_kept = -lanes_max(-least_kept);
    most_dropped = lanes_max(most_dropped);
    if (job.heads_a_list > 1) {
      // where two that are nearly equal lie on both sides of the cut, rounding might exchange them
      XM_UNROLL(2)
      for (int i = 0; i < 2; ++i) {
        const double value = values[lane() + kWarp * i], across = keeps[i] ? most_dropped : least_kept;
        doubtful = doubtful || (value != across && near(value, across)) || (keeps[i] && value < kVanishing);
      }
      if (least_kept == most_dropped) doubtful = tie_is_doubtful(job, list, own, values, keeps, least_kept) || doubtful;
    }
  }
  const uint64_t word = static_cast<uint64_t>(ballot(keeps[1])) << 32 | ballot(keeps[0]);
  const uint32_t doubts = ballot(doubtful);
  if (lane() == 0) {
    job.words[place] = word;
    if (doubts) job.doubtful[list] = 1;
  }
}

dim3 grid_of(int keys, int lists) {
  return {static_cast<unsigned>(ceil_div(ceil_div(keys, kBlockKeys), kWarps)), static_cast<unsigned>(lists), 1};
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// At most 8 heads to a KV head and 256 channels, a multiple of 8; sizes of the results in Scoring and Selection; heights as tops.
XM_API int xm_cuda_score_keys(const uint32_t* codes, const uint32_t* queries, const float* factors, const float* slopes, float* scores,
                              float* tops, double* powers, double* sums, double* heights, double* row_totals, int heads, int kv_heads,
                              int keys, int room_blocks, int channels, int code_bits, void* stream) {
  const Scoring job = {codes, queries, factors, slopes, scores, tops, powers, sums, heads, kv_heads, keys, room_blocks, channels, code_bits};
  const int failed = launch(score_keys, grid_of(keys, kv_heads), kThreads, sizeof(ScoringShared), stream, job);
  if (failed) return failed;
  return launch(total_rows, {static_cast<unsigned>(heads), 1, 1}, kThreads, sizeof(SumShared), stream, tops, sums,
                ceil_div(keys, kBlockKeys), heights, row_totals);
}

// doubtful comes filled with zeros.
XM_API int xm_cuda_select_keys(const float* scores, const double* powers, double* heights, const double* row_totals, double* weights,
                               double* masses, double* totals, uint64_t* words, int* doubtful, int lists, int heads_a_list, int largest,
                               int keys, int kept_high, int kept_low, double threshold_high, double threshold_low, void* stream) {
  const Selection job = {scores,   powers,       row_totals, heights, weights,   masses,   totals,         words,
                         doubtful, heads_a_list, largest, keys,       kept_high, kept_low, threshold_high, threshold_low};
  int failed = launch(weigh_blocks, grid_of(keys, lists), kThreads, 0, stream, job);
  if (failed) return failed;
  failed = launch(total_lists, {static_cast<unsigned>(lists), 1, 1}, kThreads, sizeof(SumShared), stream, masses,
                  ceil_div(keys, kBlockKeys), totals);
  if (failed) return failed;
  return launch(select_keys, grid_of(keys, lists), kThreads, sizeof(RankShared), stream, job);
}
