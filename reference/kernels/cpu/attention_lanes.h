// Vectors of XM_LANES floats, written once for every instruction set: GCC's and Clang's own vector types, intrinsics where these
// say too little. Included between XM_BEGIN_TARGET and XM_END_TARGET, by each file once.
#pragma once

namespace xmsim {
namespace {

constexpr int kLanes = XM_LANES;
typedef float Floats __attribute__((vector_size(4 * XM_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * XM_LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * XM_LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * XM_LANES)));

XM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
XM_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

XM_INLINE Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

XM_INLINE Floats load(const Bf16* from) {
  Halves bits;
  std::memcpy(&bits, from, sizeof bits);
  return (Floats)(__builtin_convertvector(bits, Words) << 16);
}

XM_INLINE void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

XM_INLINE Floats splat(float x) { return x - Floats{}; }

XM_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if XM_LANES == 16
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif XM_LANES == 8
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

XM_INLINE Floats larger(Floats a, Floats b) {
#if XM_LANES == 16
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

XM_INLINE float sum(Floats x) {
#if XM_LANES == 16
  return _mm512_reduce_add_ps((__m512)x);
#else
  for (int step = kLanes / 2; step; step /= 2)
    for (int lane = 0; lane < step; ++lane) x[lane] += x[lane + step];
  return x[0];
#endif
}

XM_INLINE float largest(Floats x) {
#if XM_LANES == 16
  return _mm512_reduce_max_ps((__m512)x);
#else
  float top = x[0];
  for (int lane = 1; lane < kLanes; ++lane) top = x[lane] > top ? x[lane] : top;
  return top;
#endif
}

// e to the power of x for x <= 0, to 2 units of the last place; 0 below -87 (the smallest normal float), where -infinity lies too.
XM_INLINE Floats exponential(Floats x) {
  const Floats clamped = larger(x, splat(-88.0f));
  const Floats rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
  const Floats shifted = fma(clamped, splat(1.44269504088896341f), rounder);
  const Floats exponent = shifted - rounder;
  Floats rest = fma(exponent, splat(-0.693359375f), clamped);  // ln 2 in two parts: the first is exact in products with small integers
  rest = fma(exponent, splat(2.12194440e-4f), rest);
  constexpr float kTaylor[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Floats series = splat(1.0f / 5040);
  for (float coefficient : kTaylor) series = fma(series, rest, splat(coefficient));
  const Ints bits = (Ints)series + (((Ints)shifted - (Ints)rounder) << 23);
#if XM_LANES == 16
  return (Floats)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ), (__m512)bits);
#else
  return (Floats)(bits & (x >= splat(-87.0f)));
#endif
}

XM_INLINE float exponential(float x) { return exponential(splat(x))[0]; }

XM_INLINE Bf16 to_bf16(float x) {  // nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

XM_INLINE void store_number(float* to, float x) { *to = x; }
XM_INLINE void store_number(Bf16* to, float x) { *to = to_bf16(x); }

}  // namespace
}  // namespace xmsim
