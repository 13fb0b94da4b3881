// Dot products of sixteen keys at a time, and bf16 values two keys at a time: what the generic rows leave on the table with AVX-512.
#pragma once

namespace xmsim {
namespace {

XM_INLINE __m512 load_pairs(const Bf16* from) { return _mm512_loadu_ps(from); }  // bits only: 32 channels

XM_INLINE __m512 multiply_add(const Bf16* q, const Bf16* key, __m512 sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)load_pairs(q), (__m512bh)load_pairs(key));
}

XM_INLINE __m512 multiply_add(const float* q, const float* key, __m512 sum) {
  return _mm512_fmadd_ps(_mm512_loadu_ps(q), _mm512_loadu_ps(key), sum);
}

// [sum of a, sum of b, ...] of sixteen vectors, by adding halves that are interleaved: 30 shuffles instead of 16 x 4.
XM_INLINE __m512 sums_of(__m512* v) {
  for (int i = 0; i < 8; ++i) v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
    v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i)
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88), _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
}

// Steps: registers of channels, where the compiler may know how many; 0: as many as dim has.
template <int Steps, class T>
XM_INLINE void dot_products(const T* q, const T* keys, int64_t stride, const int32_t* list, int count, int dim, float* products) {
  constexpr int kChannels = 64 / sizeof(T);
  const int steps = Steps ? Steps : dim / kChannels;
  for (int i = 0; i < count; i += 16) {
    __m512 sums[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      const T* key = keys + list[i + j] * stride;
      __m512 sum = _mm512_setzero_ps();
      for (int c = 0; c < steps; ++c) sum = multiply_add(q + c * kChannels, key + c * kChannels, sum);
      sums[j] = sum;
    }
    _mm512_storeu_ps(products + i, sums_of(sums));
  }
}

template <class T>
XM_INLINE void dot_products(const T* q, const T* keys, int64_t stride, const int32_t* list, int count, int dim, float* products) {
  switch (dim * sizeof(T)) {
    case 128: return dot_products<2>(q, keys, stride, list, count, dim, products);
    case 256: return dot_products<4>(q, keys, stride, list, count, dim, products);
    case 512: return dot_products<8>(q, keys, stride, list, count, dim, products);
    default: return dot_products<0>(q, keys, stride, list, count, dim, products);
  }
}

// Steps registers of 32 bf16 channels: VDPBF16PS adds the products of two keys at once, whose values are interleaved for it.
template <int Steps>
XM_INLINE void add_weighted_pairs(const Bf16* values, int64_t stride, const int32_t* list, int count, const uint16_t* weights, __m512 old,
                                  float* into) {
  constexpr int kSets = Steps <= 2 ? 2 : 1;  // two sets of sums where one would wait for its own latency
  __m512 low[kSets][Steps], high[kSets][Steps];
  for (int s = 0; s < kSets; ++s)
    for (int c = 0; c < Steps; ++c) low[s][c] = high[s][c] = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 2 * kSets) {
#pragma GCC unroll 2
    for (int s = 0; s < kSets; ++s) {
      const Bf16 *a = values + list[i + 2 * s] * stride, *b = values + list[i + 2 * s + 1] * stride;
      uint32_t pair;
      std::memcpy(&pair, weights + i + 2 * s, sizeof pair);
      const __m512bh weight = (__m512bh)_mm512_set1_epi32(static_cast<int>(pair));
      for (int c = 0; c < Steps; ++c) {
        __m512i x = _mm512_loadu_si512(a + 32 * c), y = _mm512_loadu_si512(b + 32 * c);
        __asm__("" : "+v"(x), "+v"(y));  // loaded once: the compiler would read y again for the second half
        low[s][c] = _mm512_dpbf16_ps(low[s][c], weight, (__m512bh)_mm512_unpacklo_epi16(x, y));
        high[s][c] = _mm512_dpbf16_ps(high[s][c], weight, (__m512bh)_mm512_unpackhi_epi16(x, y));
      }
    }
  }
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);  // unpacking works inside 128 bits
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int c = 0; c < Steps; ++c) {
    if (kSets == 2) low[0][c] = _mm512_add_ps(low[0][c], low[kSets - 1][c]), high[0][c] = _mm512_add_ps(high[0][c], high[kSets - 1][c]);
    float* to = into + 32 * c;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), old, _mm512_permutex2var_ps(low[0][c], first, high[0][c])));
    _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(_mm512_loadu_ps(to + 16), old, _mm512_permutex2var_ps(low[0][c], second, high[0][c])));
  }
}

XM_INLINE void add_weighted_values(const Bf16* values, int64_t stride, const int32_t* list, int count, int dim, const float* weights,
                                   float old, float* into) {
  uint16_t pairs[kPieceKeys];
  for (int i = 0; i < count; i += 16) {  // the list is filled up, with weights of 0
    const __m256i halves = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(weights + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + i), halves);
  }
  const __m512 scale = _mm512_set1_ps(old);
  int c = 0;
  for (; dim - c >= 128; c += 128) add_weighted_pairs<4>(values + c, stride, list, count, pairs, scale, into + c);
  for (; dim - c >= 64; c += 64) add_weighted_pairs<2>(values + c, stride, list, count, pairs, scale, into + c);
  for (; dim - c >= 32; c += 32) add_weighted_pairs<1>(values + c, stride, list, count, pairs, scale, into + c);
}

}  // namespace
}  // namespace xmsim
