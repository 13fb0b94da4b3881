// Plain loops over tiles of 16 columns: what any compiler vectorises for any processor, and once more for AVX2.
#include <algorithm>
#include <iterator>

#include "linear_expand.h"
#include "linear_finish.h"
#include "linear_paths.h"
#include "linear_tokens.h"
#include "team.h"

namespace xmsim {
namespace {

constexpr int kPassTokens = 64;  // that share one expansion

// Two's complement products that wrap, as in the instructions of the other paths.
XM_INLINE uint32_t product(int8_t a, int8_t b) { return static_cast<uint32_t>(static_cast<int32_t>(a) * b); }

XM_INLINE float sum_of(float a, float b) { return a + b; }
XM_INLINE int32_t sum_of(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }

XM_INLINE void add_row(Float32, const uint32_t* row, uint32_t x, float* sums) {
  for (int column = 0; column < kTileColumns; ++column) sums[column] += as_float(row[column]) * as_float(x);
}
XM_INLINE void add_row(Bfloat16, const uint32_t* row, uint32_t x, float* sums) {
  const float even = as_float(x << 16), odd = as_float(x & 0xffff0000);
  for (int column = 0; column < kTileColumns; ++column)
    sums[column] += as_float(row[column] << 16) * even + as_float(row[column] & 0xffff0000) * odd;
}
XM_INLINE void add_row(Int8, const uint32_t* row, uint32_t x, int32_t* sums) {
  for (int column = 0; column < kTileColumns; ++column) {
    uint32_t sum = static_cast<uint32_t>(sums[column]);
    for (int byte = 0; byte < 32; byte += 8) sum += product(static_cast<int8_t>(row[column] >> byte), static_cast<int8_t>(x >> byte));
    sums[column] = static_cast<int32_t>(sum);
  }
}

template <class E>
XM_INLINE void add_tile_inline(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums) {
  typename E::Sum partial[kTileColumns] = {};  // of this tile alone: long chains of float32 additions lose digits
  for (int row = 0; row < kTileRows; ++row) add_row(E{}, tile + row * kRowWords, words[row], partial);
  for (int column = 0; column < kTileColumns; ++column) sums[column] = sum_of(sums[column], partial[column]);
}

// sums [16] += tile [16][16] x words [16]
template <class E>
using AddTile = void (*)(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums);

template <class E>
void add_tile_portable(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums) {
  add_tile_inline<E>(tile, words, sums);
}

template <class E>
void column_block(const LinearCall& call, int64_t block, const Tokens& tokens, AddTile<E> add_tile) {
  const PackedWeights& weights = call.weights;
  const int64_t k_tiles = weights.k_tiles<E>();
  const auto* whole = static_cast<const uint32_t*>(weights.values) + block * k_tiles * 2 * kTileWords;  // unless there is a bitmap
  alignas(64) uint32_t place[kTileWords];
  alignas(64) typename E::Sum sums[kPassTokens * kBlockColumns];
  for (int64_t first = 0; first < call.tokens; first += kPassTokens) {
    const int64_t count = std::min<int64_t>(kPassTokens, call.tokens - first);
    std::fill(std::begin(sums), std::end(sums), typename E::Sum{});
    const auto add_tiles = [&](const auto& next_tile) {
      for (int64_t tile = 0; tile < 2 * k_tiles; ++tile) {
        const uint32_t* const rows = next_tile(tile);
        for (int64_t token = 0; token < count; ++token)
          add_tile(rows, tokens.of_group(first + token) + tile / 2 * kTileRows, sums + token * kBlockColumns + tile % 2 * kTileColumns);
      }
    };
    if (weights.bitmap) {
      BitmapCursor<E> cursor(weights, block);
      add_tiles([&](int64_t) { return expand_portable<E>(cursor, 1, place), static_cast<const uint32_t*>(place); });
    } else {
      add_tiles([&](int64_t tile) { return whole + tile * kTileWords; });
    }
    finish(call, block, first, count, sums, tokens.scales.get(), 0);
  }
}

template <class E>
bool linear(const LinearCall& call, AddTile<E> add_tile) {
  Tokens tokens;
  if (!pack_tokens<E>(call, 1, 0, tokens)) return false;
  for_parts(call.weights.blocks(), call.threads, [&](int64_t block) { column_block<E>(call, block, tokens, add_tile); });
  return true;
}

}  // namespace

template <class E>
bool linear_portable(const LinearCall& call) {
  return linear<E>(call, add_tile_portable<E>);
}

template bool linear_portable<Float32>(const LinearCall&);
template bool linear_portable<Bfloat16>(const LinearCall&);
template bool linear_portable<Int8>(const LinearCall&);

#if XM_X86
namespace {
template <class E>
XM_AVX2 void add_tile_avx2(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums) {
  add_tile_inline<E>(tile, words, sums);
}
}  // namespace

template <class E>
bool linear_avx2(const LinearCall& call) {
  return linear<E>(call, add_tile_avx2<E>);
}

template bool linear_avx2<Float32>(const LinearCall&);
template bool linear_avx2<Bfloat16>(const LinearCall&);
template bool linear_avx2<Int8>(const LinearCall&);
#endif

}  // namespace xmsim
