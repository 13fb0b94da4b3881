// Sums of exponentials of rows, in float32 by blocks of keys and float64 over them. Scores are added up where the tensor cores leave them:
// a quad of lanes has a row, so that no score goes through shared memory.
#pragma once

#include "mask_scores.h"

namespace xmsim {

// e to the power of a difference of scores; of 0 exactly 1.
XM_DEVICE float exponential(float difference) { return exp2_fast(times(difference, kLog2OfE)); }

// Shares closer than this to their threshold are decided again. What matters lies within 69 of the row's top (kSmallest), and within 127 as a
// power of 2. Of plain products (below) the factor is off by 7.3e-8 of a score's distance from the anchor, of which a block and its row have
// the difference, 5.0e-6 in all; the exponent's rounding by 2.6e-6, the exponential by 1.8e-7, a sum of up to 18 steps by 1.1e-6, of both
// sides: 1.3e-5. Of rounded scores a difference is off by 3.8e-6 and its product by 2.6e-6 instead: 1.6e-5.
constexpr double kMargin = 2e-5;
constexpr double kSmallest = 1e-30;

XM_DEVICE bool is_near(double sum, double limit, double margin) {
  const double gap = sum > limit ? sum - limit : limit - sum;
  return gap <= margin * limit + kSmallest;
}

// The part of keys [first, first + size) that a row sees.
XM_DEVICE int seen_of(const KeyRange& allowed, int64_t first, int64_t size) {
  const int64_t begin = allowed.first > first ? allowed.first : first;
  const int64_t end = allowed.end < first + size ? allowed.end : first + size;
  return begin < end ? static_cast<int>(end - begin) : 0;
}

constexpr int kSixteen = 16;

// Sixteen scores of a row in registers, read four at a time.
struct Sixteen {
  float of[kSixteen];
};

XM_DEVICE Sixteen sixteen_at(const ScoreRow& row, int column) {
  Sixteen found;
  XM_UNROLL(4)
  for (int i = 0; i < kSixteen; i += 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(&score_at(row, column + i));
    found.of[i] = float_of_bits(words.x);
    found.of[i + 1] = float_of_bits(words.y);
    found.of[i + 2] = float_of_bits(words.z);
    found.of[i + 3] = float_of_bits(words.w);
  }
  return found;
}

// The rows of a block of threads that has 128 queries of a head; those with the most keys to see start first.
constexpr int kBands = 2;           // of 16 rows a warp: keys are read from shared memory once for both
constexpr int kRows = 64 * kBands;  // of a block of threads

XM_DEVICE Rows rows_of_head() {
  return {static_cast<int64_t>(blockIdx.y), static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows, kRows};
}

template <class Scores>
dim3 blocks_of_rows(const Scores& from) {
  return {static_cast<unsigned>(ceil_div<int64_t>(from.queries, kRows)), static_cast<unsigned>(from.heads), 1};
}

template <class Scores>
XM_DEVICE KeyRange own_keys(const Scores& from, int64_t query) {
  return query < from.queries ? allowed_keys(from, query) : KeyRange{0, 0};
}

// A warp's 32 rows in its products: of every eight keys a lane has two neighbours in four rows, number i of which is this row of the warp.
constexpr int kLaneRows = 2 * kBands;

XM_DEVICE int lane_row(int i) { return lane() / 4 + 8 * i; }

// Of the four, the row that a lane is given the sum of.
XM_DEVICE int own_number() { return lane() % 4; }
XM_DEVICE int own_row() { return lane_row(own_number()); }

XM_DEVICE float own_of(const float (&rows)[kLaneRows]) {
  const float left = lane() & 2 ? rows[2] : rows[0], right = lane() & 2 ? rows[3] : rows[1];
  return lane() & 1 ? right : left;
}

// The sum over its quad of a lane's own row: each lane gives away two rows, then one.
XM_DEVICE float own_sum(const float (&rows)[kLaneRows]) {
  const bool upper = lane() & 2, odd = lane() & 1;
  const float left = (upper ? rows[2] : rows[0]) + shfl_xor(upper ? rows[0] : rows[2], 2);
  const float right = (upper ? rows[3] : rows[1]) + shfl_xor(upper ? rows[1] : rows[3], 2);
  return (odd ? right : left) + shfl_xor(odd ? left : right, 1);
}

// Tiles that all rows of a block of threads see whole; rows that are not there see what they like.
struct WholeTiles {
  int first, end;
};

XM_DEVICE WholeTiles whole_tiles(const CodeScores& from, const Rows& rows) {
  const int64_t last_query = rows.first_query + rows.count <= from.queries ? rows.first_query + rows.count - 1 : from.queries - 1;
  const int first = static_cast<int>(ceil_div<int64_t>(allowed_keys(from, last_query).first, kTileKeys));
  const int end = static_cast<int>(allowed_keys(from, rows.first_query).end / kTileKeys);
  return {first, end < first ? first : end};
}

XM_DEVICE bool is_whole(const WholeTiles& tiles, int tile) { return tiles.first <= tile && tile < tiles.end; }

// The columns of a tile that each of a lane's rows sees: `count` from `first` on, which may lie before the tile.
struct Columns {
  int first[kLaneRows], count[kLaneRows];
};

XM_DEVICE Columns seen_columns(const CodeScores& from, const Rows& rows, int tile) {
  Columns seen;
  const int keys = static_cast<int>(from.keys), window = static_cast<int>(from.window);
  XM_UNROLL(4)
  for (int i = 0; i < kLaneRows; ++i) {
    const int query = static_cast<int>(rows.first_query) + kWarp * warp() + lane_row(i), position = static_cast<int>(from.offset) + query;
    const int first = from.causal && window && position >= window ? position + 1 - window : 0;
    const int end = query >= static_cast<int>(from.queries) ? 0 : from.causal && position < keys ? position + 1 : keys;
    seen.first[i] = first - tile * kTileKeys;
    seen.count[i] = first < end ? end - first : 0;
  }
  return seen;
}

XM_DEVICE bool is_seen(const Columns& seen, int i, int column) {
  return static_cast<unsigned>(column - seen.first[i]) < static_cast<unsigned>(seen.count[i]);
}

// How the powers of 2 of a lane's rows are made of their products. Plain: one fused step from 1.5 × 2^23 plus a product; where its rounding
// puts the row's anchor is the same for all keys of the row. Rounded: of the reference's scores, with slopes and large factors.
struct Powers {
  float scale[kLaneRows], base[kLaneRows];
};

// What a step from a key's product to its power begins with, the larger the larger the score.
template <bool kRounded>
XM_DEVICE float value_of(int32_t sum, float factor, float bias) {
  const float value = float_of_bits(static_cast<uint32_t>(sum));
  return kRounded ? times(value - kRounderFloat, factor) + bias : value;
}

template <bool kRounded>
XM_DEVICE float exponent_of(float value, float scale, float base) {
  return kRounded ? times(value - base, scale) : fused(value, scale, base);
}

// Values of a warp's rows on a tile: each(column, i, first, second) for two neighbours in row i, after(column) behind every eight keys.
template <bool kRounded, int kDim, class Each, class After>
XM_DEVICE void each_value(const CodeScores& from, int64_t head, int tile, const Queries<kDim, kBands>& queries, const int8_t* keys,
                          const Each& each, const After& after) {
  const float factor = kRounded ? from.factor[head] : 0.0f, slope = kRounded && from.slopes ? from.slopes[head] : 0.0f;
  XM_UNROLL((kDim > 128 ? 2 : 4))
  for (int eight = 0; eight < kTileKeys / 8; ++eight) {
    const int column = 8 * eight + sum_column(lane(), 0);
    const float key = static_cast<float>(tile * kTileKeys + column);
    const float bias = kRounded ? times(slope, key) : 0.0f, next_bias = kRounded ? times(slope, key + 1) : 0.0f;
    int32_t sums[kBands][4];
    multiply_eight(queries, keys + 8 * eight * kDim, lane() % 8, kRounderBits, sums);
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i)
      each(column, i, value_of<kRounded>(sums[i / 2][i % 2 * 2], factor, bias),
           value_of<kRounded>(sums[i / 2][i % 2 * 2 + 1], factor, next_bias));
    after(8 * eight + 8);
  }
}

// Largest values of a lane's rows on tiles, of the keys that they see, or of all.
template <int kDim, bool kRounded, class Next>
XM_DEVICE void find_tops(const CodeScores& from, const Rows& rows, const Queries<kDim, kBands>& queries, int8_t (&keys)[2][kTileKeys * kDim],
                         Next next, bool only_seen, float (&tops)[kLaneRows]) {
  XM_UNROLL(4)
  for (int i = 0; i < kLaneRows; ++i) tops[i] = -kInfinity;
  walk_keys<kDim>(from, kv_head_of(from, rows), keys, next, [&](int tile, const int8_t* tile_keys) {
    const Columns seen = seen_columns(from, rows, tile);
    each_value<kRounded>(from, rows.first_head, tile, queries, tile_keys, [&](int column, int i, float first, float second) {
      if (!only_seen || is_seen(seen, i, column)) tops[i] = fmaxf(tops[i], first);
      if (!only_seen || is_seen(seen, i, column + 1)) tops[i] = fmaxf(tops[i], second);
    }, [](int) {});
  });
  XM_UNROLL(4)
  for (int i = 0; i < kLaneRows; ++i) {
    tops[i] = lanes_max(tops[i], 4);
    if (!(tops[i] > -kInfinity)) tops[i] = kRounded ? 0.0f : kRounderFloat;  // sees nothing
  }
}

// Exponentials of a lane's rows on a tile: each_block(number, sum) gives, of every block of `size` keys, that of the lane's own row.
template <bool kRounded, bool kWhole, int kDim, class EachBlock>
XM_DEVICE void add_powers(const CodeScores& from, const Rows& rows, int tile, const Queries<kDim, kBands>& queries, const int8_t* keys,
                          const Powers& powers, int size, const EachBlock& each_block) {
  const Columns seen = kWhole ? Columns{} : seen_columns(from, rows, tile);
  float sums[kLaneRows] = {0, 0, 0, 0};
  int number = 0;
  each_value<kRounded>(from, rows.first_head, tile, queries, keys, [&](int column, int i, float first, float second) {
    const float power = exp2_fast(exponent_of<kRounded>(first, powers.scale[i], powers.base[i]));
    const float next = exp2_fast(exponent_of<kRounded>(second, powers.scale[i], powers.base[i]));
    sums[i] += kWhole || is_seen(seen, i, column) ? power : 0.0f;
    sums[i] += kWhole || is_seen(seen, i, column + 1) ? next : 0.0f;
  }, [&](int end) {
    if (end % 16 || end & (size - 1)) return;
    each_block(number++, own_sum(sums));
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i) sums[i] = 0;
  });
}

// The sum of the exponentials of a lane's own row; a whole number if all products are 0 and there are no slopes.
struct RowSum {
  double sum = 0;         // of powers of 2, of which the row's anchor is the 0th
  double top = 0;         // a score near the largest one
  float above = 0;        // the power of 2 that it is counted as
  bool is_zero = false;   // all products are 0
};

constexpr double kLn2 = 0.693147180559945309;

// A score that the logarithm of the sum is near to, by at most 1.
XM_DEVICE float level_of(const RowSum& row) {
  const int power = static_cast<int>(bits_of_float(static_cast<float>(row.sum)) >> 23) - 127;
  return static_cast<float>(row.top + kLn2 * (static_cast<double>(power) - row.above));
}

// How near to a threshold shares are decided again. The reference rounds a score before its exponential, which is off by 6e-8 of the score
// in that of a block and of its row; what matters of them lies so far from the level. Rounded scores are the reference's.
template <bool kRounded>
XM_DEVICE double margin_of(float level, double reach) {
  return kRounded ? kMargin : kMargin + 1.2e-7 * (fabsf(level) + reach);
}

// What a row's softmax needs, in memory.
struct RowFacts {
  float level;   // a score near the logarithm of the sum
  float margin;  // how near to a threshold a probability is decided again, as a part of it; 0: the row's scores are equal
  double sum;    // of exponentials below the level; of equal scores how many there are
};

XM_DEVICE bool is_equal(const RowFacts& row) { return row.margin == 0; }

template <bool kRounded>
XM_DEVICE RowFacts facts_of(const RowSum& row, bool has_slopes) {
  if (row.is_zero && !has_slopes) return {0, 0, row.sum};
  const float level = level_of(row);
  return {level, static_cast<float>(margin_of<kRounded>(level, 30)), row.sum * exponential(row.top - kLn2 * row.above - level)};
}

// Sums that are between these lose nothing below the row's top and are finite; others are made again from the row's true top.
constexpr double kLowestSum = 9.1e-13, kHighestSum = 1.2e30;  // 2^-40, 2^100

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

// Walks over the keys that rows see, from an anchor near each row's top, which is that of one tile at first: each_block(tile, number, sum)
// gives, of every block of `size` keys, the sum of a lane's own row, for the tiles that the warp sees. Blocks are given again if some row's
// top is far from that. `again` is one number of the block of threads in shared memory.
template <int kDim, bool kRounded, class EachBlock>
XM_DEVICE RowSum sum_rows(const CodeScores& from, const Rows& rows, int8_t (&keys)[2][kTileKeys * kDim], int32_t& again, int size,
                          const EachBlock& each_block) {
  const TileWalk walk = seen_tiles(from, rows.first_query, kRows);
  const int64_t kv_head = kv_head_of(from, rows);
  const int first_tile = static_cast<int>(walk.first), end_tile = first_tile + static_cast<int>(walk.count);
  const WholeTiles whole = whole_tiles(from, rows);
  const bool sees_any = walk.count && seen_of(own_keys(from, rows.first_query + kWarp * warp() + own_row()), 0, from.keys) > 0;
  Queries<kDim, kBands> queries;
  load_queries(from, rows, queries);
  Powers powers;
  RowSum row;
  if (threadIdx.x == 0) again = 0;
  for (bool is_again = false; walk.count; is_again = true) {
    float tops[kLaneRows];
    int look = is_again ? first_tile : end_tile - 1;
    find_tops<kDim, kRounded>(from, rows, queries, keys, [&] { return look < end_tile ? look++ : -1; }, is_again, tops);
    float aboves[kLaneRows], zeros[kLaneRows];
    XM_UNROLL(4)
    for (int i = 0; i < kLaneRows; ++i) {
      uint32_t codes = 0;
      XM_UNROLL(8)
      for (int step = 0; step < kDim / 32; ++step) codes |= queries.words[i / 2][step][i % 2] | queries.words[i / 2][step][i % 2 + 2];
      codes |= shfl_xor(codes, 1);
      codes |= shfl_xor(codes, 2);
      zeros[i] = codes ? 0.0f : 1.0f;
      powers.scale[i] = kRounded ? kLog2OfE : codes ? times(from.factor[rows.first_head], kLog2OfE) : 0.0f;
      powers.base[i] = kRounded ? tops[i] : -times(tops[i], powers.scale[i]);
      aboves[i] = exponent_of<kRounded>(tops[i], powers.scale[i], powers.base[i]);
    }
    row.is_zero = own_of(zeros) > 0;
    row.above = own_of(aboves);
    row.top = kRounded ? own_of(tops) : static_cast<double>(own_of(tops) - kRounderFloat) * from.factor[rows.first_head];
    row.sum = 0;
    const auto add = [&](auto is_whole_tile, int tile, const int8_t* tile_keys) {
      add_powers<kRounded, decltype(is_whole_tile)::value>(from, rows, tile, queries, tile_keys, powers, size, [&](int number, float sum) {
        row.sum += sum;
        each_block(tile, number, sum);
      });
    };
    int tile = whole.first;
    walk_keys<kDim>(from, kv_head, keys, [&] { return tile < whole.end ? tile++ : -1; }, [&](int at, const int8_t* tile_keys) {
      add(Constant<true>{}, at, tile_keys);
    });
    tile = first_tile;
    const auto next_part = [&] {
      if (tile == whole.first) tile = whole.end;
      return tile < end_tile ? tile++ : -1;
    };
    walk_keys<kDim>(from, kv_head, keys, next_part, [&](int at, const int8_t* tile_keys) { add(Constant<false>{}, at, tile_keys); });
    if (is_again) break;
    if (sees_any && !(row.sum > kLowestSum && row.sum < kHighestSum)) again = 1;
    block_sync();
    if (!again) break;
  }
  return row;
}

}  // namespace xmsim
