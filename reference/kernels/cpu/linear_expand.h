// From bitmap and values back to whole rows, one tile after the other.
#pragma once

#include "isa.h"
#include "linear_format.h"

namespace xmsim {

// Where the next row of a column block starts.
template <class E>
struct BitmapCursor {
  const typename E::Mask* mask;
  const typename E::Bits* value;

  BitmapCursor(const PackedWeights& weights, int64_t block)
      : mask(static_cast<const typename E::Mask*>(weights.bitmap) + block * weights.k_tiles<E>() * 2 * kTileRows),
        value(static_cast<const typename E::Bits*>(weights.values) + weights.offsets[block]) {}
};

// Write the next tiles [tiles][16][16] words and move on.
template <class E>
using Expand = void (*)(BitmapCursor<E>& cursor, int64_t tiles, uint32_t* words);

template <class E>
void expand_portable(BitmapCursor<E>& cursor, int64_t tiles, uint32_t* words);

#if XM_X86
template <class E>
XM_AVX512 void expand_avx512(BitmapCursor<E>& cursor, int64_t tiles, uint32_t* words);
#endif

}  // namespace xmsim
