// X:M and N:M, which decide the blocks of a row. A warp has 32 rows, a block of threads 128 of one head. Three steps: the sums of all blocks,
// where the products lie; the classes that they give, now that each row's sum is known; and the keys of the blocks that keep some.
#include "mask_packed.h"

namespace xmsim {
namespace {

constexpr int kWarps = kMaskThreads / kWarp;
constexpr int kSlots = 2 * kWarp;  // of a warp: fewer than 32 rows wait to be ranked when a tile brings up to 32 more

// Rows of a tile that wait to be ranked: their scores, and of each the row of the warp, the classes of its blocks from bit 8 on, and the tile.
struct PackedSlots {
  static constexpr int kPlaces = kSlots * (kRowWords + 2) * 4;  // from a warp's slots to the next's, in the units of places
  static XM_MEMBER int place_of(int slot) { return static_cast<int>(place_of_row(slot)); }
  alignas(128) uint32_t scores[kSlots * kRowWords];
  uint2 facts[kSlots];
};

struct FloatSlots {
  static constexpr int kPlaces = kSlots + kSlots * 2 / kTurnedFours;
  static XM_MEMBER int place_of(int slot) { return slot; }
  alignas(16) float scores[kSlots * kTurnedFours];
  uint2 facts[kSlots];
};

static_assert(PackedSlots::kPlaces == sizeof(PackedSlots) && FloatSlots::kPlaces * kTurnedFours * sizeof(float) == sizeof(FloatSlots));

template <int kDim, class Slots>
struct BlocksShared {
  alignas(16) int8_t keys[2][kTileKeys * kDim];
  Slots slots[kWarps];
  int32_t again;
};

// Slots of scores in float32, which are the reference's, for what 16 bits do not hold.
template <int kDim>
XM_DEVICE void score_slots(const CodeScores& from, const Rows& rows, int tile, bool whole, const Queries<kDim, kBands>& queries,
                           const int8_t* keys, float* scores, const int (&places)[kLaneRows]) {
  const Columns seen = seen_columns(from, rows, tile);
  each_value<true>(from, rows.first_head, tile, queries, keys, [&](int column, int i, float first, float second) {
    if (places[i] < 0) return;
    const bool sees_first = whole || is_seen(seen, i, column), sees_second = whole || is_seen(seen, i, column + 1);
    store_pair(&score_at(score_row(scores, places[i]), column), sees_first ? first : -kInfinity, sees_second ? second : -kInfinity);
  }, [](int) {});
}

XM_DEVICE uint64_t largest_at(uint32_t* scores, int place, int key, int size, int kept) {
  const PackedRow row{reinterpret_cast<unsigned char*>(scores), static_cast<uint32_t>(place)};
  return size == kTileKeys ? largest_packed<64>(row, key, kept) : largest_packed<32>(row, key, kept);
}

XM_DEVICE uint64_t largest_at(float* scores, int place, int key, int size, int kept) {
  const ScoreBlock block = block_of(score_row(scores, place), key, size);
  return largest_in(block, sixteen_largest(block), kept);
}

// What a block's sum tells of its class: exactly that of class_of for every float32, in two comparisons, and two of how near they are.
struct ClassCuts {
  float high, low;            // the largest sum that is not high, the smallest that is low
  float near_high, near_low;  // less than 0: never
};

// The largest float32 of which `fits` says yes, which it says of all that are smaller; `guess` is at most one step from it.
template <class Fits>
XM_DEVICE float last_that_fits(float guess, const Fits& fits) {
  const uint32_t bits = bits_of_float(guess);
  const float next = float_of_bits(bits + 1);
  return fits(next) ? next : fits(guess) || !bits ? guess : float_of_bits(bits - 1);
}

XM_DEVICE ClassCuts cuts_of(const ClassLimits& limits, double margin) {
  const float high = static_cast<float>(limits.high / limits.blocks), low = static_cast<float>(limits.low / limits.blocks);
  const auto near = [&](double limit, bool doubts) {
    return doubts && limit < 1e300 ? static_cast<float>((margin * limit + kSmallest) / limits.blocks) : -1.0f;
  };
  const float below = last_that_fits(low, [&](float mass) { return times(static_cast<double>(mass), limits.blocks) < limits.low; });
  return {last_that_fits(high, [&](float mass) { return times(static_cast<double>(mass), limits.blocks) <= limits.high; }),
          limits.low > 0 ? float_of_bits(bits_of_float(below) + 1) : 0.0f, near(limits.high, limits.doubts_high), near(limits.low, limits.doubts_low)};
}

// The classes of all blocks of a warp's rows, a lane a row; whether a class is in doubt, and how many keys the row keeps.
template <int kBlocksOfTile, bool kRounded>
XM_DEVICE void class_rows(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, const Rows& rows, const RowSum& own_sum,
                          int first_tile, int end_tile) {
  const bool by_share = rule.kind != MaskKind::nm;
  const int64_t query = rows.first_query + static_cast<int64_t>(threadIdx.x);
  const KeyRange allowed = own_keys(from, query);
  constexpr int size = kTileKeys / kBlocksOfTile;
  const int first = static_cast<int>(allowed.first), end = static_cast<int>(allowed.end), seen = end - first;
  const int holder = lane() % 8 * 4 + lane() / 8;  // of this lane's row, whose own it is
  const double blocks = counted_blocks(rule, from.keys, seen);
  const ClassLimits limits = limits_of(rule, shfl(own_sum.sum, holder), blocks, seen && first / size == (end - 1) / size);
  // of a block whose share is near a threshold, keys lie at most so far below the row's level: the logarithm of 64 blocks / threshold
  const double threshold = rule.low > 0 ? rule.low : rule.high;
  const double margin = margin_of<kRounded>(shfl(level_of(own_sum), holder), blocks < 1e11 * threshold ? 30 : 69);
  const ClassCuts cuts = by_share ? cuts_of(limits, margin) : ClassCuts{0, 0, -1, -1};
  const bool is_equal = shfl(static_cast<int>(own_sum.is_zero), holder) && !from.slopes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRows, row_words = ceil_div<int64_t>(from.keys, kTileKeys);
  const float* masses = out.mass + (rows.first_head * row_words + first_tile) * kBlocksOfTile * step + query;
  uint8_t* classes = out.classes + (rows.first_head * row_words + first_tile) * step + query;
  const int most_high = static_cast<int>(rule.kept_high), most_low = static_cast<int>(rule.kept_low);
  bool doubtful = false;
  int32_t kept = 0;
  constexpr int kAtOnce = 8;  // reads under way, whole tiles
  const int end_block = end_tile * kBlocksOfTile;
  for (int block = first_tile * kBlocksOfTile; block < end_block; block += kAtOnce) {
    float found[kAtOnce];
    XM_UNROLL(8)
    for (int i = 0; i < kAtOnce; ++i) {
      found[i] = kInfinity;
      if (by_share && block + i < end_block) found[i] = *masses;
      masses += step;
    }
    uint32_t of_tile = 0;
    XM_UNROLL(8)
    for (int i = 0; i < kAtOnce; ++i) {
      const int begin = (block + i) * size > first ? (block + i) * size : first, stop = (block + i + 1) * size < end ? (block + i + 1) * size : end;
      const float mass = found[i];
      const bool is_seen = begin < stop, is_high = is_seen & (mass > cuts.high), is_low = is_seen & !is_high & (mass >= cuts.low);
      doubtful |= is_seen & ((fabsf(mass - cuts.high) <= cuts.near_high) | (fabsf(mass - cuts.low) <= cuts.near_low));
      const int most = is_high ? most_high : is_low ? most_low : 0;
      kept += !is_seen ? 0 : stop - begin < most ? stop - begin : most;
      of_tile |= (is_high ? 1u : is_low ? 2u : 0u) << 2 * (i % kBlocksOfTile);
      if (i % kBlocksOfTile < kBlocksOfTile - 1) continue;
      if (block + i < end_block) *classes = static_cast<uint8_t>(of_tile);
      of_tile = 0;
      classes += step;
    }
  }
  if (query >= from.queries) return;
  out.kept[rows.first_head * from.queries + query] = kept;
  out.doubtful[rows.first_head * from.queries + query] = by_share && doubtful && !is_equal;
}

// Blocks of threads on a multiprocessor. GPUs before sm_90 compare pairs of 16 bits in several steps, which takes registers.
template <int kDim, class Slots>
constexpr int resident_blocks() {
  if (kDim == 256 || sizeof(Slots) > sizeof(PackedSlots)) return 2;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return 3;
#else
  return 4;
#endif
}

template <int kDim, class Slots>
XM_RESIDENT_KERNEL(kMaskThreads, (resident_blocks<kDim, Slots>()))
void keep_blocks(CodeScores from, MaskRule rule, MaskTarget out) {
  constexpr bool kRounded = sizeof(Slots) == sizeof(FloatSlots);
  auto& block = shared<BlocksShared<kDim, Slots>>();
  const Rows rows = rows_of_head();
  const int64_t head = rows.first_head, warp_query = rows.first_query + kWarp * warp();
  const int size = static_cast<int>(rule.block), blocks_per_tile = kTileKeys / size;
  const int row_words = static_cast<int>(ceil_div<int64_t>(from.keys, kTileKeys)), padded = static_cast<int>(gridDim.x) * kRows;
  const int64_t first_block = head * (row_words * blocks_per_tile);
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  const int first_tile = static_cast<int>(walk.first), end_tile = first_tile + static_cast<int>(walk.count);

  const int64_t there = from.queries - warp_query < kWarp ? from.queries - warp_query : kWarp;
  uint64_t* words = out.words + (head * from.queries + warp_query) * row_words;
  for (int64_t i = lane(); i < there * row_words; i += kWarp) words[i] = 0;

  RowSum sum;
  float* masses = out.mass + first_block * padded + warp_query + own_row();
  if (rule.kind != MaskKind::nm)
    sum = sum_rows<kDim, kRounded>(from, rows, block.keys, block.again, size, [&](int tile, int number, float mass) {
      masses[static_cast<int64_t>(tile * blocks_per_tile + number) * padded] = mass;
    });
  warp_sync();
  if (blocks_per_tile == 1) class_rows<1, kRounded>(from, rule, out, rows, sum, first_tile, end_tile);
  if (blocks_per_tile == 2) class_rows<2, kRounded>(from, rule, out, rows, sum, first_tile, end_tile);
  if (blocks_per_tile == 4) class_rows<4, kRounded>(from, rule, out, rows, sum, first_tile, end_tile);
  block_sync();

  const uint8_t* classes = out.classes + head * row_words * padded + rows.first_query;
  Slots& slots = block.slots[warp()];
  Queries<kDim, kBands> queries;
  load_queries(from, rows, queries);
  const WholeTiles whole = whole_tiles(from, rows);
  const uint8_t* own_classes = classes + kWarp * warp() + own_row();
  const uint32_t lanes_before = (1u << lane()) - 1;
  const int first_place = warp() * Slots::kPlaces;
  int waiting = 0;

  const auto rank = [&](int first, int count) {
    const int slot = first + (lane() < count ? lane() : 0);
    const uint2 facts = slots.facts[slot];
    uint64_t word = 0;
    for (int part = 0; part < blocks_per_tile; ++part) {
      const uint32_t found = facts.x >> (8 + 2 * part) & 3;
      const int kept = static_cast<int>(found & 1 ? rule.kept_high : found ? rule.kept_low : 0);
      const uint64_t keys = largest_at(block.slots[0].scores, first_place + Slots::place_of(slot), part * size, size, kept);
      if (kept) word |= keys << part * size;
    }
    if (lane() < count) words[static_cast<int64_t>(facts.x & 0xff) * row_words + facts.y] = word;
  };

  // tiles of which some row of the block of threads keeps keys; a lane looks at one of 32 at a time
  int group = first_tile - kWarp;
  uint32_t live = 0;
  const auto next = [&] {
    while (!live) {
      group += kWarp;
      if (group >= end_tile) return -1;
      uint32_t any = 0;
      if (group + lane() < end_tile) {
        const uint4* of_rows = reinterpret_cast<const uint4*>(classes + static_cast<int64_t>(group + lane()) * padded);
        XM_UNROLL(8)
        for (int i = 0; i < kRows / 16; ++i) any |= of_rows[i].x | of_rows[i].y | of_rows[i].z | of_rows[i].w;
      }
      live = ballot(any != 0);
    }
    const int tile = group + lowest_bit(live);
    live &= live - 1;
    return tile;
  };

  walk_keys<kDim>(from, kv_head_of(from, rows), block.keys, next, [&](int tile, const int8_t* keys) {
    const uint32_t found = own_classes[static_cast<int64_t>(tile) * padded], any = ballot(found != 0);
    if (!any) return;
    const int slot = waiting + popcount(any & lanes_before), place = found ? first_place + Slots::place_of(slot) : -1;
    if (found) slots.facts[slot] = {static_cast<uint32_t>(own_row()) | found << 8, static_cast<uint32_t>(tile)};
    int places[kLaneRows];
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i) places[i] = shfl(place, lane() / 4 * 4 + i);
    score_slots<kDim>(from, rows, tile, is_whole(whole, tile), queries, keys, block.slots[0].scores, places);
    waiting += popcount(any);
    warp_sync();
    if (waiting >= kWarp) {
      waiting -= kWarp;
      rank(waiting, kWarp);
      warp_sync();
    }
  });
  if (waiting) rank(0, waiting);
}

template <int kDim>
int launch_blocks(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, bool is_packed, Stream stream) {
  const auto run = [&](auto kernel, size_t bytes) {
    return launch(kernel, blocks_of_rows(from), kMaskThreads, bytes, stream, from, rule, out);
  };
  if (is_packed) return run(keep_blocks<kDim, PackedSlots>, sizeof(BlocksShared<kDim, PackedSlots>));
  return run(keep_blocks<kDim, FloatSlots>, sizeof(BlocksShared<kDim, FloatSlots>));
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
