// Which keys of a cache the newest token keeps, by X:M: classes of blocks in float64, as the reference has them; keys are ranked in float32,
// and again in float64 where two lie so close on both sides of the cut that rounding could exchange them. What float64 cannot tell is doubtful.
#include "decode_predict.h"

namespace xmsim {
namespace {

constexpr int kBeside = 8;             // blocks of keys that a warp ranks at once, four lanes each
constexpr int kRowStride = 68;         // of their weights: four more than keys, so that blocks do not begin in the same bank
constexpr double kDoubt = 1e-12;       // relative: sums of so many float64 exponentials err by less
constexpr double kVanishing = 1e-290;  // below it float64 has fewer digits
constexpr double kFaint = 1e-250;      // a block whose largest probability lies below it is ranked in float64: kept keys may vanish
// Weights in float32 come from products times a factor, minus the block's top, both times log2 e, in one fused step. Down to 69 below the top,
// factor and top are off by half a bit each and so are the reference's own scores: in all by 5 (top + 100 log2 e) half bits of float32, which
// is 2.1e-7 for each unit of the top and 2e-5 with exponential, factors of heads, products and sums. Of two weights twice as much. What lies
// lower has no digits, but is less than kTiny in all heads of factors below 2.
constexpr float kRankMargin = 4e-5f, kMarginOfTop = 5e-7f, kTiny = 2e-29f;

struct Selection {
  double *masses, *part_masses;  // [sequences, lists, room_blocks] and [lists, parts]: of lists that rank the largest probability
  uint64_t* words;               // [sequences, lists, room_blocks]
  int* doubtful;                 // [sequences, lists]
  int heads_a_list, kept_high, kept_low;
  double threshold_high, threshold_low;
};

// The same of one sequence alone.
template <class Product>
XM_DEVICE Selection of_sequence(Selection job, const Predicted<Product>& from, const Share& share) {
  const int64_t first_list = static_cast<int64_t>(share.sequence) * (from.heads / job.heads_a_list);
  job.words += first_list * from.room_blocks;
  job.doubtful += first_list;
  if (job.masses) {
    job.masses += first_list * from.room_blocks;
    job.part_masses += share.first;
  }
  return job;
}

// The rows of a list: largest scores and what makes sums of exponentials probabilities.
struct ListRows {
  float tops[kMostHeads], slopes[kMostHeads];
  double per_sum[kMostHeads];
};

// The query heads of a list: which KV head they share, and the first of them.
struct ListHeads {
  int kv_head, first, count;
};

template <class Product>
XM_DEVICE ListHeads heads_of(const Predicted<Product>& from, const Selection& job, int list) {
  const int first = list * job.heads_a_list;
  return {first / (from.heads / from.kv_heads), first, job.heads_a_list};
}

// A head of a list among those that share its KV head.
template <class Product>
XM_DEVICE int within(const Predicted<Product>& from, const ListHeads& heads, int head) {
  return heads.first % (from.heads / from.kv_heads) + head;
}

// Adds up the parts of each head's row, a warp a head.
template <class Product>
XM_DEVICE void load_rows(const Predicted<Product>& from, const ListHeads& heads, ListRows& rows) {
  if (lane() == 0) rows.slopes[warp()] = warp() < heads.count ? slope_of(from, heads.first + warp()) : 0.0f;
  if (warp() < heads.count) {
    const auto place = [&](int part) { return part_place(from, heads.kv_head, part, within(from, heads, warp())); };
    float top = -kInfinity;
    for (int i = lane(); i < from.parts; i += kWarp) top = fmaxf(top, from.part_tops[place(i)]);
    top = lanes_max(top);
    double sum = 0;
    for (int i = lane(); i < from.parts; i += kWarp) sum += from.part_sums[place(i)] * power_of_e(from.part_tops[place(i)], top);
    sum = lanes_sum(sum);
    if (lane() == 0) {
      rows.tops[warp()] = top;
      rows.per_sum[warp()] = 1 / sum;
    }
  }
  block_sync();
}

// What a block's exponentials of one head are of its row, times this.
struct HeadBlock {
  float top;
  double sum, factor;
};

template <class Product>
XM_DEVICE HeadBlock head_block(const Predicted<Product>& from, const ListHeads& heads, const ListRows& rows, int head, int own) {
  const int64_t blocks = static_cast<int64_t>(heads.kv_head) * from.room_blocks + own;
  const int64_t place = blocks * (from.heads / from.kv_heads) + within(from, heads, head);
  const float top = from.tops[place];
  return {top, from.sums[place], power_of_e(top, rows.tops[head]) * rows.per_sum[head]};
}

template <class Product>
XM_DEVICE float predicted_score(const Predicted<Product>& from, int head, int own, int key) {
  const int64_t place = (static_cast<int64_t>(head) * from.room_blocks + own) * kTileKeys + key;
  return score_of(from, static_cast<float>(from.products[place]), slope_of(from, head), own * kTileKeys + key);
}

// A list's view of one block of keys, in float64.
struct ExactBlock {
  const float* tops;      // of its heads
  const double* factors;
  int own, allowed;
};

template <class Product>
XM_DEVICE double probability(const Predicted<Product>& from, const ListHeads& heads, const ExactBlock& block, int head, int key) {
  return power_of_e(predicted_score(from, heads.first + head, block.own, key), block.tops[head]) * block.factors[head];
}

template <class Product>
XM_DEVICE double weight_of(const Predicted<Product>& from, const ListHeads& heads, const ExactBlock& block, bool by_largest, int key) {
  if (heads.count == 1) return predicted_score(from, heads.first, block.own, key);  // in the same order, without rounding
  double weight = 0;
  XM_UNROLL(1)
  for (int head = 0; head < heads.count; ++head) {
    const double next = probability(from, heads, block, head, key);
    weight = by_largest ? (next > weight ? next : weight) : weight + next;
  }
  return weight;
}

struct WeighShared {
  ListRows rows;
  float tops[kPredictWarps][kMostHeads];
  double factors[kPredictWarps][kMostHeads];
  double sums[kPredictWarps];
};

// What each block holds of the largest probabilities that a list's heads give; a warp a block.
template <class Product>
XM_RESIDENT_KERNEL(kPredictThreads, 4) void weigh_blocks(Predicted<Product> all, Sequences sequences, Selection selection) {
  auto& block = shared<WeighShared>();
  let_next_start();
  wait_for_kernel_before();
  const Share share = share_at(sequences, blockIdx.x);
  if (share.sequence < 0) return;
  const Predicted<Product> from = of_sequence(all, share);
  const Selection job = of_sequence(selection, from, share);
  const int list = blockIdx.y;
  const Part part = part_of(blocks_of(from), share.own, share.count);
  const ListHeads heads = heads_of(from, job, list);
  load_rows(from, heads, block.rows);
  double sum = 0;
  for (int own = part.first + warp(); own < part.last; own += kPredictWarps) {
    if (lane() < heads.count) {
      const HeadBlock found = head_block(from, heads, block.rows, lane(), own);
      block.tops[warp()][lane()] = found.top;
      block.factors[warp()][lane()] = found.factor;
    }
    warp_sync();
    const ExactBlock exact = {block.tops[warp()], block.factors[warp()], own, from.keys - own * kTileKeys};
    double mass = 0;
    XM_UNROLL(2)
    for (int key = lane(); key < kTileKeys; key += kWarp) mass += key < exact.allowed ? weight_of(from, heads, exact, true, key) : 0;
    mass = lanes_sum(mass);
    if (lane() == 0) job.masses[static_cast<int64_t>(list) * from.room_blocks + own] = mass;
    sum += mass;
    warp_sync();
  }
  if (lane() == 0) block.sums[warp()] = sum;
  block_sync();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int w = 0; w < kPredictWarps; ++w) total += block.sums[w];
  job.part_masses[static_cast<int64_t>(list) * from.all_parts + share.own] = total;
}

XM_DEVICE bool near(double a, double b) {
  const double difference = a > b ? a - b : b - a;
  return difference <= kDoubt * (a > b ? a : b);
}

// Whether a key on one side of the cut is as probable as one on the other without having the same scores: rounding might have made them so.
// Of a tie for certain the order is known. Called by all lanes of a warp, whose block it is.
template <class Product>
XM_DEVICE bool tie_is_doubtful(const Predicted<Product>& from, const ListHeads& heads, const ExactBlock& block, bool by_largest,
                               const double* values, const bool (&keeps)[2], double value) {
  int dropped_one = 0, kept_one = 0;  // of the keys of this probability
  XM_UNROLL(2)
  for (int i = 1; i >= 0; --i) {
    const bool equal = values[lane() + kWarp * i] == value;
    const uint32_t dropped = ballot(equal && !keeps[i]), kept = ballot(equal && keeps[i]);
    dropped_one = dropped ? lowest_bit(dropped) + kWarp * i : dropped_one;
    kept_one = kept ? lowest_bit(kept) + kWarp * i : kept_one;
  }
  bool differs = false;
  XM_UNROLL(2)
  for (int i = 0; i < 2; ++i) {
    const int key = lane() + kWarp * i, other = keeps[i] ? dropped_one : kept_one;
    if (values[key] != value) continue;
    bool all = true, leading = false;  // of the heads have the same score of both; one that gives the largest probability
    XM_UNROLL(1)
    for (int head = 0; head < heads.count; ++head) {
      const auto score = [&](int of_key) { return predicted_score(from, heads.first + head, block.own, of_key); };
      const bool same = score(key) == score(other);
      all = all && same;
      leading = leading || (same && probability(from, heads, block, head, key) == value);
    }
    differs = differs || !(all || (by_largest && leading));
  }
  return differs;
}

// The `kept` keys of a block that weigh most in float64, the lowest first among equals. By all lanes of a warp; `values` is its room for 64.
template <class Product>
XM_DEVICE uint64_t rank_exactly(const Predicted<Product>& from, const ListHeads& heads, const ExactBlock& block, bool by_largest, int kept,
                                double* values, bool& doubtful) {
  XM_UNROLL(1)
  for (int key = lane(); key < kTileKeys; key += kWarp)
    values[key] = key < block.allowed ? weight_of(from, heads, block, by_largest, key) : -1.0 / 0.0;
  warp_sync();
  bool keeps[2];
  double least_kept = 1.0 / 0.0, most_dropped = -1.0 / 0.0;
  XM_UNROLL(2)
  for (int i = 0; i < 2; ++i) {
    const int key = lane() + kWarp * i;
    const double value = values[key];
    int before = 0;  // keys that go first
    XM_UNROLL(1)
    for (int other = 0; other < kTileKeys; ++other) before += other < key ? values[other] >= value : values[other] > value;
    keeps[i] = key < block.allowed && before < kept;
    if (keeps[i]) least_kept = value < least_kept ? value : least_kept;
    if (!keeps[i]) most_dropped = value > most_dropped ? value : most_dropped;
  }
  least_kept = -lanes_max(-least_kept);
  most_dropped = lanes_max(most_dropped);
  XM_UNROLL(2)
  for (int i = 0; i < 2 && heads.count > 1; ++i) {
    const double value = values[lane() + kWarp * i], across = keeps[i] ? most_dropped : least_kept;
    doubtful = doubtful || (value != across && near(value, across)) || (keeps[i] && value < kVanishing);
  }
  if (heads.count > 1 && least_kept == most_dropped)
    doubtful = tie_is_doubtful(from, heads, block, by_largest, values, keeps, least_kept) || doubtful;
  warp_sync();
  return static_cast<uint64_t>(ballot(keeps[1])) << 32 | ballot(keeps[0]);
}

// A head of a block in float32: minus its top in units of log 2, and its factor times a power of two, so that the block's largest is 1 to 2.
struct QuickHead {
  float base, relative;
};

template <int kHeads>
struct SelectShared {
  static constexpr int kChunk = kPredictThreads / kHeads;  // blocks of keys whose classes a block of threads finds at once
  ListRows rows;
  double values[kPredictWarps][kTileKeys];
  alignas(16) float weights[kPredictWarps][kBeside * kRowStride];
  double factors[kChunk][kHeads];
  float tops[kChunk][kHeads];
  QuickHead quick[kChunk][kHeads];
  float margins[kChunk];
  int kept[kChunk];
};

// The power of two that takes a positive number to 1 or above, below 2.
XM_DEVICE double power_of_two_over(double number) {
  union {
    double number;
    uint64_t bits;
  } power = {number};
  power.bits = (2046 - (power.bits >> 52)) << 52;
  return power.number;
}

// The class of each block of a chunk: a thread a head of a block.
template <int kHeads, class Product>
XM_DEVICE bool find_classes(const Predicted<Product>& from, const Selection& job, const ListHeads& heads, int list, double total, int first,
                            int last, SelectShared<kHeads>& block) {
  const int slot = threadIdx.x / kHeads, own = first + slot, head = threadIdx.x % kHeads, blocks = blocks_of(from);
  HeadBlock found = {kInfinity, 0, 0};  // a head that is not there weighs nothing
  const bool there = own < last && head < heads.count;
  if (there) found = head_block(from, heads, block.rows, head, own);
  const double largest = lanes_max(found.factor, kHeads), sum = lanes_sum(found.factor * found.sum, kHeads);
  const float base = times(-found.top, kLog2OfE), farthest = lanes_max(there ? fabsf(base) : 0.0f, kHeads);
  if (own >= last) return false;
  block.tops[slot][head] = found.top;
  block.factors[slot][head] = found.factor;
  block.quick[slot][head] = {base, largest > kFaint ? static_cast<float>(found.factor * power_of_two_over(largest)) : 0.0f};
  if (head != 0) return false;
  const double mass = blocks == 1 ? total : job.masses ? job.masses[static_cast<int64_t>(list) * from.room_blocks + own] : sum;  // a lone block is all
  const double counted = static_cast<double>(from.keys) / kTileKeys, share = mass * counted;
  const double high = job.threshold_high * total, low = job.threshold_low * total;
  block.margins[slot] = kRankMargin + times(kMarginOfTop, farthest);
  block.kept[slot] = share > high ? job.kept_high : share < low ? 0 : job.kept_low;
  const bool sure_high = high == 0 || (blocks == 1 && counted == job.threshold_high);
  const bool sure_low = low == 0 || (blocks == 1 && counted == job.threshold_low);
  return (!sure_high && near(share, high)) || (!sure_low && near(share, low));
}

// What a list ranks the keys of a block by, two of each lane: the scores of a lone head, or what all heads together make of a key, relative
// to the block's largest. kHeads: as many as there are, or the next power of two.
template <int kHeads, bool kLargest, bool kBias, class Product>
XM_DEVICE void weigh_keys(const Predicted<Product>& from, const ListHeads& heads, int own, int slot, const SelectShared<kHeads>& block,
                          float (&values)[2]) {
  const int row = from.room_blocks * kTileKeys;  // at most 2^24
  const Product* first = from.products + static_cast<int64_t>(heads.first) * row + own * kTileKeys + lane();
  Product products[kHeads][2];  // all reads are under way before the first is used
  XM_UNROLL(8)
  for (int head = 0; head < kHeads; ++head) {
    XM_UNROLL(2)
    for (int i = 0; i < 2; ++i) products[head][i] = first[(head < heads.count ? head : 0) * row + kWarp * i];
  }
  const int key = own * kTileKeys + lane();
  const float factor = times(from.factor, kLog2OfE);
  XM_UNROLL(8)
  for (int head = 0; head < kHeads; ++head) {
    const QuickHead quick = block.quick[slot][head];
    XM_UNROLL(2)
    for (int i = 0; i < 2; ++i) {
      const float product = static_cast<float>(products[head][i]);
      float score = 0;
      if (kBias || kHeads == 1) score = score_of(from, product, block.rows.slopes[head], key + kWarp * i);
      const float power = kBias ? exponential(score - block.tops[slot][head]) : exp2_fast(fused(product, factor, quick.base));
      const float before = head == 0 ? 0.0f : values[i];
      values[i] = kHeads == 1 ? score : kLargest ? fmaxf(before, times(power, quick.relative)) : fused(power, quick.relative, before);
    }
  }
}

// Of sixteen of this lane and sixteen of another the larger or the smaller ones, in pairs from both ends or of the same number.
template <bool kFromBothEnds>
XM_DEVICE void share_sixteen(float (&values)[kSixteen], int lanes_apart, bool takes_larger) {
  float others[kSixteen];
  XM_UNROLL(16)
  for (int i = 0; i < kSixteen; ++i) others[i] = shfl_xor(values[kFromBothEnds ? kSixteen - 1 - i : i], lanes_apart);
  XM_UNROLL(16)
  for (int i = 0; i < kSixteen; ++i) values[i] = takes_larger ? fmaxf(values[i], others[i]) : fminf(values[i], others[i]);
}

// The kept-th largest weight of each of eight blocks, in the four lanes that have the block: each sorts a quarter of it. Where no block keeps
// more than sixteen, all of them find the sixteen largest, else each the next sixteen.
XM_DEVICE float cut_of(const ScoreRow& weights, int kept, bool beyond_sixteen) {
  const int quarter = lane() % 4;
  Sixteen sorted = sixteen_at(weights, quarter * kSixteen);
  sort_sixteen(sorted.of);
  if (beyond_sixteen) {
    share_sixteen<true>(sorted.of, 1, quarter % 2 == 0);
    settle_sixteen(sorted.of);
    share_sixteen<true>(sorted.of, 3, quarter < 2);
    share_sixteen<false>(sorted.of, 1, quarter % 2 == 0);
    settle_sixteen(sorted.of);
    return shfl(entry(sorted.of, kept - 1), lane() / 4 * 4 + (kept - 1) / kSixteen);
  }
  XM_UNROLL(1)
  for (int step = 1; step < 4; step *= 2) {
    Sixteen others;
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) others.of[i] = shfl_xor(sorted.of[i], step);
    merge_sixteen(sorted.of, others.of);
  }
  return entry(sorted.of, kept - 1);
}

// Of a lane's quarter of a block the marked keys that are among the first `count` marked ones of the block.
XM_DEVICE uint32_t first_of_block(uint32_t marked, int count) {
  int before = 0;
  XM_UNROLL(4)
  for (int quarter = 0; quarter < 3; ++quarter) {
    const int marks = shfl(popcount(marked), lane() / 4 * 4 + quarter);
    before += quarter < lane() % 4 ? marks : 0;
  }
  return static_cast<uint32_t>(first_bits(marked, count - before));
}

// Words of at most eight blocks from slot `first` of a chunk on, which is block `own`, by a warp: all lanes weigh the keys of one block after
// the other, then four lanes have a block.
template <int kHeads, bool kLargest, class Product>
XM_DEVICE void keep_keys(const Predicted<Product>& from, const ListHeads& heads, uint64_t* words, int own, int first, int count,
                         SelectShared<kHeads>& block, bool& doubtful) {
  float* weights = block.weights[warp()];
  XM_UNROLL(1)
  for (int i = 0; i < count; ++i) {
    const int slot = first + i, left = from.keys - (own + i) * kTileKeys;
    if (!block.kept[slot] || block.kept[slot] >= left) continue;
    float values[2];
    if (from.slopes) {
      weigh_keys<kHeads, kLargest, true>(from, heads, own + i, slot, block, values);
    } else {
      weigh_keys<kHeads, kLargest, false>(from, heads, own + i, slot, block, values);
    }
    XM_UNROLL(2)
    for (int half = 0; half < 2; ++half) {
      const int key = lane() + kWarp * half;
      weights[i * kRowStride + key] = key < left ? values[half] : -kInfinity;
    }
  }
  warp_sync();
  const int beside = lane() / 4, slot = first + beside, left = from.keys - (own + beside) * kTileKeys;
  const int kept = beside < count ? block.kept[slot] : 0, allowed = left < kTileKeys ? left : kTileKeys;
  const bool is_ranked = kept > 0 && kept < allowed;
  const uint64_t all = kept > 0 ? ~uint64_t{0} >> (kTileKeys - allowed) : 0;
  uint32_t quarter = static_cast<uint32_t>(all >> lane() % 4 * kSixteen) & 0xffffu;
  bool is_sure = true;
  if (ballot(is_ranked)) {
    // of blocks that are not ranked, what is found is left alone, as are their weights, which nobody wrote
    const ScoreRow row = {weights + beside * kRowStride, 0};
    const float cut = cut_of(row, kept, ballot(is_ranked && kept > kSixteen));
    const float limit = kHeads == 1 || !is_ranked ? cut : cut - (times(block.margins[slot], cut) + kTiny);
    const Sixteen own_weights = sixteen_at(row, lane() % 4 * kSixteen);
    uint32_t higher = 0, equal = 0;
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) {
      higher |= own_weights.of[i] > limit ? 1u << i : 0u;
      if (kHeads == 1) equal |= own_weights.of[i] == cut ? 1u << i : 0u;
    }
    const int above = lanes_sum(popcount(higher), 4);
    if (kHeads == 1) higher |= first_of_block(equal, kept - above);
    is_sure = !is_ranked || kHeads == 1 || above == kept;
    if (is_ranked) quarter = higher;
  }
  if (beside < count && is_sure) reinterpret_cast<uint16_t*>(words + own)[lane()] = static_cast<uint16_t>(quarter);
  XM_UNROLL(1)
  for (uint32_t unsure = ballot(!is_sure && lane() % 4 == 0); unsure; unsure &= unsure - 1) {
    const int i = lowest_bit(unsure) / 4;
    const int keys = from.keys - (own + i) * kTileKeys;
    const ExactBlock exact = {block.tops[first + i], block.factors[first + i], own + i, keys < kTileKeys ? keys : kTileKeys};
    const uint64_t word = rank_exactly(from, heads, exact, kLargest, block.kept[first + i], block.values[warp()], doubtful);
    if (lane() == 0) words[own + i] = word;
  }
  warp_sync();
}

// A block of threads takes a part of a list's blocks of keys.
template <int kHeads, bool kLargest, class Product>
XM_RESIDENT_KERNEL(kPredictThreads, 2) void select_keys(Predicted<Product> all, Sequences sequences, Selection selection) {
  auto& block = shared<SelectShared<kHeads>>();
  constexpr int kChunk = SelectShared<kHeads>::kChunk;
  let_next_start();
  wait_for_kernel_before();
  const Share share = share_at(sequences, blockIdx.x);
  if (share.sequence < 0) return;
  const Predicted<Product> from = of_sequence(all, share);
  const Selection job = of_sequence(selection, from, share);
  const int list = blockIdx.y;
  const Part part = part_of(blocks_of(from), share.own, share.count);
  const ListHeads heads = heads_of(from, job, list);
  load_rows(from, heads, block.rows);
  double total = heads.count;  // the probabilities of each head are 1 together
  if (job.masses) {
    total = 0;
    for (int i = lane(); i < from.parts; i += kWarp) total += job.part_masses[static_cast<int64_t>(list) * from.all_parts + i];
    total = lanes_sum(total);
  }
  bool doubtful = false;
  for (int chunk = part.first; chunk < part.last; chunk += kChunk) {
    doubtful |= find_classes<kHeads>(from, job, heads, list, total, chunk, part.last, block);
    block_sync();
    const int count = part.last - chunk < kChunk ? part.last - chunk : kChunk, even = ceil_div(count, kPredictWarps);
    const int each = even < kBeside ? even : kBeside;
    for (int first = warp() * each; first < count; first += kPredictWarps * each)
      keep_keys<kHeads, kLargest>(from, heads, job.words + static_cast<int64_t>(list) * from.room_blocks, chunk + first, first,
                                   count - first < each ? count - first : each, block, doubtful);
    block_sync();  // before the next chunk takes their place
  }
  if (ballot(doubtful) && lane() == 0) job.doubtful[list] = 1;
}

template <class Product>
int launch_selection(const Predicted<Product>& from, const Sequences& sequences, const Selection& job, int parts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(parts), static_cast<unsigned>(from.heads / job.heads_a_list), 1};
  if (job.masses) {
    const int failed = launch_early(weigh_blocks<Product>, blocks, kPredictThreads, sizeof(WeighShared), stream, from, sequences, job);
    if (failed) return failed;
  }
  const auto select = [&](auto kernel, size_t bytes) {
    return launch_early(kernel, blocks, kPredictThreads, bytes, stream, from, sequences, job);
  };
  const bool largest = job.masses;
  if (job.heads_a_list == 1) return select(select_keys<1, false, Product>, sizeof(SelectShared<1>));
  if (job.heads_a_list == 2) return select(largest ? select_keys<2, true, Product> : select_keys<2, false, Product>, sizeof(SelectShared<2>));
  if (job.heads_a_list <= 4) return select(largest ? select_keys<4, true, Product> : select_keys<4, false, Product>, sizeof(SelectShared<4>));
  return select(largest ? select_keys<8, true, Product> : select_keys<8, false, Product>, sizeof(SelectShared<8>));
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// After xm_cuda_score_keys, with the same parts. masses and part_masses only where the largest of some heads' probabilities is ranked.
XM_API int xm_cuda_select_keys(void* products, float* tops, double* sums, float* part_tops, double* part_sums, const float* slopes,
                               double* masses, double* part_masses, uint64_t* words, int* doubtful, int heads, int kv_heads, int code_bits,
                               int heads_a_list, int kept_high, int kept_low, float factor, double threshold_high, double threshold_low,
                               const int* lengths, int count, int room, int shares_wanted, int least, int most, int parts, void* stream) {
  const Selection job = {masses, part_masses, words, doubtful, heads_a_list, kept_high, kept_low, threshold_high, threshold_low};
  const Sequences sequences = {lengths, count, room, shares_wanted, least, most};
  const int blocks = ceil_div(room, kTileKeys);
  if (code_bits == 4) {
    const Predicted<int16_t> from = {static_cast<int16_t*>(products), tops, part_tops, sums, part_sums, slopes, factor, heads, kv_heads, blocks};
    return launch_selection(from, sequences, job, parts, stream);
  }
  const Predicted<int32_t> from = {static_cast<int32_t*>(products), tops, part_tops, sums, part_sums, slopes, factor, heads, kv_heads, blocks};
  return launch_selection(from, sequences, job, parts, stream);
}
