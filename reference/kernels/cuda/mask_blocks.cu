// X:M and N:M, which decide the blocks of a row. A thread has a row, a block of threads 128 of one head.
#include "mask_packed.h"

namespace xmsim {
namespace {

constexpr float kSurelyDead = 1.01f;  // far above what rounding can do

// Blocks of threads on a multiprocessor. GPUs before sm_90 compare pairs of 16 bits in several steps, which takes registers.
template <int kDim, class Tile>
constexpr int resident_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (kDim == 128 && sizeof(Tile) == sizeof(PackedTile<kDim>)) return 3;
#endif
  return kDim == 256 ? 2 : 4;
}

// A thread's own row of a tile, and how near to a threshold the sums of such rows are decided again.
template <int kDim>
XM_DEVICE ScoreRow row_of(RowTile<kDim>& block, float) {
  return score_row<kTurnedFours>(block.scores, threadIdx.x);
}

template <int kDim>
XM_DEVICE PackedRow row_of(PackedTile<kDim>& block, float factor) {
  return packed_row(block.scores, threadIdx.x, factor);
}

XM_DEVICE double margin_of(const ScoreRow&, const RowSum&) { return kMargin; }
XM_DEVICE double margin_of(const PackedRow&, const RowSum& row) { return packed_margin(row); }

// X:M (and N:M, where every block keeps kept_high): each tile gives for each of its blocks the sum of exponentials below the block's top and
// the keys that it keeps in either class; the row's sum, known at the end, tells the class.
template <int kDim, class Tile>
XM_RESIDENT_KERNEL(kMaskThreads, (resident_blocks<kDim, Tile>())) void keep_blocks(CodeScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<Tile>();
  const Rows rows = rows_of_head();
  const int64_t head = rows.first_head, query = rows.first_query + static_cast<int64_t>(threadIdx.x);
  const KeyRange allowed = own_keys(from, query);
  const bool by_share = rule.kind != MaskKind::nm;
  const int size = static_cast<int>(rule.block), blocks_per_tile = kTileKeys / size;
  const int64_t row_words = ceil_div<int64_t>(from.keys, kTileKeys), padded = static_cast<int64_t>(gridDim.x) * kRows;
  const int64_t seen = allowed.end - allowed.first;
  const double blocks = counted_blocks(rule, from.keys, seen);
  uint64_t* words = out.words + (head * from.queries + query) * row_words;
  const auto scores = row_of(block, from.factor[head]);
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  // where a thread keeps what it has found: neighbours next to each other
  const auto room_of_block = [&](int64_t tile, int part) { return ((head * row_words + tile) * blocks_per_tile + part) * padded + query; };
  const auto room_of_tile = [&](int64_t tile) { return (head * row_words + tile) * padded + query; };
  RowSum row;

  walk_tiles<kBands, kDim>(from, rows, walk, block, [&](int64_t tile) {
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
      const auto own = block_of(scores, part * size, size);
      const Candidates found = candidates(own, static_cast<int>(rule.kept_high), static_cast<int>(rule.kept_low));
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
  const double margin = margin_of(scores, row);
  bool doubtful = false;
  int32_t kept = 0;
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    uint64_t word = words[tile];
    for (int part = 0; by_share && part < blocks_per_tile; ++part) {
      const float top = out.top[room_of_block(tile, part)];
      if (!(top > -kInfinity)) continue;
      const double mass = static_cast<double>(out.mass[room_of_block(tile, part)]) * exponential(top - row.top);
      const BlockClass found = class_of(limits, mass, doubtful, margin);
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
int launch_blocks(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, bool is_packed, Stream stream) {
  const auto run = [&](auto kernel, size_t bytes) {
    return launch(kernel, blocks_of_rows(from), kMaskThreads, bytes, stream, from, rule, out);
  };
  if (is_packed) return run(keep_blocks<kDim, PackedTile<kDim>>, sizeof(PackedTile<kDim>));
  return run(keep_blocks<kDim, RowTile<kDim>>, sizeof(RowTile<kDim>));
}

}  // namespace
}  // namespace xmsim

// Fills words, kept and doubtful by X:M or N:M with blocks of 16, 32 or 64 keys, of which at most 16 are kept. Packed: blocks of 32 or 64 keys,
// no slopes, and products below 2^15.
XM_API int xm_cuda_mask_blocks(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, int is_packed,
                               void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_blocks<64>(*from, *rule, *out, is_packed != 0, stream)
         : from->dim == 128 ? launch_blocks<128>(*from, *rule, *out, is_packed != 0, stream)
                            : launch_blocks<256>(*from, *rule, *out, is_packed != 0, stream);
}
