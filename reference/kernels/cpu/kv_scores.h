// Predicted scores: few-bit queries times a few-bit copy of the keys, exact in integers, with the sums that X:M pruning asks for.
// Included after attention_lanes.h.
//
// The copy of one KV head is cut into blocks of 64 keys. In a block, 4 channels of all 64 keys are 256 bytes, key after key, as
// VPDPBUSD multiplies them; codes are unsigned, integer + 2^(bits - 1). Of 4-bit codes a byte holds two, channel c below and c + 4 above.
#pragma once

namespace xmsim {
namespace {

constexpr int kStepBytes = 256;

// Integer products of `Queries` rows of q, after each other, with 64 keys: [Queries, 64]. Codes are too large by the same number
// everywhere, and so are products by `offsets`, one for each row.
#if XM_LANES == 16
XM_INLINE __m512i four_channels(const int8_t* q) {
  float bits;  // as a float, whose broadcast takes no detour over a general register
  std::memcpy(&bits, q, sizeof bits);
  return _mm512_castps_si512(_mm512_set1_ps(bits));
}

template <int Queries, int CodeBits>
XM_INLINE void multiply_codes(const uint8_t* codes, const int8_t* q, const int32_t* offsets, int64_t dim, int32_t* products) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i sums[Queries][4];
  for (int i = 0; i < Queries; ++i)
    for (auto& sum : sums[i]) sum = _mm512_set1_epi32(-offsets[i]);
  for (int64_t c = 0; c < dim; c += 32 / CodeBits, codes += kStepBytes) {
    __m512i channels[Queries][2];
    for (int i = 0; i < Queries; ++i) {
      channels[i][0] = four_channels(q + i * dim + c);
      if (CodeBits == 4) channels[i][1] = four_channels(q + i * dim + c + 4);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i keys = _mm512_loadu_si512(codes + 64 * j);
      const __m512i low = CodeBits == 4 ? _mm512_and_si512(keys, nibble) : keys;
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(keys, 4), nibble);
      for (int i = 0; i < Queries; ++i) {
        sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], low, channels[i][0]);
        if (CodeBits == 4) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], high, channels[i][1]);
      }
    }
  }
  for (int i = 0; i < Queries; ++i)
    for (int j = 0; j < 4; ++j) _mm512_storeu_si512(products + kWordKeys * i + 16 * j, sums[i][j]);
}
#else
template <int Queries, int CodeBits>
XM_INLINE void multiply_codes(const uint8_t* codes, const int8_t* q, const int32_t* offsets, int64_t dim, int32_t* products) {
  for (int i = 0; i < Queries; ++i, q += dim, products += kWordKeys) {
    const uint8_t* step = codes;
    for (int key = 0; key < kWordKeys; ++key) products[key] = -offsets[i];
    for (int64_t c = 0; c < dim; c += 32 / CodeBits, step += kStepBytes)
      for (int key = 0; key < kWordKeys; ++key)
        for (int j = 0; j < 4; ++j) {
          const int code = step[4 * key + j];
          products[key] += CodeBits == 4 ? (code & 15) * q[c + j] + (code >> 4) * q[c + 4 + j] : code * q[c + j];
        }
  }
}
#endif

template <int CodeBits>
XM_INLINE void multiply_rows(const uint8_t* codes, const int8_t* q, const int32_t* offsets, int64_t rows, int64_t dim, int32_t* products) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) multiply_codes<4, CodeBits>(codes, q + row * dim, offsets + row, dim, products + row * kWordKeys);
  for (; row < rows; ++row) multiply_codes<1, CodeBits>(codes, q + row * dim, offsets + row, dim, products + row * kWordKeys);
}

void predict_block(const PredictionCall& call, int64_t kv_head, int64_t block) {
  const int64_t sharing = call.sharing(), blocks = call.blocks(), first_key = block * kWordKeys;
  const uint8_t* codes = call.codes + kv_head * call.head_codes + block * kWordKeys * call.dim * call.code_bits / 8;
  const int64_t rows = sharing * call.queries;
  int32_t* products = static_cast<int32_t*>(thread_scratch(rows * kWordKeys * sizeof(int32_t)));
  const int8_t* q = call.q + kv_head * rows * call.dim;
  const int32_t* offsets = call.offsets + kv_head * rows;
  if (call.code_bits == 4) {
    multiply_rows<4>(codes, q, offsets, rows, call.dim, products);
  } else {
    multiply_rows<8>(codes, q, offsets, rows, call.dim, products);
  }
  for (int64_t i = 0; i < rows; ++i, products += kWordKeys) {
    const int64_t row = kv_head * sharing * call.queries + i, head = row / call.queries;
    const int64_t seen = call.position(row % call.queries) + 1 - first_key;
    float* scores = call.scores + row * blocks * kWordKeys + first_key;
    Floats top = splat(-INFINITY);
    for (int key = 0; key < kWordKeys; key += kLanes) {
      Ints product;
      std::memcpy(&product, products + key, sizeof product);
      // a product, then a sum, each rounded to float32: the reference's order
      Floats score = __builtin_convertvector(product, Floats) * splat(call.factors[head]);
      if (call.slopes || seen < key + kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
          if (call.slopes) score[lane] += call.slopes[head] * static_cast<float>(first_key + key + lane);
          if (key + lane >= seen) score[lane] = -INFINITY;
        }
      }
      store(scores + key, score);
      top = larger(top, score);
    }
    const float block_top = largest(top);
    const float shift = block_top > -INFINITY ? block_top : 0;  // of a block that the query does not see every weight is 0
    Floats total{};
    for (int key = 0; key < kWordKeys; key += kLanes) {
      const Floats weight = exponential(load(scores + key) - splat(shift));
      if (call.exponentials) store(call.exponentials + row * blocks * kWordKeys + first_key + key, weight);
      total += weight;
    }
    call.tops[row * blocks + block] = block_top;
    call.sums[row * blocks + block] = sum(total);
  }
}

}  // namespace
}  // namespace xmsim
