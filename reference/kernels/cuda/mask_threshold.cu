// Sanger's rule: every pair whose probability is above a threshold, and before it what the softmax of each row needs.
#include "mask_sums.h"

namespace xmsim {
namespace {

// Largest and smallest score of each row, and the sum of its exponentials.
template <int kDim>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 4) void sum_rows(CodeScores from, RowFacts* facts) {
  auto& block = shared<RowTile<kDim>>();
  const Rows rows = rows_of_head();
  const int64_t query = rows.first_query + static_cast<int64_t>(threadIdx.x);
  const KeyRange allowed = own_keys(from, query);
  const ScoreRow scores = score_row<kTurnedFours>(block.scores, threadIdx.x);
  RowSum row;
  walk_tiles<kBands, kDim>(from, rows, seen_tiles(from, rows.first_query, kRows), block, [&](int64_t tile) {
    const int seen = seen_of(allowed, tile * kTileKeys, kTileKeys);
    if (!seen) return;
    hide_keys(scores, tile, allowed);
    add_to(row, sum_of(scores, 0, kTileKeys, seen));
  });
  if (query < from.queries) facts[rows.first_head * from.queries + query] = facts_of(row);
}

// Every pair whose probability is above a threshold.
template <int kDim>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 4) void keep_above(CodeScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<RowTile<kDim>>();
  const Rows rows = rows_of_head();
  const int64_t query = rows.first_query + static_cast<int64_t>(threadIdx.x), row_words = ceil_div<int64_t>(from.keys, kTileKeys);
  const int64_t own_row = rows.first_head * from.queries + query;
  const KeyRange allowed = own_keys(from, query);
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  const RowFacts row = query < from.queries ? out.rows[own_row] : RowFacts{0, 0, 0};
  const bool equal_scores = is_equal(row);
  const double limit = rule.high * (equal_scores ? static_cast<double>(allowed.end - allowed.first) : row.sum);
  const float cut = static_cast<float>(limit), above = static_cast<float>(limit * (1 + kMargin) + kSmallest),
              below = static_cast<float>(limit * (1 - kMargin) - kSmallest);
  const ScoreRow scores = score_row<kTurnedFours>(block.scores, threadIdx.x);
  uint64_t* words = out.words + own_row * row_words;
  bool doubtful = false;
  int32_t kept = 0;
  walk_tiles<kBands, kDim>(from, rows, walk, block, [&](int64_t tile) {
    uint64_t word = 0;
    if (seen_of(allowed, tile * kTileKeys, kTileKeys)) {
      hide_keys(scores, tile, allowed);
      for (int first = 0; first < kTileKeys; first += kSixteen) {
        const Sixteen part = sixteen_at(scores, first);
        uint32_t bits = 0;
        XM_UNROLL(16)
        for (int i = 0; i < kSixteen; ++i) {
          const float weight = exponential(part.of[i] - row.top);
          const bool is_seen = part.of[i] > -kInfinity;
          bits |= is_seen && (equal_scores ? 1.0 > limit : weight >= cut) ? 1u << i : 0u;
          doubtful |= is_seen && weight >= below && weight < above;
        }
        word |= static_cast<uint64_t>(bits) << first;
      }
    }
    if (query < from.queries) words[tile] = word;
    kept += popcount(word);
  });
  if (query >= from.queries) return;
  for (int64_t tile = 0; tile < row_words; ++tile)
    if (tile < walk.first || tile >= walk.first + walk.count) words[tile] = 0;
  out.kept[own_row] = kept;
  out.doubtful[own_row] = doubtful && !equal_scores;
}

template <int kDim>
int launch_above(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, Stream stream) {
  return launch(keep_above<kDim>, blocks_of_rows(from), kMaskThreads, sizeof(RowTile<kDim>), stream, from, rule, out);
}

template <int kDim>
int launch_sums(const CodeScores& from, RowFacts* facts, Stream stream) {
  return launch(sum_rows<kDim>, blocks_of_rows(from), kMaskThreads, sizeof(RowTile<kDim>), stream, from, facts);
}

}  // namespace
}  // namespace xmsim

// facts [heads, queries]: what the softmax of each row needs.
XM_API int xm_cuda_mask_sums(const xmsim::CodeScores* from, xmsim::RowFacts* facts, void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_sums<64>(*from, facts, stream)
         : from->dim == 128 ? launch_sums<128>(*from, facts, stream)
                            : launch_sums<256>(*from, facts, stream);
}

// Fills words, kept and doubtful by Sanger's rule; the target's `rows` hold the facts of the rows.
XM_API int xm_cuda_mask_above(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_above<64>(*from, *rule, *out, stream)
         : from->dim == 128 ? launch_above<128>(*from, *rule, *out, stream)
                            : launch_above<256>(*from, *rule, *out, stream);
}
