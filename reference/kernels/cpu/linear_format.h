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

enum class Element : int { float32 = 0, bfloat16 = 1, int8 = 2, float16 = 3 };

// How the elements that are not zero are stored. The last three keep orders of their own (expand_*.h) and are brought into this one on
// the way to the registers; int8 is tiles or bitmap.
enum class Form : int { tiles = 0, bitmap = 1, tca_bme = 2, column_bitmap = 3, two_four = 4 };

struct Float32 {
  using Bits = uint32_t;
  using Mask = uint16_t;  // one bit for each element of a row
  using Sum = float;
  static constexpr int kPerWord = 1;
  static constexpr int kInputWords = 1;  // words of an activation that meet one word of weights
};
struct Bfloat16 {
  using Bits = uint16_t;
  using Mask = uint32_t;
  using Sum = float;
  static constexpr int kPerWord = 2, kInputWords = 1;
};
// No instruction multiplies pairs of these into float sums everywhere: weights become float32 in a register, activations once for all.
struct Float16 {
  using Bits = uint16_t;
  using Mask = uint32_t;
  using Sum = float;
  static constexpr int kPerWord = 2, kInputWords = 2;
};
struct Int8 {
  using Bits = uint8_t;
  using Mask = uint64_t;
  using Sum = int32_t;
  static constexpr int kPerWord = 4, kInputWords = 1;
};

template <class E>
constexpr int kRowElements = kRowWords * E::kPerWord;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct PackedWeights {
  int64_t out_features, in_features;
  Form form;
  const void* bitmap;            // bitmap: Mask [rows of all tiles]; null where every element is stored; else as the form has it
  const void* values;            // the elements whose bit is set; without a bitmap all of them
  const void* offsets;           // bitmap: int64 [blocks], index of a block's first value; else as the form has it
  const void* inner_offsets;     // of stripes (tca_bme) or columns (column_bitmap) within a GroupTile
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
  const void* x;         // [tokens, in], any float element
  Element x_element;     // also that of bias and y
  int64_t tokens;
  const void* bias;      // [out] or null
  void* y;               // [tokens, out]
  int threads;
};

// What x, bias and y hold, as types that load_float and store_float tell apart.
struct Half {
  uint16_t bits;
};

// Calls f with the type of an activation.
template <class F>
auto with_float(Element element, const F& f) {
  switch (element) {
    case Element::float32: return f(float{});
    case Element::float16: return f(Half{});
    default: return f(uint16_t{});
  }
}

// Calls f with the type that stands for an element.
template <class F>
auto with_element(Element element, const F& f) {
  switch (element) {
    case Element::float32: return f(Float32{});
    case Element::bfloat16: return f(Bfloat16{});
    case Element::float16: return f(Float16{});
    default: return f(Int8{});
  }
}

}  // namespace xmsim
