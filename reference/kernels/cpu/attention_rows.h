// One query row against a list of keys: scores, softmax weights, weighted values. Included after attention_lanes.h.
#pragma once

#if XM_LANES == 16
#include "attention_rows_avx512.h"
#endif

namespace xmsim {
namespace {

// What has come together of one row is [dim + 2] floats: weighted values, the top score, and the total of the weights. The weights are
// relative to e^top, so that none overflows.
XM_INLINE void clear_row(float* row, int dim) {
  std::memset(row, 0, dim * sizeof(float));
  row[dim] = -INFINITY, row[dim + 1] = 0;
}

// Of NaN or +infinity no softmax can be made.
XM_INLINE bool has_softmax(Floats scores) {
#if XM_LANES == 16
  return !_mm512_cmp_ps_mask((__m512)scores, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
#elif XM_LANES == 8
  return !_mm256_movemask_ps(_mm256_cmp_ps((__m256)scores, _mm256_set1_ps(INFINITY), _CMP_NLT_UQ));
#else
  bool all = true;
  for (int lane = 0; lane < kLanes; ++lane) all &= scores[lane] < INFINITY;
  return all;
#endif
}

constexpr int kListStep = 16;  // lists are filled up to a multiple of it by repeating a key, whose score then counts as -infinity

// Weights as the sum of values will use them, so that their total is that of what is summed.
template <class T>
XM_INLINE Floats rounded_weights(Floats weights) {
#if XM_LANES == 16
  if (sizeof(T) == sizeof(Bf16))
    return (Floats)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)weights)), 16));
#endif
  return weights;
}

#if XM_LANES != 16
template <class T>
XM_INLINE void dot_products(const T* q, const T* keys, int64_t stride, const int32_t* list, int count, int dim, float* products) {
  for (int i = 0; i < count; ++i) {
    const T* key = keys + list[i] * stride;
    Floats even{}, odd{};
    for (int c = 0; c < dim; c += 2 * kLanes) {
      even = fma(load(q + c), load(key + c), even);
      odd = fma(load(q + c + kLanes), load(key + c + kLanes), odd);
    }
    products[i] = sum(even + odd);
  }
}
#endif

template <int Vectors, class T>
XM_INLINE void add_weighted(const T* values, int64_t stride, const int32_t* list, int count, const float* weights, Floats old,
                            float* into) {
  Floats sums[Vectors] = {};
  for (int i = 0; i < count; ++i) {
    const T* value = values + list[i] * stride;
    for (int j = 0; j < Vectors; ++j) sums[j] = fma(splat(weights[i]), load(value + j * kLanes), sums[j]);
  }
  // joins the row's sum only here: one sum over a whole long row would lose digits
  for (int j = 0; j < Vectors; ++j) store(into + j * kLanes, fma(load(into + j * kLanes), old, sums[j]));
}

template <class T>
XM_INLINE void add_weighted_values(const T* values, int64_t stride, const int32_t* list, int count, int dim, const float* weights,
                                   float old, float* into) {
  for (int c = 0; c < dim;) {
    const int vectors = (dim - c) / kLanes;
    if (vectors >= 8) {
      add_weighted<8>(values + c, stride, list, count, weights, splat(old), into + c), c += 8 * kLanes;
    } else if (vectors >= 4) {
      add_weighted<4>(values + c, stride, list, count, weights, splat(old), into + c), c += 4 * kLanes;
    } else {
      add_weighted<2>(values + c, stride, list, count, weights, splat(old), into + c), c += 2 * kLanes;
    }
  }
}

// Adds the kept keys list[0 .. count), rows of keys and values, to a row. The list is filled up to a multiple of kListStep, and `scores`
// has room for that.
template <class T>
XM_INLINE void attend(float* row, const T* q, const T* keys, int64_t key_stride, const T* values, int64_t value_stride, const int32_t* list,
                      int count, int dim, float scale, float slope, int64_t first_key, float* scores) {
  const int filled = (count + kListStep - 1) / kListStep * kListStep;
  dot_products(q, keys, key_stride, list, filled, dim, scores);
  Floats tops = splat(-INFINITY);
  bool defined = true;
  for (int i = 0; i < filled; i += kLanes) {
    Floats score = load(scores + i) * splat(scale);
    if (slope != 0) {
      Ints position;
      std::memcpy(&position, list + i, sizeof position);
      score += splat(slope) * __builtin_convertvector(position + static_cast<int32_t>(first_key), Floats);
    }
    store(scores + i, score);
    defined &= has_softmax(score);
  }
  if (!defined) {  // the row ends as NaN, whatever else comes to it
    row[dim] = INFINITY, row[dim + 1] = NAN;
    return;
  }
  for (int i = count; i < filled; ++i) scores[i] = -INFINITY;
  for (int i = 0; i < filled; i += kLanes) tops = larger(tops, load(scores + i));
  const float before = row[dim], here = largest(tops), top = here > before ? here : before;
  if (top == -INFINITY) return;
  const float old = exponential(before - top);
  Floats totals{};
  for (int i = 0; i < filled; i += kLanes) {
    const Floats weight = rounded_weights<T>(exponential(load(scores + i) - splat(top)));
    store(scores + i, weight);
    totals += weight;
  }
  row[dim] = top, row[dim + 1] = row[dim + 1] * old + sum(totals);
  add_weighted_values(values, value_stride, list, count, dim, scores, old, row);
}

}  // namespace
}  // namespace xmsim
