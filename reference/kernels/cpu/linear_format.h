// Packed weights: the one order that every linear kernel reads, and the description of a call.
//
// A matrix [out, in] is cut into tiles of 16 outputs; a tile is 16 rows of 64 bytes, a row holds one 32-bit word of each output: one float,
// two bfloat16 or four int8 that follow each other along `in`. That is the second operand of AMX, and the lanes of an AVX-512 register.
// Tiles lie in the order [out / 32][in / tile][2]: a block of 32 outputs is read from its first byte to its last. Edges are filled with
// zeros.
#pragma once

#include <cstdint>

namespace xmsim {

constexpr int kTileRows = 16, kTileColumns = 16, kRowWords = 16;
constexpr int kTileWords = kTileRows * kRowWords;
constexpr int kBlockColumns = 2 * kTileColumns;

enum class Element : int { float32 = 0, bfloat16 = 1, int8 = 2 };

struct Float32 {
  using Bits = uint32_t;
  using Mask = uint16_t;  // one bit for each element of a row
  using Sum = float;
  static constexpr int kPerWord = 1;
};
struct Bfloat16 {
  using Bits = uint16_t;
  using Mask = uint32_t;
  using Sum = float;
  static constexpr int kPerWord = 2;
};
struct Int8 {
  using Bits = uint8_t;
  using Mask = uint64_t;
  using Sum = int32_t;
  static constexpr int kPerWord = 4;
};

template <class E>
constexpr int kRowElements = kRowWords * E::kPerWord;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct PackedWeights {
  int64_t out_features, in_features;
  const void* bitmap;            // Mask [rows of all tiles]; null: every element is stored
  const void* values;            // the elements whose bit is set; without a bitmap all of them
  const int64_t* offsets;        // [blocks]: index of a block's first value
  const float* scales;           // int8 only, [out]: what one step is worth
  const int32_t* column_sums;    // int8 only, [out]: sum of the integers of an output

  int64_t blocks() const { return ceil_div(out_features, kBlockColumns); }
  template <class E>
  int64_t k_tiles() const {
    return ceil_div(in_features, kTileRows * E::kPerWord);
  }
};

struct LinearCall {
  PackedWeights weights;
  const void* x;         // [tokens, in], float32 or bfloat16
  Element x_element;     // also that of bias and y
  int64_t tokens;
  const void* bias;      // [out] or null
  void* y;               // [tokens, out]
  int threads;
};

// Calls f with the type that stands for an element.
template <class F>
auto with_element(Element element, const F& f) {
  switch (element) {
    case Element::float32: return f(Float32{});
    case Element::bfloat16: return f(Bfloat16{});
    default: return f(Int8{});
  }
}

}  // namespace xmsim
