// Rows of packed weights in an AVX-512 register.
#pragma once

#include "isa.h"
#include "linear_expand.h"

#if XM_X86

namespace xmsim {

XM_AVX512 XM_INLINE __m512i zero_now() {
  // Zen 4 lets an expand wait for what its destination held before, even when it zeroes it: without a fresh zero there, one expand
  // follows the other at 5 cycles, not 1.5. The compiler must not see that this is a zero, or it would drop it again.
  __m512i zero;
  __asm__("vpxord %0, %0, %0" : "=v"(zero));
  return zero;
}

template <class E>
XM_AVX512 XM_INLINE __m512i expand_row(const typename E::Bits* values, typename E::Mask mask) {
  if constexpr (E::kPerWord == 1) return _mm512_mask_expandloadu_epi32(zero_now(), mask, values);
  if constexpr (E::kPerWord == 2) return _mm512_mask_expandloadu_epi16(zero_now(), mask, values);
  if constexpr (E::kPerWord == 4) return _mm512_mask_expandloadu_epi8(zero_now(), mask, values);
}

constexpr int64_t kAheadBytes = 4096;

// The processor's own prefetching suits a plain read, not the irregular steps here: asking for the values ahead, for each row so that no
// line is left out, is worth 10 to 15 % from memory. It made the dense kernel slower, and bitmaps are too few bytes to gain.
template <class E>
XM_AVX512 XM_INLINE __m512i next_row(BitmapCursor<E>& cursor) {
  _mm_prefetch(reinterpret_cast<const char*>(cursor.value) + kAheadBytes, _MM_HINT_T0);
  const auto mask = *cursor.mask++;
  const __m512i row = expand_row<E>(cursor.value, mask);
  cursor.value += _mm_popcnt_u64(mask);
  return row;
}

}  // namespace xmsim

#endif
