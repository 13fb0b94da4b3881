#include "linear_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "isa.h"
#include "linear_floats.h"
#include "team.h"

namespace xmsim {

namespace {

template <class Float>
XM_INLINE float quantize_row_inline(const Float* row, int64_t count, int8_t* integers) {
  // the bits of a positive float, read as an integer, order as the float does, and NaN comes last: a loop that vectorises and keeps NaN
  uint32_t largest_bits = 0;
  for (int64_t i = 0; i < count; ++i) largest_bits = std::max(largest_bits, as_bits(load_float(row[i])) & 0x7fffffff);
  const float largest = as_float(largest_bits);
  if (!std::isfinite(largest)) {
    std::fill(integers, integers + count, int8_t{0});
    return std::numeric_limits<float>::quiet_NaN();
  }
  // adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even
  constexpr float kRound = 12582912.0f;
  const float step = largest / 127, steps = step < std::numeric_limits<float>::min() ? 0 : 127 / largest;
  for (int64_t i = 0; i < count; ++i) integers[i] = static_cast<int8_t>(static_cast<int32_t>(load_float(row[i]) * steps + kRound - kRound));
  return step;
}

#if XM_X86
template <class Float>
XM_AVX2 float quantize_row_avx2(const Float* row, int64_t count, int8_t* integers) {
  return quantize_row_inline(row, count, integers);
}
#endif

}  // namespace

template <class Float>
float quantize_row(const Float* row, int64_t count, int8_t* integers) {
#if XM_X86
  if (isa() >= Isa::avx2) return quantize_row_avx2(row, count, integers);
#endif
  return quantize_row_inline(row, count, integers);
}

template float quantize_row(const float*, int64_t, int8_t*);
template float quantize_row(const uint16_t*, int64_t, int8_t*);
template float quantize_row(const Half*, int64_t, int8_t*);

namespace {

// Row `token` of x as elements of E, padded with zeros up to k_words words; the step of int8.
template <class E>
float take_row(const LinearCall& call, int64_t token, uint32_t* words, int64_t k_words, int raised) {
  const int64_t count = call.weights.in_features;
  std::fill(words + count * E::kInputWords / E::kPerWord, words + k_words, 0u);
  if constexpr (std::is_same_v<E, Int8>) {
    auto* integers = reinterpret_cast<int8_t*>(words);
    const float step = with_float(call.x_element, [&](auto x) {
      return quantize_row(static_cast<const decltype(x)*>(call.x) + token * count, count, integers);
    });
    if (raised)
      for (int64_t i = 0; i < count; ++i) integers[i] = static_cast<int8_t>(integers[i] ^ raised);  // + 128 as unsigned
    return step;
  } else if constexpr (std::is_same_v<E, Float16>) {
    (void)raised;
    const auto* const row = static_cast<const uint16_t*>(call.x) + token * count;
    for (int64_t i = 0; i < count; ++i) words[i] = as_bits(half_value(row[i]));
    return 1;
  } else {
    (void)raised;
    std::memcpy(words, static_cast<const typename E::Bits*>(call.x) + token * count, count * sizeof(typename E::Bits));
    return 1;
  }
}

template <class T>
std::unique_ptr<T[], Free> make_lines(int64_t count) {
  return std::unique_ptr<T[], Free>(static_cast<T*>(std::aligned_alloc(64, ceil_div(count * sizeof(T), 64) * 64)));
}

}  // namespace

template <class E>
bool pack_tokens(const LinearCall& call, int group, int raised, Tokens& tokens) {
  const int64_t k_words = call.weights.k_tiles<E>() * kTileRows * E::kInputWords, groups = ceil_div(call.tokens, group);
  tokens.k_words = k_words, tokens.groups = groups, tokens.group = group;
  tokens.words = make_lines<uint32_t>(groups * k_words * group);
  tokens.scales = make_lines<float>(groups * group);
  // a row is taken apart in a place of its own, one for each group, as groups are packed by different threads
  const auto rows = make_lines<uint32_t>(group == 1 ? 1 : groups * k_words);
  if (!tokens.words || !tokens.scales || !rows) return false;
  for_parts(groups, call.threads, [&](int64_t part) {
    uint32_t* const packed = tokens.words.get() + part * k_words * group;
    for (int member = 0; member < group; ++member) {
      const int64_t token = part * group + member;
      uint32_t* const row = group == 1 ? packed : rows.get() + part * k_words;
      if (token < call.tokens)
        tokens.scales[token] = take_row<E>(call, token, row, k_words, raised);
      else
        std::fill(row, row + k_words, 0u);
      if (group > 1)
        for (int64_t k = 0; k < k_words; ++k) packed[k * group + member] = row[k];
    }
  });
  return true;
}

template bool pack_tokens<Float32>(const LinearCall&, int, int, Tokens&);
template bool pack_tokens<Bfloat16>(const LinearCall&, int, int, Tokens&);
template bool pack_tokens<Float16>(const LinearCall&, int, int, Tokens&);
template bool pack_tokens<Int8>(const LinearCall&, int, int, Tokens&);

}  // namespace xmsim

// Each row of x [rows, count] to int8 with a step of its own, which goes to steps [rows].
XM_API void xm_quantize_rows(const void* x, int x_element, int64_t rows, int64_t count, int8_t* integers, float* steps, int threads) {
  using namespace xmsim;
  for_parts(rows, threads, [&](int64_t row) {
    steps[row] = with_float(static_cast<Element>(x_element), [&](auto kind) {
      return quantize_row(static_cast<const decltype(kind)*>(x) + row * count, count, integers + row * count);
    });
  });
}
