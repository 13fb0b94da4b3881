#include "linear_expand.h"

#include <algorithm>

#include "linear_avx512.h"

namespace xmsim {

template <class E>
void expand_portable(BitmapCursor<E>& cursor, int64_t tiles, uint32_t* words) {
  auto* row = reinterpret_cast<typename E::Bits*>(words);
  std::fill(words, words + tiles * kTileWords, 0u);
  for (int64_t i = 0; i < tiles * kTileRows; ++i, row += kRowElements<E>)
    for (uint64_t mask = *cursor.mask++; mask; mask &= mask - 1) row[__builtin_ctzll(mask)] = *cursor.value++;
}

template void expand_portable(BitmapCursor<Float32>&, int64_t, uint32_t*);
template void expand_portable(BitmapCursor<Bfloat16>&, int64_t, uint32_t*);
template void expand_portable(BitmapCursor<Int8>&, int64_t, uint32_t*);

#if XM_X86
template <class E>
XM_AVX512 void expand_avx512(BitmapCursor<E>& cursor, int64_t tiles, uint32_t* words) {
  BitmapCursor<E> at = cursor;
  for (int64_t tile = 0; tile < tiles; ++tile)
#pragma GCC unroll 4
    for (int row = 0; row < kTileRows; ++row, words += kRowWords) _mm512_storeu_si512(words, next_row(at));
  cursor = at;
}

template void expand_avx512(BitmapCursor<Float32>&, int64_t, uint32_t*);
template void expand_avx512(BitmapCursor<Bfloat16>&, int64_t, uint32_t*);
template void expand_avx512(BitmapCursor<Int8>&, int64_t, uint32_t*);
#endif

}  // namespace xmsim
