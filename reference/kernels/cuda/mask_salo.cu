// SALOv2's rule, which decides tiles of 64 × 64 scores: global lines and a window of diagonals by their sums, then picks of each row.
// A block of threads has the rows of one tile and walks over its neighbours. Sums are float64 in the order of the reference, which they
// depend on: a thread has a row, a column or a diagonal.
#include "mask_scores.h"

namespace xmsim {
namespace {

constexpr int kSide = kTileKeys;
constexpr int kDiagonals = 2 * kSide - 1;
constexpr double kLowestSum = -1.7976931348623157e308;  // stands for a sum with a pair that is not allowed in it
constexpr double kNever = -__builtin_inf();             // of what must not be chosen at all

template <int kDim>
struct SaloShared {
  ScoreTile<kDim, kSide> tile;
  double rows[kSide], columns[kSide], diagonals[kDiagonals], windows[kDiagonals];
  uint64_t row_bits, column_bits;
  int start;
};

// The first of the largest of up to 128 sums; every lane of the warp gets its number.
XM_DEVICE int first_largest(const double* sums, int count) {
  double best = kNever;
  int number = count;
  for (int i = lane(); i < count; i += kWarp) {
    if (number == count || sums[i] > best) {
      best = sums[i];
      number = i;
    }
  }
  for (int step = kWarp / 2; step; step /= 2) {
    const double other = shfl_xor(best, step);
    const int other_number = shfl_xor(number, step);
    if (other > best || (other == best && other_number < number)) {
      best = other;
      number = other_number;
    }
  }
  return number;
}

// Marks the `count` largest of up to 64 sums, the first of equals, by one warp.
XM_DEVICE uint64_t choose_largest(double* sums, int size, int count) {
  uint64_t chosen = 0;
  for (int i = 0; i < count; ++i) {
    const int best = first_largest(sums, size);
    chosen |= 1ull << best;
    warp_sync();
    if (lane() == 0) sums[best] = kNever;
    warp_sync();
  }
  return chosen;
}

XM_DEVICE double allowed_sum(double sum) { return sum < kLowestSum ? kLowestSum : sum; }

// Rows of scores of one tile: `first` is the number in it of row 0.
struct TileRows {
  int first, rows, columns;
};

template <int kDim>
XM_DEVICE void add_up(SaloShared<kDim>& block, const TileRows& tile) {
  const float* scores = block.tile.scores;
  const int own = threadIdx.x;
  if (own < tile.rows) {
    double sum = 0;
    for (int column = 0; column < tile.columns; ++column) sum += scores[own * kGapAfterRow + column];
    block.rows[own] = allowed_sum(sum);
  }
  const int column = own - kSide;
  if (column >= 0 && column < tile.columns) {
    double sum = 0;
    for (int row = 0; row < tile.rows; ++row) sum += scores[row * kGapAfterRow + column];
    block.columns[column] = allowed_sum(sum);
  }
  if (own < kDiagonals) {
    double sum = 0;
    for (int row = 0; row < tile.rows; ++row) {
      const int on_it = own - (kSide - 1 - tile.first - row);
      if (static_cast<unsigned>(on_it) < static_cast<unsigned>(tile.columns)) sum += scores[row * kGapAfterRow + on_it];
    }
    block.diagonals[own] = sum;
  }
}

// Sums of the windows of diagonals, by the diagonal that they begin with; those that lie beyond what is there cannot be chosen.
template <int kDim>
XM_DEVICE void add_up_windows(SaloShared<kDim>& block, const TileRows& tile, const MaskRule& rule, int reach) {
  const int own = threadIdx.x, starts = kDiagonals - reach;
  if (own >= starts) return;
  const int unseen = kSide - tile.first - tile.rows, lower_left = unseen < starts - 1 ? unseen : starts - 1;
  const int upper_right = kSide - tile.first - 2 + tile.columns, room = upper_right - reach, last = room > lower_left ? room : lower_left;
  double sum = 0;
  for (int offset = 0; offset <= reach; offset += static_cast<int>(rule.dilation)) sum += block.diagonals[own + offset];
  block.windows[own] = own < lower_left || own > last ? kNever : allowed_sum(sum);
}

// Which keys of a tile a row sees.
XM_DEVICE uint64_t seen_bits(int64_t tile, const KeyRange& allowed) {
  const int64_t first = allowed.first - tile * kSide, end = allowed.end - tile * kSide;
  const uint64_t before_end = end >= kSide ? ~0ull : end > 0 ? (1ull << end) - 1 : 0;
  return first >= kSide ? 0 : first > 0 ? before_end & ~0ull << first : before_end;
}

// The picks of a row: its largest scores, those kept already counting as 0; the first of equals. Scores are overwritten.
XM_DEVICE uint64_t with_picks(float* scores, int columns, uint64_t keep, int picks) {
  XM_UNROLL(64)
  for (int column = 0; column < kSide; ++column)
    if (keep >> column & 1) scores[column] = 0;
  for (; picks > 0; --picks) {
    float best = -kInfinity;
    int number = -1;
    XM_UNROLL(4)
    for (int column = 0; column < columns; ++column) {
      const float value = scores[column];
      if (value > best) {
        best = value;
        number = column;
      }
    }
    if (number < 0) break;  // none of the others is allowed
    keep |= 1ull << number;
    scores[number] = -kInfinity;
  }
  return keep;
}

template <int kDim>
XM_RESIDENT_KERNEL(kMaskThreads, kDim == 256 ? 2 : 4) void keep_tiles(CodeScores from, MaskRule rule, MaskTarget out) {
  auto& block = shared<SaloShared<kDim>>();
  const int64_t head = blockIdx.y, row_of_tiles = from.offset / kSide + gridDim.x - 1 - blockIdx.x;
  const int64_t begin = row_of_tiles * kSide - from.offset, first_query = begin > 0 ? begin : 0;
  const int64_t end = begin + kSide < from.queries ? begin + kSide : from.queries, row_words = ceil_div<int64_t>(from.keys, kTileKeys);
  const int rows = static_cast<int>(end - first_query), reach = static_cast<int>(rule.dilation * (rule.window - 1));
  const int first_row = static_cast<int>((from.offset + first_query) % kSide), own = threadIdx.x;
  const bool has_row = own < rows;
  const KeyRange allowed = has_row ? allowed_keys(from, first_query + own) : KeyRange{0, 0};
  const TileWalk walk = seen_tiles(from, first_query, rows);
  uint64_t* words = out.words + (head * from.queries + first_query + own) * row_words;
  float* scores = block.tile.scores + own * kGapAfterRow;
  int32_t kept = 0;

  walk_tiles<1, kDim>(from, Rows{head, first_query, kSide}, walk, block.tile, [&](int64_t number) {
    const int64_t left = from.keys - number * kSide;
    const TileRows tile{first_row, rows, static_cast<int>(left < kSide ? left : kSide)};
    block_sync();  // a warp has made 16 rows of scores, two warps hide keys of 64
    if (has_row) hide_keys({scores, 0}, number, allowed);
    block_sync();
    add_up(block, tile);
    block_sync();
    add_up_windows(block, tile, rule, reach);
    if (warp() == 0) {
      const int most = static_cast<int>(rule.global_tokens < rows - 1 ? rule.global_tokens : rows - 1);
      const uint64_t chosen = choose_largest(block.rows, rows, most);
      if (lane() == 0) block.row_bits = chosen;
    }
    if (warp() == 1) {
      const int most = static_cast<int>(rule.global_tokens < tile.columns ? rule.global_tokens : tile.columns);
      const uint64_t chosen = choose_largest(block.columns, tile.columns, most);
      if (lane() == 0) block.column_bits = chosen;
    }
    block_sync();
    if (warp() == 0) {
      const int start = first_largest(block.windows, kDiagonals - reach);
      if (lane() == 0) block.start = start;
    }
    block_sync();
    if (has_row) {
      uint64_t keep = block.row_bits >> own & 1 ? ~0ull : block.column_bits;
      for (int i = 0; i < rule.window; ++i) {
        const int column = block.start + i * static_cast<int>(rule.dilation) - (kSide - 1 - first_row - own);
        if (column >= 0 && column < tile.columns) keep |= 1ull << column;
      }
      keep = with_picks(scores, tile.columns, keep & seen_bits(number, allowed), static_cast<int>(rule.picks));
      words[number] = keep;
      kept += popcount(keep);
    }
    block_sync();  // before the next scores
  });
  if (!has_row) return;
  for (int64_t tile = 0; tile < row_words; ++tile)
    if (tile < walk.first || tile >= walk.first + walk.count) words[tile] = 0;
  out.kept[head * from.queries + first_query + own] = kept;
  out.doubtful[head * from.queries + first_query + own] = 0;  // sums in the order of the reference are its sums
}

template <int kDim>
int launch_tiles(const CodeScores& from, const MaskRule& rule, const MaskTarget& out, Stream stream) {
  const int64_t tiles = (from.offset + from.queries - 1) / kSide - from.offset / kSide + 1;
  const dim3 blocks{static_cast<unsigned>(tiles), static_cast<unsigned>(from.heads), 1};
  return launch(keep_tiles<kDim>, blocks, kMaskThreads, sizeof(SaloShared<kDim>), stream, from, rule, out);
}

}  // namespace
}  // namespace xmsim

// Fills words, kept and doubtful by SALOv2's rule with tiles of 64.
XM_API int xm_cuda_mask_tiles(const xmsim::CodeScores* from, const xmsim::MaskRule* rule, const xmsim::MaskTarget* out, void* stream) {
  using namespace xmsim;
  return from->dim == 64    ? launch_tiles<64>(*from, *rule, *out, stream)
         : from->dim == 128 ? launch_tiles<128>(*from, *rule, *out, stream)
                            : launch_tiles<256>(*from, *rule, *out, stream);
}
