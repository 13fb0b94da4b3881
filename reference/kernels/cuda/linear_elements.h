// Numbers of 16 bits, as weights and inputs of linear layers are stored.
#pragma once

#include "simt.h"

namespace xmsim {

struct Bf16 {
  static constexpr bool kHalf = false;
};

struct Half {
  static constexpr bool kHalf = true;
};

template <class Element>
XM_DEVICE float value_of(uint16_t bits) {
  if constexpr (Element::kHalf) return half_value(bits);
  return bf16_low(bits);
}

template <class Element>
XM_DEVICE float low_of(uint32_t pair) {
  return value_of<Element>(static_cast<uint16_t>(pair));
}

template <class Element>
XM_DEVICE float high_of(uint32_t pair) {
  if constexpr (Element::kHalf) return half_value(static_cast<uint16_t>(pair >> 16));
  return bf16_high(pair);
}

template <class Element>
XM_DEVICE uint16_t bits_of(float value) {
  if constexpr (Element::kHalf) return half_bits(value);
  return static_cast<uint16_t>(bf16_pair(value, 0.0f));
}

template <class Element>
XM_DEVICE void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (Element::kHalf) {
    mma_half(sums, a, b);
  } else {
    mma_bf16(sums, a, b);
  }
}

// Adds factor × the eight numbers of 16 bytes.
template <class Element>
XM_DEVICE void add_eight(float (&sums)[8], const uint4& words, float factor) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  XM_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    sums[2 * i] = fused(low_of<Element>(pairs[i]), factor, sums[2 * i]);
    sums[2 * i + 1] = fused(high_of<Element>(pairs[i]), factor, sums[2 * i + 1]);
  }
}

// One result: the sum and the bias, rounded once.
template <class Element>
XM_DEVICE void put(uint16_t* y, const uint16_t* bias, int token, int outputs, int row, float sum) {
  y[static_cast<int64_t>(token) * outputs + row] = bits_of<Element>(bias ? sum + value_of<Element>(bias[row]) : sum);
}

// Half of a bitmap of 64 bits with the place of its first number: what a lane needs to find the two that its bits stand for.
struct HalfWord {
  uint32_t bits;
  int32_t first;
};

// Where the bits of a lane's two numbers are in a half word, of 16 lanes: the first, the second so much above it, and those of lanes before.
struct PairOfBits {
  int shift, apart;
  uint32_t before;
};

// One beside the other.
XM_DEVICE PairOfBits neighbours_of_lane() {
  const int shift = 2 * (lane() % 16);
  return {shift, 1, (1u << shift) - 1};
}

// Eight apart, for eight lanes in each 16 bits, so that one product makes what chooses bytes of both.
XM_DEVICE PairOfBits bits_of_lane() {
  const uint32_t before = ((1u << lane() % 8) - 1) * 0x0101;
  return lane() % 16 < 8 ? PairOfBits{lane() % 8, 8, before} : PairOfBits{16 + lane() % 8, 8, before << 16 | 0xffff};
}

// The two numbers of a lane, as 16 bits each; zero where a bit is not set.
struct Pair {
  uint16_t low, high;
};

XM_DEVICE Pair two_numbers(const HalfWord& half, const PairOfBits& bits, const uint16_t* values) {
  const uint32_t first = half.bits >> bits.shift & 1, second = half.bits >> bits.shift >> bits.apart & 1;
  const uint32_t place = half.first + popcount(half.bits & bits.before);
  return {first ? values[place] : uint16_t{0}, second ? values[place + first] : uint16_t{0}};
}

// Both halves of a word whose numbers start at `first`.
XM_DEVICE void split_word(uint64_t word, int first, HalfWord (&halves)[2]) {
  const uint32_t low = static_cast<uint32_t>(word);
  halves[0] = {low, first};
  halves[1] = {static_cast<uint32_t>(word >> 32), first + popcount(low)};
}

}  // namespace xmsim
