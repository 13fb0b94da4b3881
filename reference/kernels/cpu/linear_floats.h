// bfloat16 as bits, and rows of either float type as float.
#pragma once

#include <cstring>

#include "linear_format.h"

namespace xmsim {

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float load_float(float value) { return value; }
inline float load_float(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }

inline void store_float(float value, float* place) { *place = value; }
inline void store_float(float value, uint16_t* place) {  // to the nearest, ties to even
  const uint32_t bits = as_bits(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  *place = static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace xmsim
