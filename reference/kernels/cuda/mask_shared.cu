// X:M with one list of keys for the query heads of a KV head, ranked by the sum or the largest of their probabilities.
// A block of threads has all heads of a group, so that a tile of keys is scored once for them and only their probabilities meet.
#include "mask_select.h"

namespace xmsim {
namespace {

// Probabilities and their sums are off by at most 1.6e-5: an exponential by 7.6e-6, the row's sum, of rounded scores, by 7.9e-6 (mask_sums.h).
constexpr double kSharedMargin = 4e-5;
constexpr float kTiny = 1e-30f;  // below it probabilities lose their digits, and then do not tell scores apart

template <int kDim>
struct GroupShared {
  ScoreTile<kDim, kRows> tile;              // scores, then probabilities, of each head's queries
  alignas(16) float group[kRows / 2 * kTurnedFours];  // of the group's queries; -inf where a pair is not allowed
};

// The probabilities of a group's heads for one query: those of the next head are `step` further.
struct HeadRows {
  const float* first;
  int heads, step;
};

XM_DEVICE float probability(const HeadRows& rows, int head, int column) { return rows.first[head * rows.step + column]; }

XM_DEVICE float combined(const HeadRows& rows, int column, bool by_largest) {
  float value = probability(rows, 0, column);
  XM_UNROLL(1)
  for (int head = 1; head < rows.heads; ++head) {
    const float next = probability(rows, head, column);
    value = by_largest ? (next > value ? next : value) : value + next;
  }
  return value;
}

XM_DEVICE bool is_close(float value, float cut) {
  const float gap = value > cut ? value - cut : cut - value;
  return gap <= static_cast<float>(kSharedMargin) * cut + kTiny;
}

// Whether two keys tie for certain: all heads have the same scores of both; or, of the largest, one head is it for both, by far.
XM_DEVICE bool is_tie(const HeadRows& rows, int a, int b, bool by_largest) {
  bool same = true, one_head = false;
  XM_UNROLL(1)
  for (int head = 0; head < rows.heads; ++head) {
    const float own = probability(rows, head, a);
    const bool equal = own == probability(rows, head, b) && own > kTiny;
    same &= equal;
    bool leads = equal;
    XM_UNROLL(1)
    for (int other = 0; other < rows.heads; ++other)
      leads &= other == head || (probability(rows, other, a) < own && !is_close(probability(rows, other, a), own) &&
                                 probability(rows, other, b) < own && !is_close(probability(rows, other, b), own));
    one_head |= leads;
  }
  return same || (by_largest && one_head);
}

// Whether the `kept` largest of a block are what they are whatever the rounding.
XM_DEVICE bool is_sure(const ScoreBlock& block, uint64_t kept_bits, int kept, const HeadRows& rows, bool by_largest) {
  if (popcount(kept_bits) < kept || !kept) return true;  // all that are allowed, or none
  float cut = kInfinity;
  for (uint64_t left = kept_bits; left; left &= left - 1) {
    const float value = score_in(block, lowest_bit(left));
    cut = value < cut ? value : cut;
  }
  uint64_t close = 0;
  XM_UNROLL(1)
  for (int i = 0; i < block.count; ++i) {
    const float value = score_in(block, i);
    close |= static_cast<uint64_t>(value > -kInfinity && is_close(value, cut)) << i;
  }
  if (!(close & ~kept_bits)) return true;
  const int first = lowest_bit(close);
  for (uint64_t left = close & (close - 1); left; left &= left - 1)
    if (!is_tie(rows, block.column + first, block.column + lowest_bit(left), by_largest)) return false;
  return true;
}

XM_DEVICE float allowed_sum(const ScoreBlock& block) {
  float sum = 0;
  for (int first = 0; first < block.count; first += kSixteen) {
    const Sixteen part = sixteen_at(block.row, block.column + first);
    float sums[4] = {0, 0, 0, 0};
    XM_UNROLL(16)
    for (int i = 0; i < kSixteen; ++i) sums[i % 4] += fmaxf(part.of[i], 0.0f);  // -inf adds nothing
    sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  return sum;
}

// The target's rows are those of KV heads; `doubts` holds whether the candidates of a block are in doubt: 1 the high class's, 2 the low one's,
// less than 0 where the row does not see the block.
template <int kDim>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 3) void keep_shared(CodeScores from, MaskRule rule, MaskTarget out, int by_largest) {
  auto& block = shared<GroupShared<kDim>>();
  const int heads = static_cast<int>(from.heads / from.kv_heads), queries = kRows / heads, own_row = threadIdx.x;
  const int own_query = own_row % queries, own_head = own_row / queries;
  const int64_t kv_head = blockIdx.y;
  const Rows rows{kv_head * heads, static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * queries, queries};
  const int64_t query = rows.first_query + own_query;
  const bool there = query < from.queries, decides = own_head == 0;
  const KeyRange allowed = own_keys(from, query);
  const RowFacts own = there ? out.rows[(rows.first_head + own_head) * from.queries + query] : RowFacts{0, 0, 1};
  const float per_sum = static_cast<float>(1 / own.sum);
  bool equal_scores = true;  // of all heads: then every pair counts as one, and sums are whole numbers
  for (int head = 0; head < heads; ++head)
    equal_scores &= !there || is_equal(out.rows[(rows.first_head + head) * from.queries + query]);
  const int size = static_cast<int>(rule.block), blocks_per_tile = kTileKeys / size;
  const int64_t row_words = ceil_div<int64_t>(from.keys, kTileKeys), padded = static_cast<int64_t>(gridDim.x) * queries;
  const int64_t seen = allowed.end - allowed.first;
  const double blocks = counted_blocks(rule, from.keys, seen);
  uint64_t* words = out.words + (kv_head * from.queries + query) * row_words;
  float* scores = block.tile.scores + own_row * kGapAfterRow;
  const ScoreRow values = score_row(block.group, own_query);
  const HeadRows of_query{block.tile.scores + own_query * kGapAfterRow, heads, queries * kGapAfterRow};
  const TileWalk walk = seen_tiles(from, rows.first_query, queries);
  const auto room_of_block = [&](int64_t tile, int part) { return ((kv_head * row_words + tile) * blocks_per_tile + part) * padded + query; };
  const auto room_of_tile = [&](int64_t tile) { return (kv_head * row_words + tile) * padded + query; };
  double row_mass = 0;

  walk_tiles<kBands, kDim>(from, rows, walk, block.tile, [&](int64_t tile) {
    XM_UNROLL(8)
    for (int column = 0; column < kTileKeys; ++column) scores[column] = times(exponential(scores[column] - own.level), per_sum);
    block_sync();
    for (int column = own_head; column < kTileKeys; column += heads) {  // the heads' threads share a query's columns
      const int64_t key = tile * kTileKeys + column;
      const bool is_allowed = key >= allowed.first && key < allowed.end;
      score_at(values, column) =
          !is_allowed ? -kInfinity : equal_scores ? 1.0f : combined(of_query, column, by_largest != 0);
    }
    block_sync();
    uint64_t high = 0, low = 0;
    for (int part = 0; part < blocks_per_tile; ++part) {
      const ScoreBlock own_block{values, part * size, size};
      const bool is_seen = decides && seen_of(allowed, tile * kTileKeys + part * size, size) > 0;
      const float sum = is_seen ? allowed_sum(own_block) : 0.0f;
      row_mass += sum;
      // the row's sum only grows: what is too little of it now is so at its end
      const bool may_live = is_seen && !(sum * static_cast<float>(blocks) * 1.01f < static_cast<float>(rule.low * row_mass));
      float doubts = is_seen ? 0.0f : -1.0f;
      if (ballot(may_live)) {
        const int kept_high = static_cast<int>(rule.kept_high), kept_low = static_cast<int>(rule.kept_low);
        const Candidates found = candidates(own_block, kept_high, kept_low);
        high |= found.high << part * size;
        low |= found.low << part * size;
        if (may_live && !equal_scores) {
          const bool sure_high = is_sure(own_block, found.high, kept_high, of_query, by_largest != 0);
          const bool sure_low = is_sure(own_block, found.low, kept_low, of_query, by_largest != 0);
          doubts = (sure_high ? 0.0f : 1.0f) + (sure_low ? 0.0f : 2.0f);
        }
      }
      if (!decides) continue;
      out.mass[room_of_block(tile, part)] = sum;
      out.doubts[room_of_block(tile, part)] = doubts;
    }
    if (decides && there) words[tile] = high;
    if (decides) out.low_words[room_of_tile(tile)] = low;
    block_sync();  // before the next scores: other warps may still compare the heads'
  });

  if (!there || !decides) return;
  const int64_t first_tile = allowed.first / kTileKeys, end_tile = seen ? (allowed.end - 1) / kTileKeys + 1 : first_tile;
  for (int64_t tile = 0; tile < row_words; ++tile)
    if (tile < walk.first || tile >= walk.first + walk.count) words[tile] = 0;
  int blocks_seen = 0;
  for (int64_t tile = first_tile; tile < end_tile; ++tile)
    for (int part = 0; part < blocks_per_tile; ++part) blocks_seen += out.doubts[room_of_block(tile, part)] >= 0;
  const ClassLimits limits = limits_of(rule, row_mass, blocks, blocks_seen == 1);
  bool doubtful = false;
  int32_t kept = 0;
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    uint64_t word = words[tile];
    for (int part = 0; part < blocks_per_tile; ++part) {
      const float doubts = out.doubts[room_of_block(tile, part)];
      if (doubts < 0) continue;
      const BlockClass found = class_of(limits, out.mass[room_of_block(tile, part)], doubtful, kSharedMargin);
      doubtful |= (found == BlockClass::high && (doubts == 1 || doubts == 3)) || (found == BlockClass::low && doubts >= 2);
      if (found == BlockClass::high) continue;
      const uint64_t own_keys_of_block = (size < 64 ? (1ull << size) - 1 : ~0ull) << part * size;
      word = (word & ~own_keys_of_block) | (found == BlockClass::low ? out.low_words[room_of_tile(tile)] & own_keys_of_block : 0);
    }
    words[tile] = word;
    kept += popcount(word);
  }
  out.kept[kv_head * from.queries + query] = kept;
  out.doubtful[kv_head * from.queries + query] = doubtful && !equal_scores;
}

template <int kDim>
int launch_shared(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, int by_largest, Stream stream) {
  const int64_t queries = kRows / (from.heads / from.kv_heads);
  const dim3 blocks{static_cast<unsigned>(ceil_div(from.queries, queries)), static_cast<unsigned>(from.kv_heads), 1};
  return launch(keep_shared<kDim>, blocks, kMaskThreads, sizeof(GroupShared<kDim>), stream, from, rule, out, by_largest);
}

}  // namespace
}  // namespace xmsim

// X:M for groups of 2, 4 or 8 heads, whose softmax the target's `rows` hold; words, kept and doubtful are of KV heads. Blocks have 16, 32 or
// 64 keys, of which at most 16 are kept; no slopes, and scores that differ do so by at least 1.2e-4.
XM_API int xm_cuda_mask_shared(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, int by_largest,
                               void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_shared<64>(*from, *rule, *out, by_largest, stream)
         : from->dim == 128 ? launch_shared<128>(*from, *rule, *out, by_largest, stream)
                            : launch_shared<256>(*from, *rule, *out, by_largest, stream);
}
