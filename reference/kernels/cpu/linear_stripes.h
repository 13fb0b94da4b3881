// Decoding on TCA-BME, as it is stored.
#pragma once

#include "isa.h"
#include "linear_format.h"

namespace xmsim {

constexpr int kStripeTokens = 3;  // that share a pass: three times 8 sums leave room in 32 registers

#if XM_X86
// y = x w^T + b for at most kStripeTokens tokens, on weights of Form::tca_bme. False if there was no memory for the activations.
template <class E>
bool linear_stripes_avx512(const LinearCall& call);
#endif

}  // namespace xmsim
