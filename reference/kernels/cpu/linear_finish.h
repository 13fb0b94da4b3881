// From sums to outputs: scales, bias, output type.
#pragma once

#include <algorithm>
#include <type_traits>

#include "linear_floats.h"

namespace xmsim {

template <class Float, class Sum>
void finish_tokens(const LinearCall& call, int64_t block, int64_t token, int64_t tokens, const Sum* sums, const float* steps, int raised) {
  const PackedWeights& weights = call.weights;
  const int64_t first = block * kBlockColumns, columns = std::min<int64_t>(kBlockColumns, weights.out_features - first);
  const auto* bias = static_cast<const Float*>(call.bias);
  for (int64_t i = 0; i < tokens; ++i, sums += kBlockColumns) {
    Float* const y = static_cast<Float*>(call.y) + (token + i) * weights.out_features + first;
    for (int64_t column = 0; column < columns; ++column) {
      float value;
      if constexpr (std::is_same_v<Sum, int32_t>) {
        // modulo 2^32, like the instructions: exact, as the final sum fits
        const uint32_t unwanted = static_cast<uint32_t>(raised) * static_cast<uint32_t>(weights.column_sums[first + column]);
        const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sums[column]) - unwanted);
        value = static_cast<float>(sum) * weights.scales[first + column] * steps[token + i];
      } else {
        (void)steps, (void)raised;
        value = sums[column];
      }
      if (bias) value += load_float(bias[first + column]);
      store_float(value, y + column);
    }
  }
}

// sums [tokens][32] of the block, for the tokens from `token` on.
template <class Sum>
void finish(const LinearCall& call, int64_t block, int64_t token, int64_t tokens, const Sum* sums, const float* steps, int raised) {
  with_float(call.x_element, [&](auto x) { finish_tokens<decltype(x)>(call, block, token, tokens, sums, steps, raised); });
}

}  // namespace xmsim
