// X:M and N:M, which decide the blocks of a row. A thread has a row, a block of threads 128 of one head.
#include "mask_select.h"

namespace xmsim {
namespace {

constexpr float kSurelyDead = 1.01f;  // far above what rounding can do

// X:M (and N:M, where every block keeps kept_high): each tile gives for each of its blocks the sum of exponentials below the block's top and
// the keys that it keeps in either class; the row's sum, known at the end, tells the class.
template <int kDim>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 4) void keep_blocks(CodeScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<RowTile<kDim>>();
  const Rows rows = rows_of_head();
  const int64_t head = rows.first_head, query = rows.first_query + static_cast<int64_t>(threadIdx.x);
  const KeyRange allowed = own_keys(from, query);
  const bool by_share = rule.kind != MaskKind::nm;
  const int size = static_cast<int>(rule.block), blocks_per_tile = kTileKeys / size;
  const int64_t row_words = ceil_div<int64_t>(from.keys, kTileKeys), padded = static_cast<int64_t>(gridDim.x) * kRows;
  const int64_t seen = allowed.end - allowed.first;
  const double blocks = counted_blocks(rule, from.keys, seen);
  uint64_t* words = out.words + (head * from.queries + query) * row_words;
  const ScoreRow scores = score_row<kTurnedFours>(block.scores, threadIdx.x);
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  // where a thread keeps what it has found: neighbours next to each other
  const auto room_of_block = [&](int64_t tile, int part) { return ((head * row_words + tile) * blocks_per_tile + part) * padded + query; };
  const auto room_of_tile = [&](int64_t tile) { return (head * row_words + tile) * padded + query; };
  RowSum row;

  walk_tiles<kBands>(from, rows, walk, block, [&](int64_t tile) {
    hide_keys(scores, tile, allowed);
    uint64_t high = 0, low = 0;
    for (int part = 0; part < blocks_per_tile; ++part) {
      const int seen_here = seen_of(allowed, tile * kTileKeys + part * size, size);
      bool may_live = seen_here > 0;
      if (by_share) {
        PartSum found;
        if (may_live) {
          found = sum_of(scores, part * size, size, seen_here);
          add_to(row, found);
          // the row's sum only grows: what is too little of it now is so at its end
          const float share = found.sum * exponential(found.top - row.anchor) * static_cast<float>(blocks);
          may_live = !(share * kSurelyDead < static_cast<float>(rule.low * row.sum));
        }
        out.mass[room_of_block(tile, part)] = found.sum;
        out.top[room_of_block(tile, part)] = found.top;
      }
      if (!ballot(may_live)) continue;  // selection is the larger part of the work
      const Candidates found = candidates({scores, part * size, size}, static_cast<int>(rule.kept_high), static_cast<int>(rule.kept_low));
      high |= found.high << part * size;
      low |= found.low << part * size;
    }
    if (query < from.queries) words[tile] = high;
    if (by_share) out.low_words[room_of_tile(tile)] = low;
  });

  if (query >= from.queries) return;
  const int64_t first_tile = allowed.first / kTileKeys, end_tile = seen ? (allowed.end - 1) / kTileKeys + 1 : first_tile;
  for (int64_t tile = 0; tile < row_words; ++tile)
    if (tile < walk.first || tile >= walk.first + walk.count) words[tile] = 0;
  // again in one order and below the row's top: of equal scores all of it is exact
  double row_mass = 0;
  int blocks_seen = 0;
  for (int64_t tile = first_tile; by_share && tile < end_tile; ++tile) {
    for (int part = 0; part < blocks_per_tile; ++part) {
      const float top = out.top[room_of_block(tile, part)];
      if (!(top > -kInfinity)) continue;
      row_mass += static_cast<double>(out.mass[room_of_block(tile, part)]) * exponential(top - row.top);
      ++blocks_seen;
    }
  }
  const ClassLimits limits = limits_of(rule, row_mass, blocks, blocks_seen == 1);
  bool doubtful = false;
  int32_t kept = 0;
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    uint64_t word = words[tile];
    for (int part = 0; by_share && part < blocks_per_tile; ++part) {
      const float top = out.top[room_of_block(tile, part)];
      if (!(top > -kInfinity)) continue;
      const BlockClass found = class_of(limits, static_cast<double>(out.mass[room_of_block(tile, part)]) * exponential(top - row.top), doubtful);
      if (found == BlockClass::high) continue;
      const uint64_t own = (size < 64 ? (1ull << size) - 1 : ~0ull) << part * size;
      word = (word & ~own) | (found == BlockClass::low ? out.low_words[room_of_tile(tile)] & own : 0);
    }
    words[tile] = word;
    kept += popcount(word);
  }
  out.kept[head * from.queries + query] = kept;
  out.doubtful[head * from.queries + query] = doubtful && row.least < row.top;
}

template <int kDim>
int launch_blocks(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, Stream stream) {
  return launch(keep_blocks<kDim>, blocks_of_rows(from), kMaskThreads, sizeof(RowTile<kDim>), stream, from, rule, out);
}

}  // namespace
}  // namespace xmsim

// Fills words, kept and doubtful by X:M or N:M with blocks of 16, 32 or 64 keys, of which at most 16 are kept.
XM_API int xm_cuda_mask_blocks(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_blocks<64>(*from, *rule, *out, stream)
         : from->dim == 128 ? launch_blocks<128>(*from, *rule, *out, stream)
                            : launch_blocks<256>(*from, *rule, *out, stream);
}
