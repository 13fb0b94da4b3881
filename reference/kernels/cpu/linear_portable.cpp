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
XM_INLINE void add_row(Float16, const uint32_t* row, uint32_t x, float* sums) { add_row(Float32{}, row, x, sums); }  // widened before
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
  for (int row = 0; row < kTileRows * E::kInputWords; ++row) add_row(E{}, tile + row * kRowWords, words[row], partial);
  for (int column = 0; column < kTileColumns; ++column) sums[column] = sum_of(sums[column], partial[column]);
}

// A tile of float16 as float32 [32][16]: even inputs and odd ones by turns, as words of activations follow each other.
using Widen = void (*)(const uint32_t* tile, uint32_t* wide);

void widen_portable(const uint32_t* tile, uint32_t* wide) {
  for (int row = 0; row < kTileRows; ++row, tile += kRowWords, wide += 2 * kRowWords)
    for (int column = 0; column < kTileColumns; ++column) {
      wide[column] = as_bits(half_value(static_cast<uint16_t>(tile[column])));
      wide[kRowWords + column] = as_bits(half_value(static_cast<uint16_t>(tile[column] >> 16)));
    }
}

// sums [16] += tile [16][16] x words [16]
template <class E>
using AddTile = void (*)(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums);

template <class E>
void add_tile_portable(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums) {
  add_tile_inline<E>(tile, words, sums);
}

template <class E>
void column_block(const LinearCall& call, int64_t block, const Tokens& tokens, AddTile<E> add_tile, Widen widen) {
  const PackedWeights& weights = call.weights;
  const int64_t k_tiles = weights.k_tiles<E>();
  const auto* whole = static_cast<const uint32_t*>(weights.values) + block * k_tiles * 2 * kTileWords;  // if it is stored so
  alignas(64) uint32_t place[kTileWords], wide[2 * kTileWords];
  alignas(64) typename E::Sum sums[kPassTokens * kBlockColumns];
  for (int64_t first = 0; first < call.tokens; first += kPassTokens) {
    const int64_t count = std::min<int64_t>(kPassTokens, call.tokens - first);
    std::fill(std::begin(sums), std::end(sums), typename E::Sum{});
    const auto add_tiles = [&](const auto& next_tile) {
      for (int64_t tile = 0; tile < 2 * k_tiles; ++tile) {
        const uint32_t* rows = next_tile(tile);
        if constexpr (E::kInputWords > 1) widen(rows, wide), rows = wide;
        for (int64_t token = 0; token < count; ++token)
          add_tile(rows, tokens.of_group(first + token) + tile / 2 * kTileRows * E::kInputWords, sums + token * kBlockColumns + tile % 2 * kTileColumns);
      }
    };
    if (weights.form == Form::tiles) {
      add_tiles([&](int64_t tile) { return whole + tile * kTileWords; });
    } else {
      with_cursor<E>(weights, block, [&](auto cursor) {
        add_tiles([&](int64_t) { return expand_portable(cursor, 1, place), static_cast<const uint32_t*>(place); });
      });
    }
    finish(call, block, first, count, sums, tokens.scales.get(), 0);
  }
}

template <class E>
bool linear(const LinearCall& call, AddTile<E> add_tile, Widen widen) {
  Tokens tokens;
  if (!pack_tokens<E>(call, 1, 0, tokens)) return false;
  for_parts(call.weights.blocks(), call.threads, [&](int64_t block) { column_block<E>(call, block, tokens, add_tile, widen); });
  return true;
}

}  // namespace

template <class E>
bool linear_portable(const LinearCall& call) {
  return linear<E>(call, add_tile_portable<E>, widen_portable);
}

template bool linear_portable<Float32>(const LinearCall&);
template bool linear_portable<Bfloat16>(const LinearCall&);
template bool linear_portable<Float16>(const LinearCall&);
template bool linear_portable<Int8>(const LinearCall&);

#if XM_X86
namespace {
template <class E>
XM_AVX2 void add_tile_avx2(const uint32_t* tile, const uint32_t* words, typename E::Sum* sums) {
  add_tile_inline<E>(tile, words, sums);
}

// Eight columns: their even halves, then their odd ones.
XM_AVX2 XM_INLINE void widen_eight(__m256i words, uint32_t* wide) {
  const __m256i even = _mm256_and_si256(words, _mm256_set1_epi32(0xffff)), odd = _mm256_srli_epi32(words, 16);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(even, odd), 0xd8);  // packing works within lanes
  _mm256_storeu_ps(reinterpret_cast<float*>(wide), _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
  _mm256_storeu_ps(reinterpret_cast<float*>(wide + kRowWords), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}

XM_AVX2 void widen_avx2(const uint32_t* tile, uint32_t* wide) {
  for (int row = 0; row < kTileRows; ++row, tile += kRowWords, wide += 2 * kRowWords)
    for (int column = 0; column < kTileColumns; column += 8)
      widen_eight(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + column)), wide + column);
}
}  // namespace

template <class E>
bool linear_avx2(const LinearCall& call) {
  return linear<E>(call, add_tile_avx2<E>, widen_avx2);
}

template bool linear_avx2<Float32>(const LinearCall&);
template bool linear_avx2<Bfloat16>(const LinearCall&);
template bool linear_avx2<Float16>(const LinearCall&);
template bool linear_avx2<Int8>(const LinearCall&);
#endif

}  // namespace xmsim
