// Activations, made ready for the kernels.
#pragma once

#include <cstdlib>
#include <memory>

#include "linear_format.h"

namespace xmsim {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Words [groups][k_words][group]: the same word of all tokens of a group side by side, so that a kernel needs one pointer for all of them.
// A group of 1 is the plain row order. What lies beyond `tokens` and `in` is zero.
struct Tokens {
  std::unique_ptr<uint32_t[], Free> words;
  std::unique_ptr<float[], Free> scales;  // int8 only, [tokens]
  int64_t k_words = 0, groups = 0;
  int group = 1;

  const uint32_t* of_group(int64_t index) const { return words.get() + index * k_words * group; }
};

// Int8: each token is quantised with its own scale, and `raised` (0 or 128) is added to every integer, 128 where an instruction wants them
// unsigned. False: no memory.
template <class E>
bool pack_tokens(const LinearCall& call, int group, int raised, Tokens& tokens);

// One row to int8: absmax / 127 is one step, ties to even. Returns the step; NaN, and zeros, for a row that is not finite.
template <class Float>
float quantize_row(const Float* row, int64_t count, int8_t* integers);

}  // namespace xmsim
