// The ways to compute y = x w^T + b, one for each kind of processor. Each gives false if there is no memory for its activations.
#pragma once

#include "isa.h"
#include "linear_format.h"

namespace xmsim {

template <class E>
bool linear_portable(const LinearCall& call);

#if XM_X86
template <class E>
bool linear_avx2(const LinearCall& call);

template <class E>
bool linear_avx512(const LinearCall& call);
#endif

// bfloat16 and int8 only.
#if XM_X86
template <class E>
bool linear_amx(const LinearCall& call);
#endif
template <class E>
bool linear_emulated_tiles(const LinearCall& call);

}  // namespace xmsim
