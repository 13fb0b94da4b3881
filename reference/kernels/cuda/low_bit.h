// Few-bit codes: which channels of a query are kept, and how a value is clamped and rounded, as the reference does both.
#pragma once

#include "simt.h"

namespace xmsim {

// Whether a channel is the first of largest magnitude in its group.
XM_DEVICE bool is_kept(const float* row, int channel, int group) {
  const int first = channel / group * group;
  const float own = fabsf(row[channel]);
  bool kept = true;
  for (int other = first; other < first + group; ++other) {
    const float magnitude = fabsf(row[other]);
    kept &= other < channel ? magnitude < own : magnitude <= own;
  }
  return kept;
}

// The code of a value, in the lowest 8 bits.
XM_DEVICE uint32_t code_of(float value, float limit, float per_unit) {
  constexpr float kRounder = 12582912.0f;  // 1.5 × 2^23: what is added to it is rounded to an integer, halves to even, in its low bits
  const float clamped = value < -limit ? -limit : value > limit ? limit : value;
  return bits_of_float(times(clamped, per_unit) + kRounder) & 0xffu;
}

}  // namespace xmsim
