// A sparse matrix times sparse vectors (SPDP's spMspV), from the bitmap by columns: columns whose input is small are not read.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>

#include "linear_avx512.h"
#include "linear_cursors.h"
#include "linear_floats.h"
#include "team.h"

namespace xmsim {
namespace {

struct ColumnCall {
  PackedWeights weights;  // Form::column_bitmap
  const void* x;          // [vectors, in]
  Element x_element;      // also that of bias and y
  int64_t vectors;
  float threshold;  // inputs of a magnitude at or below it count as zero; a NaN does not
  const void* bias;
  void* y;  // [vectors, out]
  int threads;
};

// An input that takes part.
struct Active {
  int32_t column;
  float value;
};

// The columns of each vector that take part, in order; returns how many.
int64_t find_active(const ColumnCall& call, int64_t vector, Active* active) {
  const int64_t columns = call.weights.in_features;
  return with_float(call.x_element, [&](auto kind) {
    const auto* const x = static_cast<const decltype(kind)*>(call.x) + vector * columns;
    int64_t count = 0;
    for (int64_t column = 0; column < columns; ++column) {  // without a branch: which inputs are small cannot be foreseen
      const float value = load_float(x[column]);
      active[count] = {static_cast<int32_t>(column), value};
      count += !(std::fabs(value) <= call.threshold);
    }
    return count;
  });
}

// What one row of GroupTiles has of a column.
template <class E>
struct Columns {
  const uint64_t* bitmap;
  const typename E::Bits* values;
  const int32_t* group_offsets;
  const uint16_t* column_offsets;

  Columns(const PackedWeights& weights, int64_t group_row) {
    const int64_t first_group = group_row * ceil_div(weights.in_features, kGroup);
    bitmap = static_cast<const uint64_t*>(weights.bitmap) + first_group * kGroup;
    values = static_cast<const typename E::Bits*>(weights.values);
    group_offsets = static_cast<const int32_t*>(weights.offsets) + first_group;
    column_offsets = static_cast<const uint16_t*>(weights.inner_offsets) + first_group * kGroup;
  }
  const typename E::Bits* first_value(int64_t column) const { return values + group_offsets[column / kGroup] + column_offsets[column]; }
};

inline float element_value(Float32, uint32_t bits) { return as_float(bits); }
inline float element_value(Bfloat16, uint16_t bits) { return load_float(bits); }
inline float element_value(Float16, uint16_t bits) { return half_value(bits); }

// sums [64] of one row of GroupTiles, those of each GroupTile added up first: long chains of float32 additions lose digits.
template <class E>
void multiply_portable(const Columns<E>& columns, const Active* active, int64_t count, float* sums) {
  std::fill(sums, sums + kGroup, 0.0f);
  for (int64_t i = 0; i < count;) {
    float partial[kGroup] = {};
    for (const int32_t group = active[i].column / kGroup; i < count && active[i].column / kGroup == group; ++i) {
      const typename E::Bits* value = columns.first_value(active[i].column);
      for (uint64_t mask = columns.bitmap[active[i].column]; mask; mask &= mask - 1)
        partial[__builtin_ctzll(mask)] += element_value(E{}, *value++) * active[i].value;
    }
    for (int row = 0; row < kGroup; ++row) sums[row] += partial[row];
  }
}

#if XM_X86
// Sums of 64 rows in four registers, in an order that widening likes.
struct Sums {
  __m512 of[4];
};

template <class E>
XM_AVX512 XM_INLINE void add_column(Sums& sums, const typename E::Bits* value, uint64_t mask, __m512 x) {
  if constexpr (E::kPerWord == 1) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const auto part = static_cast<typename E::Mask>(mask >> 16 * i);
      sums.of[i] = _mm512_fmadd_ps((__m512)expand_row<E>(value, part), x, sums.of[i]);
      value += _mm_popcnt_u32(part);
    }
  } else {
    const __m512i low = expand_row<E>(value, static_cast<uint32_t>(mask));
    const __m512i high = expand_row<E>(value + _mm_popcnt_u32(static_cast<uint32_t>(mask)), static_cast<uint32_t>(mask >> 32));
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i rows = half ? high : low;
      __m512 first, second;
      if constexpr (std::is_same_v<E, Bfloat16>) {  // into the upper half of each word
        first = (__m512)_mm512_unpacklo_epi16(_mm512_setzero_si512(), rows);
        second = (__m512)_mm512_unpackhi_epi16(_mm512_setzero_si512(), rows);
      } else {
        first = _mm512_cvtph_ps(_mm512_castsi512_si256(rows));
        second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(rows, 1));
      }
      sums.of[2 * half] = _mm512_fmadd_ps(first, x, sums.of[2 * half]);
      sums.of[2 * half + 1] = _mm512_fmadd_ps(second, x, sums.of[2 * half + 1]);
    }
  }
}

// Columns that take part are far apart, and no processor foresees them: their values are asked for so many columns ahead.
constexpr int64_t kAheadColumns = 24;

template <class E>
XM_AVX512 void multiply_avx512(const Columns<E>& columns, const Active* active, int64_t count, float* sums) {
  Sums total;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) total.of[i] = _mm512_setzero_ps();
  for (int64_t i = 0; i < count;) {
    Sums partial;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) partial.of[j] = _mm512_setzero_ps();
    const int32_t group = active[i].column / kGroup;
    const typename E::Bits* const values = columns.values + columns.group_offsets[group];
    for (; i < count && active[i].column / kGroup == group; ++i) {
      const auto* const ahead = reinterpret_cast<const char*>(columns.first_value(active[std::min(i + kAheadColumns, count - 1)].column));
      _mm_prefetch(ahead, _MM_HINT_T0);
      _mm_prefetch(ahead + 64, _MM_HINT_T0);
      const int32_t column = active[i].column;
      add_column<E>(partial, values + columns.column_offsets[column], columns.bitmap[column], _mm512_set1_ps(active[i].value));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) total.of[j] = _mm512_add_ps(total.of[j], partial.of[j]);
  }
  if constexpr (std::is_same_v<E, Bfloat16>) {
    // unpacking took fours of rows out of each eight
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
      const __m512 first = total.of[i], second = total.of[i + 1];
      total.of[i] = _mm512_permutex2var_ps(first, low, second), total.of[i + 1] = _mm512_permutex2var_ps(first, high, second);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) _mm512_storeu_ps(sums + 16 * i, total.of[i]);
}
#endif

template <class Float>
void write_rows(const ColumnCall& call, int64_t vector, int64_t group_row, const float* sums) {
  const int64_t first = group_row * kGroup, rows = std::min<int64_t>(kGroup, call.weights.out_features - first);
  const auto* const bias = static_cast<const Float*>(call.bias);
  Float* const y = static_cast<Float*>(call.y) + vector * call.weights.out_features + first;
  for (int64_t row = 0; row < rows; ++row) store_float(bias ? sums[row] + load_float(bias[first + row]) : sums[row], y + row);
}

template <class E>
bool multiply(const ColumnCall& call) {
  if constexpr (std::is_same_v<E, Int8>) {
    return true;  // there is no such format
  } else {
    auto kernel = multiply_portable<E>;
#if XM_X86
    if (isa() >= Isa::avx512) kernel = multiply_avx512<E>;
#endif
    const int64_t columns = call.weights.in_features;
    const std::unique_ptr<Active[]> active(new (std::nothrow) Active[call.vectors * columns]);
    const std::unique_ptr<int64_t[]> counts(new (std::nothrow) int64_t[call.vectors]);
    if (!active || !counts) return false;
    for (int64_t vector = 0; vector < call.vectors; ++vector) counts[vector] = find_active(call, vector, active.get() + vector * columns);
    for_parts(ceil_div(call.weights.out_features, kGroup), call.threads, [&](int64_t group_row) {
      const Columns<E> stored(call.weights, group_row);
      float sums[kGroup];
      for (int64_t vector = 0; vector < call.vectors; ++vector) {
        kernel(stored, active.get() + vector * columns, counts[vector], sums);
        with_float(call.x_element, [&](auto x) { write_rows<decltype(x)>(call, vector, group_row, sums); });
      }
    });
    return true;
  }
}

}  // namespace
}  // namespace xmsim

// y [vectors, out] = the weights times those inputs of x [vectors, in] whose magnitude is above the threshold, + bias; x, bias and y are of
// x_element, whatever the weights are. 0 if there was no memory. formats/column_bitmap.py has the layout.
XM_API int xm_sparse_vectors(int element, const void* bitmap, const void* values, const void* group_offsets, const void* column_offsets,
                             int64_t out_features, int64_t in_features, const void* x, int x_element, int64_t vectors, float threshold,
                             const void* bias, void* y, int threads) {
  using namespace xmsim;
  const PackedWeights weights{out_features, in_features, Form::column_bitmap, bitmap, values, group_offsets, column_offsets, nullptr, nullptr};
  const ColumnCall call{weights, x, static_cast<Element>(x_element), vectors, threshold, bias, y, threads};
  return with_element(static_cast<Element>(element), [&](auto e) { return multiply<decltype(e)>(call); });
}
