// Sanger's rule: every pair whose probability is above a threshold, and before it what the softmax of each row needs.
#include "mask_sums.h"

namespace xmsim {
namespace {

template <int kDim>
struct SumsShared {
  alignas(16) int8_t keys[2][kTileKeys * kDim];
  int32_t again;
};

template <int kDim, bool kRounded>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 3) void note_rows(CodeScores from, RowFacts* facts) {
  auto& block = shared<SumsShared<kDim>>();
  const Rows rows = rows_of_head();
  const RowSum row = sum_rows<kDim, kRounded>(from, rows, block.keys, block.again, kTileKeys, [](int, int, float) {});
  const int64_t query = rows.first_query + kWarp * warp() + own_row();
  if (query < from.queries) facts[rows.first_head * from.queries + query] = facts_of<kRounded>(row, from.slopes != nullptr);
}

// A lane's own row of what each has of four rows, where all other lanes of its quad have other bits.
XM_DEVICE uint32_t own_bits(const uint32_t (&rows)[kLaneRows]) {
  const bool upper = lane() & 2, odd = lane() & 1;
  const uint32_t left = (upper ? rows[2] : rows[0]) | shfl_xor(upper ? rows[0] : rows[2], 2);
  const uint32_t right = (upper ? rows[3] : rows[1]) | shfl_xor(upper ? rows[1] : rows[3], 2);
  return (odd ? right : left) | shfl_xor(odd ? left : right, 1);
}

// The least of a quad's numbers for a lane's own row.
XM_DEVICE float own_least(const float (&rows)[kLaneRows]) {
  const bool upper = lane() & 2, odd = lane() & 1;
  const float left = fminf(upper ? rows[2] : rows[0], shfl_xor(upper ? rows[0] : rows[2], 2));
  const float right = fminf(upper ? rows[3] : rows[1], shfl_xor(upper ? rows[1] : rows[3], 2));
  return fminf(odd ? right : left, shfl_xor(odd ? left : right, 1));
}

// The thresholds of a lane's rows as powers of 2, and how near to them a power came.
struct Cuts {
  float cut[kLaneRows], nearest[kLaneRows];
};

// Bits of the keys of a tile whose powers reach the cuts of their rows: the lower and the upper 32 of a lane's own row.
template <bool kRounded, bool kWhole, int kDim>
XM_DEVICE uint2 bits_above(const CodeScores& from, const Rows& rows, int tile, const Queries<kDim, kBands>& queries, const int8_t* keys,
                           const Powers& powers, Cuts& cuts) {
  const Columns seen = kWhole ? Columns{} : seen_columns(from, rows, tile);
  uint32_t bits[kLaneRows] = {0, 0, 0, 0}, halves[2] = {0, 0};
  each_value<kRounded>(from, rows.first_head, tile, queries, keys, [&](int column, int i, float first, float second) {
    const float power = exponent_of<kRounded>(first, powers.scale[i], powers.base[i]);
    const float next = exponent_of<kRounded>(second, powers.scale[i], powers.base[i]);
    const bool has = kWhole || is_seen(seen, i, column), has_next = kWhole || is_seen(seen, i, column + 1);
    const int place = column % 32;
    bits[i] |= ((power >= cuts.cut[i]) & has ? 1u : 0u) << place | ((next >= cuts.cut[i]) & has_next ? 2u : 0u) << place;
    cuts.nearest[i] = fminf(cuts.nearest[i], has ? fabsf(power - cuts.cut[i]) : kInfinity);
    cuts.nearest[i] = fminf(cuts.nearest[i], has_next ? fabsf(next - cuts.cut[i]) : kInfinity);
  }, [&](int end) {
    if (end % 32) return;
    const uint32_t found = own_bits(bits);
    halves[0] = end == 32 ? found : halves[0];
    halves[1] = found;
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i) bits[i] = 0;
  });
  return {halves[0], halves[1]};
}

// Every pair whose probability is above a threshold: whose power of 2 reaches that of the threshold, so that no exponential is made.
template <int kDim, bool kRounded>
XM_RESIDENT_KERNEL(kMaskThreads, (kDim == 256 || (kRounded && kDim == 128) ? 2 : 3)) void keep_above(CodeScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<SumsShared<kDim>>();
  const Rows rows = rows_of_head();
  const int64_t head_row = rows.first_head * from.queries, warp_query = rows.first_query + kWarp * warp();
  const int row_words = static_cast<int>(ceil_div<int64_t>(from.keys, kTileKeys));
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  const WholeTiles whole = whole_tiles(from, rows);
  Queries<kDim, kBands> queries;
  load_queries(from, rows, queries);
  Powers powers;
  Cuts cuts;
  float near[kLaneRows];  // as near a power is decided again; less than 0: never
  XM_UNROLL(4)
  for (int i = 0; i < kLaneRows; ++i) {
    const int64_t query = warp_query + lane_row(i);
    const RowFacts row = query < from.queries ? out.rows[head_row + query] : RowFacts{0, 0, 1};
    const double limit = rule.high * row.sum;
    // of lower probabilities keys lie further below the level; and the factor is off by 7.3e-8 of a score, not of a difference
    const double margin = (rule.high > 1e-12 ? row.margin : row.margin + kMargin) + (kRounded ? 0 : 7.3e-8 * (fabsf(row.level) + 69));
    const double factor = static_cast<double>(from.factor[rows.first_head]) * kLog2OfE;
    const double level = static_cast<double>(row.level) * 1.44269504088896341;
    powers.scale[i] = kRounded ? kLog2OfE : static_cast<float>(factor);
    powers.base[i] = kRounded ? row.level : -static_cast<float>(static_cast<double>(kRounderFloat) * powers.scale[i] + level);
    const double moved = kRounded ? 0 : static_cast<double>(kRounderFloat) * powers.scale[i] + powers.base[i] + level;
    const bool is_far = limit < 1e-24;  // where what float32 loses could decide
    cuts.cut[i] = is_far ? 0 : static_cast<float>(binary_logarithm(limit) + moved);
    near[i] = is_far ? kInfinity : static_cast<float>(1.5 * margin) + 1e-7f * fabsf(cuts.cut[i]);
    if (is_equal(row)) {
      powers.scale[i] = 0;
      powers.base[i] = 0;
      cuts.cut[i] = 1.0 > rule.high * row.sum ? -kInfinity : kInfinity;
      near[i] = -1;
    }
    cuts.nearest[i] = kInfinity;
  }
  const int64_t own_query = warp_query + own_row();
  const bool there = own_query < from.queries;
  uint64_t* words = out.words + (head_row + own_query) * row_words;
  const float own_near = own_of(near);
  int32_t kept = 0;
  int tile = static_cast<int>(walk.first);
  const int end_tile = tile + static_cast<int>(walk.count);
  if (there) {
    for (int i = 0; i < row_words; ++i)
      if (i < tile || i >= end_tile) words[i] = 0;
  }
  walk_keys<kDim>(from, kv_head_of(from, rows), block.keys, [&] { return tile < end_tile ? tile++ : -1; }, [&](int at, const int8_t* keys) {
    const uint2 bits = is_whole(whole, at)
        ? bits_above<kRounded, true>(from, rows, at, queries, keys, powers, cuts)
        : bits_above<kRounded, false>(from, rows, at, queries, keys, powers, cuts);
    kept += popcount(bits.x) + popcount(bits.y);
    if (there) words[at] = static_cast<uint64_t>(bits.y) << 32 | bits.x;
  });
  const bool doubtful = own_least(cuts.nearest) <= own_near;
  if (!there) return;
  out.kept[head_row + own_query] = kept;
  out.doubtful[head_row + own_query] = doubtful;
}

template <int kDim>
int launch_above(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, bool is_plain, Stream stream) {
  const auto run = [&](auto kernel) { return launch(kernel, blocks_of_rows(from), kMaskThreads, sizeof(SumsShared<kDim>), stream, from, rule, out); };
  return is_plain ? run(keep_above<kDim, false>) : run(keep_above<kDim, true>);
}

template <int kDim>
int launch_sums(const CodeScores& from, RowFacts* facts, bool is_plain, Stream stream) {
  const auto run = [&](auto kernel) { return launch(kernel, blocks_of_rows(from), kMaskThreads, sizeof(SumsShared<kDim>), stream, from, facts); };
  return is_plain ? run(note_rows<kDim, false>) : run(note_rows<kDim, true>);
}

}  // namespace
}  // namespace xmsim

// facts [heads, queries]: what the softmax of each row needs. Plain: no slopes, and factors below 32.
XM_API int xm_cuda_mask_sums(const xmsim::CodeScores* from, xmsim::RowFacts* facts, int is_plain, void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_sums<64>(*from, facts, is_plain != 0, stream)
         : from->dim == 128 ? launch_sums<128>(*from, facts, is_plain != 0, stream)
                            : launch_sums<256>(*from, facts, is_plain != 0, stream);
}

// Fills words, kept and doubtful by Sanger's rule; the target's `rows` hold the facts of the rows.
XM_API int xm_cuda_mask_above(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, int is_plain,
                              void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_above<64>(*from, *rule, *out, is_plain != 0, stream)
         : from->dim == 128 ? launch_above<128>(*from, *rule, *out, is_plain != 0, stream)
                            : launch_above<256>(*from, *rule, *out, is_plain != 0, stream);
}
