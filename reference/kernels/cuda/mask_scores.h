// Scores of a few rows of queries on 64 keys at a time: int8 products on tensor cores, handed out to one thread a row.
#pragma once

#include "mask_job.h"
#include "simt.h"

namespace xmsim {

constexpr int kTileKeys = 64;      // a word of the mask
constexpr int kMaskThreads = 128;  // four warps
// From a row of scores to the next, so that threads that read their own rows do not meet in a bank: one by one, with a gap after each row; or
// four scores at a time, when the fours of a row are turned.
constexpr int kGapAfterRow = kTileKeys + 1, kTurnedFours = kTileKeys;
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2OfE = 1.44269504f;

// Integers below 2^22 added to these bits of 1.5 × 2^23 are that float plus the integer: sums begin here, and need no conversion.
constexpr int32_t kRounderBits = 0x4b400000;
constexpr float kRounderFloat = 12582912.0f;

template <int kDim, int kRows>
struct ScoreTile {
  alignas(16) int8_t keys[2][kTileKeys * kDim];
  alignas(16) float scores[kRows * kGapAfterRow];
};

// A row of scores of one thread. By `turn` its fours are turned: 8 rows read the same four, and 4 rows write two neighbouring ones, in
// different banks.
struct ScoreRow {
  float* first;
  int turn;
};

XM_DEVICE ScoreRow score_row(float* scores, int row) { return {scores + row * kTurnedFours, row % 4 * 2 + row / 4 % 2}; }

XM_DEVICE float& score_at(const ScoreRow& row, int column) { return row.first[((column / 4) ^ row.turn) * 4 + column % 4]; }

// How far a row sees: keys [first, end).
struct KeyRange {
  int64_t first, end;
};

template <class Scores>
XM_DEVICE KeyRange allowed_keys(const Scores& from, int64_t query) {
  if (!from.causal) return {0, from.keys};
  const int64_t position = from.offset + query;
  const int64_t end = position + 1 < from.keys ? position + 1 : from.keys;
  const int64_t first = from.window && position + 1 > from.window ? position + 1 - from.window : 0;
  return {first < end ? first : end, end};
}

// Where 16 channels of a key lie: turned by the key, so that eight keys' same channels (what ldmatrix reads) lie in different banks.
template <int kDim>
XM_DEVICE int place_in_tile(int key, int chunk) {
  const int turn = kDim >= 128 ? key % 8 : key / 2 % 4;
  return key * kDim + (chunk ^ turn) * 16;
}

// Tiles of keys in the order in which they are walked: the first, then from the last back. Sinks and the diagonal come early: what they
// hold tells which of the others keep nothing.
struct TileWalk {
  int64_t first, count;
};

XM_DEVICE int64_t tile_at(const TileWalk& walk, int64_t step) { return step == 0 ? walk.first : walk.first + walk.count - step; }

// Tiles that rows [first_query, first_query + rows) see any key of.
template <class Scores>
XM_DEVICE TileWalk seen_tiles(const Scores& from, int64_t first_query, int64_t rows) {
  const int64_t last = first_query + rows < from.queries ? first_query + rows - 1 : from.queries - 1;
  const int64_t first_key = allowed_keys(from, first_query).first, end = allowed_keys(from, last).end;
  if (first_key >= end) return {0, 0};
  return {first_key / kTileKeys, (end - 1) / kTileKeys - first_key / kTileKeys + 1};
}

// Begins to copy a tile of keys; keys that are not there become zeros.
template <int kDim>
XM_DEVICE void fetch_keys(const CodeScores& from, int64_t kv_head, int64_t tile, int8_t* to) {
  constexpr int kChunks = kDim / 16, kAtOnce = kMaskThreads / kChunks;  // keys, after as many of which turns repeat
  const int key = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const int left = static_cast<int>(from.keys) - static_cast<int>(tile) * kTileKeys;
  const int8_t* keys = from.k + kv_head * from.keys * kDim + tile * (kTileKeys * kDim) + (key * kDim + chunk * 16);
  int8_t* place = to + place_in_tile<kDim>(key, chunk);
  if (left >= kTileKeys) {
    XM_UNROLL(8)
    for (int i = 0; i < kTileKeys; i += kAtOnce) cp_async_16(place + i * kDim, keys + i * kDim, true);
  } else {
    XM_UNROLL(1)
    for (int i = 0; i < kTileKeys; i += kAtOnce) cp_async_16(place + i * kDim, key + i < left ? keys + i * kDim : from.k, key + i < left);
  }
  cp_async_commit();
}

// Rows of a block of threads: `count` queries of a head, then the same of the next head; 16 consecutive rows are of one head.
struct Rows {
  int64_t first_head, first_query;
  int count;
};

XM_DEVICE int64_t head_of(const Rows& rows, int row) { return rows.first_head + row / rows.count; }
XM_DEVICE int64_t query_of(const Rows& rows, int row) { return rows.first_query + row % rows.count; }

// Queries of a warp's rows, 16 × kBands of them, as the A operands of its products; rows that are not there are zeros.
template <int kDim, int kBands>
struct Queries {
  uint32_t words[kBands][kDim / 32][4];
};

template <int kDim, int kBands>
XM_DEVICE void load_queries(const CodeScores& from, const Rows& rows, Queries<kDim, kBands>& queries) {
  XM_UNROLL(kBands)
  for (int band = 0; band < kBands; ++band) {
    const int first_row = 16 * (kBands * warp() + band);
    XM_UNROLL(2)
    for (int half = 0; half < 2; ++half) {
      const int64_t query = query_of(rows, first_row) + a_row(lane(), half);
      const int8_t* row = from.q + (head_of(rows, first_row) * from.queries + query) * kDim;
      XM_UNROLL(kDim / 32)
      for (int step = 0; step < kDim / 32; ++step) {
        XM_UNROLL(2)
        for (int r = half; r < 4; r += 2)
          queries.words[band][step][r] =
              query < from.queries ? *reinterpret_cast<const uint32_t*>(row + 32 * step + a_column(lane(), r, 4)) : 0u;
      }
    }
  }
}

// 8 bytes at once, aligned to 8.
XM_DEVICE void store_pair(float* place, float first, float second) {
  *reinterpret_cast<uint64_t*>(place) = static_cast<uint64_t>(bits_of_float(second)) << 32 | bits_of_float(first);
}

// Products of a warp's rows with eight keys of a tile, which begin at `keys`; a lane's address is that of key `row` of them.
template <int kDim, int kBands>
XM_DEVICE void multiply_eight(const Queries<kDim, kBands>& queries, const int8_t* keys, int row, int32_t start, int32_t (&sums)[kBands][4]) {
  XM_UNROLL(kBands)
  for (int band = 0; band < kBands; ++band) {
    XM_UNROLL(4)
    for (int i = 0; i < 4; ++i) sums[band][i] = start;
  }
  XM_UNROLL(kDim / 64)
  for (int part = 0; part < kDim / 64; ++part) {
    uint32_t words[4];
    ldmatrix_4(words, keys + place_in_tile<kDim>(row, 4 * part + lane() / 8));
    const uint32_t low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
    XM_UNROLL(kBands)
    for (int band = 0; band < kBands; ++band) {
      mma_int8(sums[band], queries.words[band][2 * part], low);
      mma_int8(sums[band], queries.words[band][2 * part + 1], high);
    }
  }
}

// Scores of a warp's rows on a tile of keys, into shared memory; rounded like the reference's, twice where there are slopes.
template <int kBands, int kDim, int kRows>
XM_DEVICE void score_tile(const CodeScores& from, const Rows& rows, int64_t tile, const Queries<kDim, kBands>& queries, const int8_t* keys,
                          ScoreTile<kDim, kRows>& block) {
  float factor[kBands], slope[kBands];
  XM_UNROLL(kBands)
  for (int band = 0; band < kBands; ++band) {
    const int64_t head = head_of(rows, 16 * (kBands * warp() + band));
    factor[band] = from.factor[head];
    slope[band] = from.slopes ? from.slopes[head] : 0.0f;
  }
  XM_UNROLL(2)
  for (int eight = 0; eight < kTileKeys / 8; ++eight) {
    int32_t sums[kBands][4];
    multiply_eight(queries, keys + 8 * eight * kDim, lane() % 8, kRounderBits, sums);
    XM_UNROLL(kBands)
    for (int band = 0; band < kBands; ++band) {
      XM_UNROLL(2)
      for (int half = 0; half < 2; ++half) {  // two neighbours in each of two rows
        const int row = 16 * (kBands * warp() + band) + sum_row(lane(), 2 * half), column = 8 * eight + sum_column(lane(), 0);
        XM_UNROLL(2)
        for (int i = 0; i < 2; ++i) {
          float score = times(float_of_bits(static_cast<uint32_t>(sums[band][2 * half + i])) - kRounderFloat, factor[band]);
          if (from.slopes) score += times(slope[band], static_cast<float>(tile * kTileKeys + column + i));
          block.scores[row * kGapAfterRow + column + i] = score;
        }
      }
    }
  }
}

// Walks over tiles of keys that `next()` names, until it gives less than 0: `each(tile, keys)` is called by every thread. The next tile is on
// its way while this one is worked on; a barrier a tile keeps the warps from overrunning each other's keys.
template <int kDim, class Next, class Each>
XM_DEVICE void walk_keys(const CodeScores& from, int64_t kv_head, int8_t (&keys)[2][kTileKeys * kDim], Next next, const Each& each) {
  int tile = next();
  if (tile >= 0) fetch_keys<kDim>(from, kv_head, tile, keys[0]);
  for (int half = 0; tile >= 0; half = 1 - half) {
    cp_async_wait<0>();
    block_sync();
    const int after = next();
    if (after >= 0) fetch_keys<kDim>(from, kv_head, after, keys[1 - half]);
    each(tile, keys[half]);
    tile = after;
  }
  block_sync();
}

XM_DEVICE int64_t kv_head_of(const CodeScores& from, const Rows& rows) { return rows.first_head / (from.heads / from.kv_heads); }

// The same of all tiles that rows see: `each(tile)` is called by every thread of a warp when the scores of that warp's rows lie in shared memory.
template <int kBands, int kDim, class Tile, class Each>
XM_DEVICE void walk_tiles(const CodeScores& from, const Rows& rows, const TileWalk& walk, Tile& block, const Each& each) {
  Queries<kDim, kBands> queries;
  load_queries(from, rows, queries);
  int64_t step = 0;
  const auto next = [&] { return step < walk.count ? static_cast<int>(tile_at(walk, step++)) : -1; };
  walk_keys<kDim>(from, kv_head_of(from, rows), block.keys, next, [&](int tile, const int8_t* keys) {
    score_tile<kBands>(from, rows, tile, queries, keys, block);
    warp_sync();
    each(tile);
    warp_sync();
  });
}

// The scores of a thread's own row on a tile, -inf where the row does not see.
XM_DEVICE void hide_keys(const ScoreRow& row, int64_t tile, const KeyRange& allowed) {
  const int64_t first = tile * kTileKeys;
  if (allowed.first <= first && first + kTileKeys <= allowed.end) return;
  for (int column = 0; column < kTileKeys; ++column)
    if (first + column < allowed.first || first + column >= allowed.end) score_at(row, column) = -kInfinity;
}

}  // namespace xmsim
