#include "linear_expand.h"

#include <algorithm>

#include "linear_avx512.h"

namespace xmsim {
namespace {

// Where element (input, output) of a tile lies.
template <class E>
int place_of(int input, int output) {
  return input / E::kPerWord * kRowElements<E> + output * E::kPerWord + input % E::kPerWord;
}

template <class E>
void expand_tile(BitmapCursor<E>& cursor, typename E::Bits* tile) {
  for (int row = 0; row < kTileRows; ++row, tile += kRowElements<E>)
    for (uint64_t mask = *cursor.mask++; mask; mask &= mask - 1) tile[__builtin_ctzll(mask)] = *cursor.value++;
}

template <class E>
void expand_tile(TcaBmeCursor<E>& cursor, typename E::Bits* tile) {
  const int half = cursor.place.half();
  const uint64_t* const bitmaps = cursor.next_bitmaps();
  const typename E::Bits* value = cursor.value[half];
  for (int i = 0; i < 2 * cursor.kPairs; ++i)
    for (uint64_t mask = bitmaps[i]; mask; mask &= mask - 1) {
      const int bit = __builtin_ctzll(mask);
      tile[place_of<E>(i / 2 * kPair + bit % kPair, i % 2 * kPair + bit / kPair)] = *value++;
    }
  cursor.value[half] = value;
}

template <class E>
void expand_tile(ColumnCursor<E>& cursor, typename E::Bits* tile) {
  for (int column = 0; column < kTileRows * E::kPerWord; ++column) {
    auto [mask, value] = cursor.part(column);
    for (; mask; mask &= mask - 1) tile[place_of<E>(column, __builtin_ctz(mask))] = *value++;
  }
  ++cursor.place.tile;
}

template <class E>
void expand_tile(TwoFourCursor<E>& cursor, typename E::Bits* tile) {
  for (int output = 0; output < kTileColumns; ++output) {
    auto [mask, value] = cursor.part(output);
    for (; mask; mask &= mask - 1) tile[place_of<E>(__builtin_ctz(mask), output)] = *value++;
  }
  ++cursor.tile;
}

template <template <class> class Cursor, class E>
void expand_tiles(Cursor<E>& cursor, int64_t tiles, uint32_t* words) {
  std::fill(words, words + tiles * kTileWords, 0u);
  for (int64_t tile = 0; tile < tiles; ++tile, words += kTileWords) expand_tile(cursor, reinterpret_cast<typename E::Bits*>(words));
}

}  // namespace

template <class Cursor>
void expand_portable(Cursor& cursor, int64_t tiles, uint32_t* words) {
  expand_tiles(cursor, tiles, words);
}

template void expand_portable(BitmapCursor<Int8>&, int64_t, uint32_t*);
#define XM_EXPAND_PORTABLE(Cursor)                                      \
  template void expand_portable(Cursor<Float32>&, int64_t, uint32_t*);  \
  template void expand_portable(Cursor<Bfloat16>&, int64_t, uint32_t*); \
  template void expand_portable(Cursor<Float16>&, int64_t, uint32_t*);
XM_EXPAND_PORTABLE(BitmapCursor)
XM_EXPAND_PORTABLE(TcaBmeCursor)
XM_EXPAND_PORTABLE(ColumnCursor)
XM_EXPAND_PORTABLE(TwoFourCursor)
#undef XM_EXPAND_PORTABLE

#if XM_X86
namespace {

// Four lanes of 128 bits of each, transposed.
XM_AVX512 XM_INLINE void transpose_lanes(__m512i (&rows)[4]) {
  const __m512i a = _mm512_shuffle_i32x4(rows[0], rows[1], 0x44), b = _mm512_shuffle_i32x4(rows[2], rows[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(rows[0], rows[1], 0xee), d = _mm512_shuffle_i32x4(rows[2], rows[3], 0xee);
  rows[0] = _mm512_shuffle_i32x4(a, b, 0x88), rows[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  rows[2] = _mm512_shuffle_i32x4(c, d, 0x88), rows[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

// 16 x 16 words, transposed: fours of words within the lanes, then the lanes.
XM_AVX512 XM_INLINE void transpose_words(__m512i (&rows)[kTileRows]) {
#pragma GCC unroll 4
  for (int i = 0; i < kTileRows; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]), b = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
    const __m512i c = _mm512_unpackhi_epi32(rows[i], rows[i + 1]), d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    rows[i] = _mm512_unpacklo_epi64(a, b), rows[i + 1] = _mm512_unpackhi_epi64(a, b);
    rows[i + 2] = _mm512_unpacklo_epi64(c, d), rows[i + 3] = _mm512_unpackhi_epi64(c, d);
  }
#pragma GCC unroll 4
  for (int word = 0; word < 4; ++word) {
    __m512i lanes[4] = {rows[word], rows[word + 4], rows[word + 8], rows[word + 12]};
    transpose_lanes(lanes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) rows[word + 4 * i] = lanes[i];
  }
}

template <class E>
XM_AVX512 XM_INLINE void write_tile(BitmapCursor<E>& cursor, uint32_t* words) {
#pragma GCC unroll 4
  for (int row = 0; row < kTileRows; ++row, words += kRowWords) _mm512_storeu_si512(words, next_row(cursor));
}

// A block leaves every other half of a GroupTile to its neighbour: no stream that the processor would follow by itself.
constexpr int64_t kAheadGroups = 3;

// 16 outputs x 8 inputs at a time, as they are stored: registers of some outputs each, which become rows of 16 outputs.
template <class E>
XM_AVX512 XM_INLINE void write_tile(TcaBmeCursor<E>& cursor, uint32_t* words) {
  constexpr int kRegisters = 2 * kGroup / kRowElements<E>, kRows = kPair / E::kPerWord;  // 8 and 8, or 4 and 4
  const int half = cursor.place.half();
  const uint64_t* bitmaps = cursor.next_bitmaps();
  const typename E::Bits* value = cursor.value[half];
#pragma GCC unroll 1
  for (int pair = 0; pair < cursor.kPairs; ++pair, bitmaps += 2, words += kRows * kRowWords) {
    _mm_prefetch(reinterpret_cast<const char*>(bitmaps + kAheadGroups * kGroup), _MM_HINT_T0);
    __m512i rows[kRegisters];
#pragma GCC unroll 8
    for (int i = 0; i < kRegisters; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(value) + kAheadGroups * kAheadBytes, _MM_HINT_T0);
      const auto mask = static_cast<typename E::Mask>(bitmaps[2 * i / kRegisters] >> i % (kRegisters / 2) * kRowElements<E>);
      rows[i] = expand_row<E>(value, mask);
      value += _mm_popcnt_u64(mask);
    }
    // word k of four outputs side by side in lane k
    __m512i lanes[2][4];
    if constexpr (E::kPerWord == 1) {
      const __m512i low = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
      const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        lanes[0][i] = _mm512_permutex2var_epi32(rows[2 * i], low, rows[2 * i + 1]);
        lanes[1][i] = _mm512_permutex2var_epi32(rows[2 * i], high, rows[2 * i + 1]);
      }
    } else {
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) lanes[0][i] = _mm512_permutexvar_epi32(order, rows[i]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kRows / 4; ++i) {
      transpose_lanes(lanes[i]);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) _mm512_storeu_si512(words + (4 * i + row) * kRowWords, lanes[i][row]);
    }
  }
  cursor.value[half] = value;
}

// A column is a row of the tile, or one half of its pairs.
template <class E>
XM_AVX512 XM_INLINE void write_tile(ColumnCursor<E>& cursor, uint32_t* words) {
#pragma GCC unroll 1
  for (int row = 0; row < kTileRows; ++row, words += kRowWords) {
    if constexpr (E::kPerWord == 1) {
      const auto column = cursor.part(row);
      _mm512_storeu_si512(words, expand_row<E>(column.value, static_cast<typename E::Mask>(column.mask)));
    } else {
      const auto even = cursor.part(2 * row), odd = cursor.part(2 * row + 1);
      const __m256i low = _mm256_maskz_expandloadu_epi16(static_cast<__mmask16>(even.mask), even.value);
      const __m256i high = _mm256_maskz_expandloadu_epi16(static_cast<__mmask16>(odd.mask), odd.value);
      _mm512_storeu_si512(words, _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
    }
  }
  ++cursor.place.tile;
}

constexpr int64_t kAheadOfRowBytes = 512;  // sixteen rows are read side by side, more than the processor's own prefetching follows

// An output is a column of the tile.
template <class E>
XM_AVX512 XM_INLINE void write_tile(TwoFourCursor<E>& cursor, uint32_t* words) {
  __m512i rows[kTileRows];
#pragma GCC unroll 16
  for (int output = 0; output < kTileColumns; ++output) {
    const auto part = cursor.part(output);
    _mm_prefetch(reinterpret_cast<const char*>(part.value) + kAheadOfRowBytes, _MM_HINT_T0);
    rows[output] = expand_row<E>(part.value, static_cast<typename E::Mask>(part.mask));
  }
  transpose_words(rows);
#pragma GCC unroll 16
  for (int row = 0; row < kTileRows; ++row) _mm512_storeu_si512(words + row * kRowWords, rows[row]);
  ++cursor.tile;
}

}  // namespace

template <class Cursor>
XM_AVX512 void expand_avx512(Cursor& cursor, int64_t tiles, uint32_t* words) {
  Cursor at = cursor;
  for (int64_t tile = 0; tile < tiles; ++tile, words += kTileWords) write_tile(at, words);
  cursor = at;
}

template void expand_avx512(BitmapCursor<Int8>&, int64_t, uint32_t*);
#define XM_EXPAND_AVX512(Cursor)                                      \
  template void expand_avx512(Cursor<Float32>&, int64_t, uint32_t*);  \
  template void expand_avx512(Cursor<Bfloat16>&, int64_t, uint32_t*); \
  template void expand_avx512(Cursor<Float16>&, int64_t, uint32_t*);
XM_EXPAND_AVX512(BitmapCursor)
XM_EXPAND_AVX512(TcaBmeCursor)
XM_EXPAND_AVX512(ColumnCursor)
XM_EXPAND_AVX512(TwoFourCursor)
#undef XM_EXPAND_AVX512
#endif

}  // namespace xmsim
