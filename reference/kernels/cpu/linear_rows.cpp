// AVX-512: a row of weights, loaded or expanded, meets the same word of every token of a group while it is in a register.
#include <algorithm>
#include <iterator>
#include <type_traits>

#include "linear_avx512.h"
#include "linear_finish.h"
#include "linear_paths.h"
#include "linear_stripes.h"
#include "linear_tokens.h"
#include "team.h"

#if XM_X86

namespace xmsim {
namespace {

constexpr int kRaised = 128;          // VPDPBUSD wants the activations unsigned
constexpr int kMostTokens = 12;       // of a group: two times 12 sums leave room in 32 registers
constexpr int kPassTokens = 96;       // that share one expansion; their sums stay in L1
constexpr int64_t kFoldTiles = 4;     // added up before they join the sum so far: long chains of float32 additions lose digits
constexpr int64_t kChunkTiles = 16;   // expanded at a time: 16 KiB, also in L1

// Sums of their own for rows that follow each other, so that few tokens do not wait for the latency of an addition.
constexpr int chains(int tokens) { return tokens <= 3 ? 4 : tokens <= 6 ? 2 : 1; }

template <class E>
struct WholeRows {
  const uint32_t* at;
};

template <class E>
XM_AVX512 XM_INLINE __m512i next_row(WholeRows<E>& rows) {
  const __m512i row = _mm512_loadu_si512(rows.at);
  rows.at += kRowWords;
  return row;
}

// 16 sums. Floats and integers are different registers to the compiler: one type for both makes it copy.
template <class Sum>
struct Lanes;
template <>
struct Lanes<float> {
  __m512 of;
};
template <>
struct Lanes<int32_t> {
  __m512i of;
};

// A row as it is multiplied. Of float16 the even inputs of 16 outputs and the odd ones, as float32.
template <class E>
struct Multiplied {
  __m512i row;
};
template <>
struct Multiplied<Float16> {
  __m512 even, odd;
};
template <class E>
XM_AVX512 XM_INLINE Multiplied<E> multiplied(__m512i row) {
  if constexpr (E::kInputWords == 1) {
    return {row};
  } else {
    const __m512i even_then_odd = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20, 18, 16,
                                                   14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i halves = _mm512_permutexvar_epi16(even_then_odd, row);
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
  }
}

// x: the token's word, and `tokens` further on the one after it
XM_AVX512 XM_INLINE void add_products(Lanes<float>& sums, Multiplied<Float32> weights, const uint32_t* x, int) {
  sums.of = _mm512_fmadd_ps((__m512)weights.row, (__m512)_mm512_set1_epi32(*x), sums.of);
}
XM_AVX512 XM_INLINE void add_products(Lanes<float>& sums, Multiplied<Bfloat16> weights, const uint32_t* x, int) {
  sums.of = _mm512_dpbf16_ps(sums.of, (__m512bh)weights.row, (__m512bh)_mm512_set1_epi32(*x));
}
XM_AVX512 XM_INLINE void add_products(Lanes<float>& sums, Multiplied<Float16> weights, const uint32_t* x, int tokens) {
  sums.of = _mm512_fmadd_ps(weights.even, (__m512)_mm512_set1_epi32(*x), sums.of);
  sums.of = _mm512_fmadd_ps(weights.odd, (__m512)_mm512_set1_epi32(x[tokens]), sums.of);
}
XM_AVX512 XM_INLINE void add_products(Lanes<int32_t>& sums, Multiplied<Int8> weights, const uint32_t* x, int) {
  sums.of = _mm512_dpbusd_epi32(sums.of, _mm512_set1_epi32(*x), weights.row);
}
XM_AVX512 XM_INLINE void clear(Lanes<float>& sums) { sums.of = _mm512_setzero_ps(); }
XM_AVX512 XM_INLINE void clear(Lanes<int32_t>& sums) { sums.of = _mm512_setzero_si512(); }
XM_AVX512 XM_INLINE void add_to(float* place, Lanes<float> sums) {
  _mm512_store_ps(place, _mm512_add_ps(_mm512_load_ps(place), sums.of));
}
XM_AVX512 XM_INLINE void add_to(int32_t* place, Lanes<int32_t> sums) {
  _mm512_store_si512(place, _mm512_add_epi32(_mm512_load_si512(place), sums.of));
}

// sums [kTokens][32] += rows x words, over so many tiles of K; words [k_tiles * 16 * kInputWords][kTokens].
template <class E, int kTokens, class Rows>
XM_AVX512 void add_rows(Rows rows, int64_t k_tiles, const uint32_t* words, typename E::Sum* sums) {
  constexpr int kChains = chains(kTokens), kWords = kTokens * E::kInputWords;
  for (int64_t first = 0; first < k_tiles; first += kFoldTiles) {
    Lanes<typename E::Sum> partial[2][kChains][kTokens];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 12
        for (int token = 0; token < kTokens; ++token) clear(partial[half][chain][token]);
    for (int64_t tile = first; tile < std::min(first + kFoldTiles, k_tiles); ++tile, words += kTileRows * kWords)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const uint32_t* x = words;
        __asm__("" : "+r"(x));  // or the compiler keeps the words of the first half for the second, and spills the sums for it
#pragma GCC unroll 1
        for (int row = 0; row < kTileRows; row += kChains, x += kChains * kWords)
#pragma GCC unroll 4
          for (int chain = 0; chain < kChains; ++chain) {
            const Multiplied<E> weights = multiplied<E>(next_row(rows));
#pragma GCC unroll 12
            for (int token = 0; token < kTokens; ++token)
              add_products(partial[half][chain][token], weights, x + chain * kWords + token, kTokens);
          }
      }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 12
        for (int token = 0; token < kTokens; ++token)
          add_to(sums + token * kBlockColumns + half * kTileColumns, partial[half][chain][token]);
  }
}

template <class E, class Rows>
using AddRows = void (*)(Rows, int64_t, const uint32_t*, typename E::Sum*);

constexpr int kGroupSizes[] = {1, 2, 3, 4, 6, 8, kMostTokens};

template <class E, class Rows>
AddRows<E, Rows> add_rows_of(int group) {
  switch (group) {
    case 1: return add_rows<E, 1, Rows>;
    case 2: return add_rows<E, 2, Rows>;
    case 3: return add_rows<E, 3, Rows>;
    case 4: return add_rows<E, 4, Rows>;
    case 6: return add_rows<E, 6, Rows>;
    case 8: return add_rows<E, 8, Rows>;
    default: return add_rows<E, kMostTokens, Rows>;
  }
}

// One group if that is possible, else the size with the least work: a row costs each group its tokens, empty places too, and a load.
int group_size(int64_t tokens) {
  const auto work = [&](int size) { return ceil_div(tokens, size) * (size + 1); };
  int best = kMostTokens;
  for (int size : kGroupSizes) {
    if (size >= tokens) return size;
    if (tokens > kMostTokens && work(size) < work(best)) best = size;
  }
  return best;
}

// All tokens in one group: each row is used where it was expanded.
template <class E, class Rows>
void one_group(const LinearCall& call, int64_t block, Rows rows, const Tokens& tokens) {
  alignas(64) typename E::Sum sums[kMostTokens * kBlockColumns] = {};
  add_rows_of<E, Rows>(tokens.group)(rows, call.weights.k_tiles<E>(), tokens.words.get(), sums);
  finish(call, block, 0, call.tokens, sums, tokens.scales.get(), kRaised);
}

template <class E>
const uint32_t* next_chunk(WholeRows<E>& rows, int64_t k_tiles, uint32_t*) {
  const uint32_t* const chunk = rows.at;
  rows.at += k_tiles * 2 * kTileWords;
  return chunk;
}
template <class Cursor>
const uint32_t* next_chunk(Cursor& rows, int64_t k_tiles, uint32_t* place) {
  expand_avx512(rows, 2 * k_tiles, place);
  return place;
}

// More tokens: some tiles are expanded into L1, and every group of a pass reads them there.
template <class E, class Rows>
void many_groups(const LinearCall& call, int64_t block, const Rows& first_rows, const Tokens& tokens) {
  const int64_t k_tiles = call.weights.k_tiles<E>(), pass_groups = kPassTokens / tokens.group;
  const auto add_chunk = add_rows_of<E, WholeRows<E>>(tokens.group);
  alignas(64) uint32_t place[kChunkTiles * kTileWords];
  alignas(64) typename E::Sum sums[kPassTokens * kBlockColumns];
  for (int64_t first = 0; first < tokens.groups; first += pass_groups) {
    const int64_t groups = std::min(pass_groups, tokens.groups - first);
    std::fill(std::begin(sums), std::end(sums), typename E::Sum{});
    Rows rows = first_rows;
    for (int64_t tile = 0; tile < k_tiles; tile += kChunkTiles / 2) {
      const int64_t count = std::min(kChunkTiles / 2, k_tiles - tile);
      const uint32_t* const chunk = next_chunk(rows, count, place);
      for (int64_t group = 0; group < groups; ++group)
        add_chunk({chunk}, count, tokens.of_group(first + group) + tile * kTileRows * E::kInputWords * tokens.group,
                  sums + group * tokens.group * kBlockColumns);
    }
    const int64_t token = first * tokens.group;
    finish(call, block, token, std::min(groups * tokens.group, call.tokens - token), sums, tokens.scales.get(), kRaised);
  }
}

template <class E, class Rows>
void column_block(const LinearCall& call, int64_t block, const Rows& rows, const Tokens& tokens) {
  if constexpr (std::is_same_v<Rows, WholeRows<E>> || std::is_same_v<Rows, BitmapCursor<E>>)
    if (tokens.groups == 1) return one_group<E>(call, block, rows, tokens);
  many_groups<E>(call, block, rows, tokens);  // other orders are turned in L1
}

}  // namespace

template <class E>
bool linear_avx512(const LinearCall& call) {
  if constexpr (!std::is_same_v<E, Int8>)
    if (call.weights.form == Form::tca_bme && call.tokens <= kStripeTokens) return linear_stripes_avx512<E>(call);
  Tokens tokens;
  if (!pack_tokens<E>(call, group_size(call.tokens), kRaised, tokens)) return false;
  const PackedWeights& weights = call.weights;
  const int64_t block_words = weights.k_tiles<E>() * 2 * kTileWords;
  for_parts(weights.blocks(), call.threads, [&](int64_t block) {
    if (weights.form == Form::tiles)
      column_block<E>(call, block, WholeRows<E>{static_cast<const uint32_t*>(weights.values) + block * block_words}, tokens);
    else
      with_cursor<E>(weights, block, [&](const auto& cursor) { column_block<E>(call, block, cursor, tokens); });
  });
  return true;
}

template bool linear_avx512<Float32>(const LinearCall&);
template bool linear_avx512<Bfloat16>(const LinearCall&);
template bool linear_avx512<Float16>(const LinearCall&);
template bool linear_avx512<Int8>(const LinearCall&);

}  // namespace xmsim

#endif
