// SpInfer's TCA-BME for a few tokens. A register expanded from a bitmap holds 8 inputs of some outputs, and meets the same 8 inputs of a
// token: nothing is turned on the way, and 64 outputs are one stream of values, read from its first byte to its last.
#include "linear_stripes.h"

#include <algorithm>
#include <type_traits>

#include "linear_avx512.h"
#include "linear_finish.h"
#include "linear_tokens.h"
#include "team.h"

#if XM_X86

namespace xmsim {
namespace {

// Sums that an output has side by side: of bfloat16, which is multiplied in pairs, 4 for 8 inputs. So many registers are 16 outputs.
template <class E>
constexpr int kSums = kPair / (E::kPerWord / E::kInputWords);

// 8 inputs of a token, for every output of a register.
template <class E>
XM_AVX512 XM_INLINE __m512i eight_inputs(const uint32_t* words) {
  if constexpr (kSums<E> == 4) return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
  if constexpr (kSums<E> == 8) return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
}

template <class E, int kTokens>
XM_AVX512 XM_INLINE void add_row(__m512i row, const __m512i (&x)[kTokens], __m512 (&sums)[kTokens][kSums<E>], int at) {
#pragma GCC unroll 3
  for (int token = 0; token < kTokens; ++token) {
    __m512* const sum = sums[token];
    if constexpr (std::is_same_v<E, Float32>) {
      sum[at] = _mm512_fmadd_ps((__m512)row, (__m512)x[token], sum[at]);
    } else if constexpr (std::is_same_v<E, Bfloat16>) {
      sum[at] = _mm512_dpbf16_ps(sum[at], (__m512bh)row, (__m512bh)x[token]);
    } else {
      sum[2 * at] = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(row)), (__m512)x[token], sum[2 * at]);
      sum[2 * at + 1] = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(row, 1)), (__m512)x[token], sum[2 * at + 1]);
    }
  }
}

// Each output's sums to one: 16 outputs.
template <class E>
XM_AVX512 XM_INLINE void add_neighbours(const float* sums, float* outputs) {
  constexpr int kOutputs = kRowWords / kSums<E>;
#pragma GCC unroll 8
  for (int i = 0; i < kSums<E>; ++i) {
    __m512 sum = _mm512_load_ps(sums + i * kRowWords);
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xb1));
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4e));
    if constexpr (kSums<E> == 8) sum = _mm512_add_ps(sum, _mm512_shuffle_f32x4(sum, sum, 0xb1));
    constexpr __mmask16 kFirsts = kSums<E> == 8 ? 0x0101 : 0x1111;
    _mm512_mask_storeu_ps(outputs + i * kOutputs, (1 << kOutputs) - 1, _mm512_maskz_compress_ps(kFirsts, sum));
  }
}

// The outputs of one row of GroupTiles.
template <class E, int kTokens>
XM_AVX512 void group_row(const LinearCall& call, int64_t row, const Tokens& tokens) {
  constexpr int kRows = kGroup * 2 / kRowElements<E>, kRowsPerMap = kRows / 2, kEightWords = kPair * E::kInputWords / E::kPerWord;
  const PackedWeights& weights = call.weights;
  const int64_t groups = ceil_div(weights.in_features, kGroup);
  const auto* bitmaps = static_cast<const uint64_t*>(weights.bitmap) + row * groups * kGroup;
  const auto* const group_offsets = static_cast<const int32_t*>(weights.offsets) + row * groups;
  const auto* const stripe_offsets = static_cast<const int32_t*>(weights.inner_offsets) + row * groups * kStripes;
  alignas(64) float totals[kStripes][kTokens][kSums<E>][kRowWords] = {};
  for (int64_t group = 0; group < groups; ++group, bitmaps += kGroup) {
    const int pairs = static_cast<int>(ceil_div(std::min<int64_t>(kGroup, weights.in_features - group * kGroup), kPair));
    for (int stripe = 0; stripe < kStripes; ++stripe) {
      const uint64_t* maps = bitmaps + stripe * kStripeRows;
      const auto* value = static_cast<const typename E::Bits*>(weights.values) + group_offsets[group] + stripe_offsets[group * kStripes + stripe];
      __m512 sums[kTokens][kSums<E>];  // of this stripe alone: long chains of float32 additions lose digits
#pragma GCC unroll 3
      for (int token = 0; token < kTokens; ++token)
#pragma GCC unroll 8
        for (int i = 0; i < kSums<E>; ++i) sums[token][i] = _mm512_setzero_ps();
      int64_t word = group * (kGroup / kPair) * kEightWords;
#pragma GCC unroll 1
      for (int pair = 0; pair < pairs; ++pair, maps += 2, word += kEightWords) {
        __m512i x[kTokens];
#pragma GCC unroll 3
        for (int token = 0; token < kTokens; ++token) x[token] = eight_inputs<E>(tokens.of_group(token) + word);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          _mm_prefetch(reinterpret_cast<const char*>(value) + kAheadBytes, _MM_HINT_T0);
          const auto mask = static_cast<typename E::Mask>(maps[i / kRowsPerMap] >> i % kRowsPerMap * kRowElements<E>);
          add_row<E, kTokens>(expand_row<E>(value, mask), x, sums, i);
          value += _mm_popcnt_u64(mask);
        }
      }
#pragma GCC unroll 3
      for (int token = 0; token < kTokens; ++token)
#pragma GCC unroll 8
        for (int i = 0; i < kSums<E>; ++i) {
          float* const total = totals[stripe][token][i];
          _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), sums[token][i]));
        }
    }
  }
  float outputs[2][kTokens][kBlockColumns];
  for (int stripe = 0; stripe < kStripes; ++stripe)
    for (int token = 0; token < kTokens; ++token)
      add_neighbours<E>(totals[stripe][token][0], outputs[stripe / 2][token] + stripe % 2 * kStripeRows);
  for (int64_t block = 2 * row; block < std::min(2 * row + 2, weights.blocks()); ++block)
    finish(call, block, 0, kTokens, outputs[block % 2][0], nullptr, 0);
}

}  // namespace

template <class E>
bool linear_stripes_avx512(const LinearCall& call) {
  Tokens tokens;
  if (!pack_tokens<E>(call, 1, 0, tokens)) return false;
  const auto row_kernel = call.tokens == 1 ? group_row<E, 1> : call.tokens == 2 ? group_row<E, 2> : group_row<E, 3>;
  for_parts(ceil_div(call.weights.out_features, kGroup), call.threads, [&](int64_t row) { row_kernel(call, row, tokens); });
  return true;
}

template bool linear_stripes_avx512<Float32>(const LinearCall&);
template bool linear_stripes_avx512<Bfloat16>(const LinearCall&);
template bool linear_stripes_avx512<Float16>(const LinearCall&);

}  // namespace xmsim

#endif
