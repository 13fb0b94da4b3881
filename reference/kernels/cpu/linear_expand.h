// From what is stored back to whole rows, one tile after the other.
#pragma once

#include "isa.h"
#include "linear_cursors.h"

namespace xmsim {

// Write the next tiles [tiles][16][16] words and move the cursor on; for every cursor of linear_cursors.h.
template <class Cursor>
void expand_portable(Cursor& cursor, int64_t tiles, uint32_t* words);

#if XM_X86
template <class Cursor>
XM_AVX512 void expand_avx512(Cursor& cursor, int64_t tiles, uint32_t* words);
#endif

}  // namespace xmsim
