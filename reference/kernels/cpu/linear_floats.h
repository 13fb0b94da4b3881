// bfloat16 and float16 as bits, and rows of any float type as float.
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

// Without a branch, so that loops over it vectorise; right where subnormal inputs are flushed, too.
inline float half_value(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu, sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t infinite = magnitude >= 0x7c00 ? 0x38000000u : 0;
  const uint32_t normal = (magnitude << 13) + 0x38000000u + infinite;
  return as_float((magnitude < 0x400 ? as_bits(subnormal) : normal) | sign);
}
inline float load_float(Half half) { return half_value(half.bits); }

inline uint16_t half_bits(float value) {  // to the nearest, ties to even
  const uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 2^16: infinite
  if (magnitude < 0x38800000)                         // 2^-14: subnormal, counted in steps of 2^-24 by the rounding of an addition
    return sign | static_cast<uint16_t>(as_bits(as_float(magnitude) + 0.5f) - 0x3f000000);
  return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
inline void store_float(float value, Half* place) { place->bits = half_bits(value); }

inline void store_float(float value, float* place) { *place = value; }
inline void store_float(float value, uint16_t* place) {  // to the nearest, ties to even
  const uint32_t bits = as_bits(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  *place = static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace xmsim
