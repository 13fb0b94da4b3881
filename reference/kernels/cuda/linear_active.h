// Lists of active inputs, as TEAL and SPDP read them: each warp lists those that it needs itself, so that nothing runs before the product.
#pragma once

#include "linear_elements.h"

namespace xmsim {

constexpr int kLooked = 4;                // inputs that a lane looks at together, 8 bytes
constexpr int kListed = kLooked * kWarp;  // and its warp
constexpr int kRing = 2 * kListed;        // records that a warp holds: those of one look, and fewer than one step that are left from before

// Lists inputs with a magnitude that is not at or below the threshold, NaN among them, behind the `listed` that are listed already, in an
// order that no timing changes: put(place, which of the lane's four, its value), where the others' place is kRing, which nobody reads: a
// record that is written for nothing costs less than a branch. How many are listed then.
template <class Element, class Put>
XM_DEVICE uint32_t list_active(const uint2& pairs, float threshold, uint32_t listed, Put put) {
  const uint32_t below = (1u << lane()) - 1;
  XM_UNROLL(4)
  for (int i = 0; i < kLooked; ++i) {
    const uint32_t pair = i / 2 ? pairs.y : pairs.x;
    const float value = i % 2 ? high_of<Element>(pair) : low_of<Element>(pair);
    const bool active = !(fabsf(value) <= threshold);
    const uint32_t votes = ballot(active);
    put(active ? (listed + popcount(votes & below)) % kRing : kRing, i, value);
    listed += popcount(votes);
  }
  return listed;
}

// The sum of a value over the lanes whose numbers differ by multiples of `step`.
XM_DEVICE float sum_over_lanes(float value, int step) {
  XM_UNROLL(5)
  for (int bits = kWarp / 2; bits >= step; bits /= 2) value += shfl_xor(value, bits);
  return value;
}

}  // namespace xmsim
