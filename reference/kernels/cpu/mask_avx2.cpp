// The mask kernels on AVX2: sixteen lanes are two registers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "isa.h"
#include "mask_job.h"
#include "team.h"

#if XM_X86

#define XM_SET XM_AVX2

namespace xmsim {
namespace {

constexpr int kDotRows = 4;  // rows whose sums are kept in registers together: eight of sixteen

struct V {
  __m256 low, high;
};

#define XM_OPERATION XM_AVX2 XM_INLINE
XM_OPERATION V set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
XM_OPERATION V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
XM_OPERATION V load_first(const float* p, int64_t n, float fill) {  // reads the lanes it is told to, no others
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), count = _mm256_set1_epi32(static_cast<int>(n));
  const __m256i low = _mm256_cmpgt_epi32(count, lane), high = _mm256_cmpgt_epi32(count, _mm256_add_epi32(lane, _mm256_set1_epi32(8)));
  const __m256 rest = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(rest, _mm256_maskload_ps(p, low), _mm256_castsi256_ps(low)),
          _mm256_blendv_ps(rest, _mm256_maskload_ps(p + 8, high), _mm256_castsi256_ps(high))};
}
XM_OPERATION void store(float* p, const V& a) { _mm256_storeu_ps(p, a.low), _mm256_storeu_ps(p + 8, a.high); }
XM_OPERATION V add(const V& a, const V& b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
XM_OPERATION V sub(const V& a, const V& b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
XM_OPERATION V mul(const V& a, const V& b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
XM_OPERATION V max(const V& a, const V& b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
XM_OPERATION V min(const V& a, const V& b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
XM_OPERATION V multiply_add(const V& a, const V& b, const V& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
XM_OPERATION V where_less(const V& a, const V& limit, const V& instead) {
  return {_mm256_blendv_ps(instead.low, a.low, _mm256_cmp_ps(a.low, limit.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(instead.high, a.high, _mm256_cmp_ps(a.high, limit.high, _CMP_LT_OQ))};
}
XM_OPERATION V shifted_to_exponent(const V& a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.low), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.high), 23))};
}
XM_OPERATION float total(const V& a) {  // in the order of the plain C++
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
XM_OPERATION float largest(const V& a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
XM_OPERATION uint64_t ge_bits(const V& a, const V& b) {
  const unsigned low = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ)));
  const unsigned high = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ)));
  return low | high << 8;
}
XM_OPERATION int bit_count(uint64_t bits) { return static_cast<int>(_mm_popcnt_u64(bits)); }
XM_OPERATION uint64_t first_bits(uint64_t bits, int count) { return _pdep_u64(count < 64 ? (1ull << count) - 1 : ~0ull, bits); }
#undef XM_OPERATION

#include "mask_scores.h"
#include "mask_rows.h"
#include "mask_tiles.h"

}  // namespace

void make_masks_avx2(const MaskJob& job, int threads) { make_masks(job, threads); }

}  // namespace xmsim

#endif
