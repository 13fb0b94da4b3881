// Softmax over tiles as they come: of 16 rows × 64 keys whose scores a warp holds as sums of mma.
#pragma once

#include "linear_elements.h"

namespace xmsim {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kTile = 64;  // rows that go through keys together, and keys of a step

// Of a row, as far as its tiles were seen. Scores are in units of log 2.
struct RowState {
  float top = -INFINITY;  // biases count from the first key of the tile at hand: so near keys keep their digits at any position
  float sum = 0;  // of this lane's exponentials; the four lanes of a row add theirs up at the end
};

// Turns scores into exp2(score − top), 0 where the pair is not kept, and says by what everything before has to be multiplied.
// Element e of scores[n] is of row e / 2 of this lane's two, and key 8 n + 2 (lane % 4) + e % 2 of the tile, which starts so many keys after
// the one before.
XM_DEVICE void softmax_step(float (&scores)[8][4], const uint64_t (&kept)[2], float scale, float slope, int keys_on, RowState (&state)[2],
                            float (&shrink)[2]) {
  float factor = scale;
  if (slope != 0 || !(scale > 0)) {  // else the largest score is the largest product, and scaling costs nothing when it is subtracted
    factor = 1;
    const uint32_t first_key = anew(2 * (lane() % 4));  // else the compiler keeps the biases of all tiles in registers
    XM_UNROLL(8)
    for (int n = 0; n < 8; ++n) {
      XM_UNROLL(4)
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = fused(scores[n][e], scale, slope * static_cast<float>(first_key + 8 * n + e % 2));
      }
    }
    XM_UNROLL(2)
    for (int half = 0; half < 2; ++half) state[half].top -= slope * static_cast<float>(keys_on);
  }
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    float top = -INFINITY;
    const uint64_t own = kept[half] >> 2 * (lane() % 4);
    XM_UNROLL(8)
    for (int n = 0; n < 8; ++n) {
      XM_UNROLL(2)
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * half + e];
        if (!(own >> (8 * n + e) & 1)) score = -INFINITY;
        top = larger(top, score);
      }
    }
    top = factor * lanes_max(top, 4);
    RowState& row = state[half];
    const float before = row.top;
    row.top = larger(top, before);
    const float base = row.top == -INFINITY ? 0.0f : row.top;  // nothing is kept so far: no infinity minus itself
    shrink[half] = exp2_fast(before - base);
    row.sum *= shrink[half];
    XM_UNROLL(8)
    for (int n = 0; n < 8; ++n) {
      XM_UNROLL(2)
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * half + e];
        score = exp2_fast(fused(score, factor, -base));
        row.sum += score;
      }
    }
  }
}

template <class Element>
XM_DEVICE uint32_t pair_of(float low, float high) {
  if constexpr (Element::kHalf) return static_cast<uint32_t>(half_bits(high)) << 16 | half_bits(low);
  return bf16_pair(low, high);
}

// Sums of a product as the left operand of the next: keys 16 step to 16 step + 15.
template <class Element>
XM_DEVICE void probabilities(const float (&scores)[8][4], int step, uint32_t (&a)[4]) {
  XM_UNROLL(4)
  for (int r = 0; r < 4; ++r) {
    const float(&part)[4] = scores[2 * step + r / 2];
    a[r] = pair_of<Element>(part[2 * (r % 2)], part[2 * (r % 2) + 1]);
  }
}

}  // namespace xmsim
