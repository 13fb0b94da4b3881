// The mask kernels on AVX-512: sixteen lanes are one register, and low-bit scores are byte products (VPDPBUSD).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "isa.h"
#include "mask_job.h"
#include "team.h"

#if XM_X86

#define XM_SET XM_AVX512
#define XM_BYTE_DOTS 1

namespace xmsim {
namespace {

constexpr int kDotRows = 16;  // rows whose sums are kept in registers together

using V = __m512;

constexpr __mmask16 kAll = 0xffff;  // gcc 12 warns of the undefined operand in its own unmasked forms

#define XM_OPERATION XM_AVX512 XM_INLINE
XM_OPERATION V set(float x) { return _mm512_set1_ps(x); }
XM_OPERATION V load(const float* p) { return _mm512_loadu_ps(p); }
XM_OPERATION V load_first(const float* p, int64_t n, float fill) {
  return _mm512_mask_loadu_ps(set(fill), static_cast<__mmask16>((1u << n) - 1), p);
}
XM_OPERATION void store(float* p, V a) { _mm512_storeu_ps(p, a); }
XM_OPERATION V add(V a, V b) { return _mm512_add_ps(a, b); }
XM_OPERATION V sub(V a, V b) { return _mm512_sub_ps(a, b); }
XM_OPERATION V mul(V a, V b) { return _mm512_mul_ps(a, b); }
XM_OPERATION V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
XM_OPERATION V max(V a, V b) { return _mm512_maskz_max_ps(kAll, a, b); }
XM_OPERATION V min(V a, V b) { return _mm512_maskz_min_ps(kAll, a, b); }
XM_OPERATION V where_less(V a, V limit, V instead) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, limit, _CMP_LT_OQ), instead, a); }
XM_OPERATION V shifted_to_exponent(V a) { return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_castps_si512(a), 23)); }
template <int Number>
XM_OPERATION __m256 half(V a) {
  return _mm512_maskz_extractf32x8_ps(0xff, a, Number);
}
XM_OPERATION float total(V a) {  // in the order of the plain C++
  const __m256 eight = _mm256_add_ps(half<0>(a), half<1>(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
XM_OPERATION float largest(V a) {
  const __m256 eight = _mm256_max_ps(half<0>(a), half<1>(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
XM_OPERATION uint64_t ge_bits(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
XM_OPERATION int bit_count(uint64_t bits) { return static_cast<int>(_mm_popcnt_u64(bits)); }
XM_OPERATION uint64_t first_bits(uint64_t bits, int count) { return _pdep_u64(count < 64 ? (1ull << count) - 1 : ~0ull, bits); }

// Dot products of Rows queries with sixteen keys. A key's bytes are its integers plus 128; `start` takes 128 × the query's sum off again.
template <int Rows>
XM_OPERATION void dot_bytes(const int32_t* q, const int32_t* start, const uint8_t* keys, int64_t words, V* sums) {
  __m512i products[Rows];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) products[row] = _mm512_set1_epi32(start[row]);
  for (int64_t word = 0; word < words; ++word) {
    const __m512i key = _mm512_loadu_si512(keys + 64 * word);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) products[row] = _mm512_dpbusd_epi32(products[row], key, _mm512_set1_epi32(q[row * words + word]));
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) sums[row] = _mm512_maskz_cvtepi32_ps(kAll, products[row]);
}
#undef XM_OPERATION

#include "mask_scores.h"
#include "mask_rows.h"
#include "mask_tiles.h"

}  // namespace

void make_masks_avx512(const MaskJob& job, int threads) { make_masks(job, threads); }

}  // namespace xmsim

#endif
