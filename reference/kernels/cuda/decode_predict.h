// What the kernels of prediction in decode share: where scores and their sums lie, and exponentials in float64.
#pragma once

#include "batch_shares.h"
#include "mask_select.h"

namespace xmsim {

constexpr int kPredictWarps = 8;
constexpr int kPredictThreads = kPredictWarps * kWarp;
constexpr int kMostHeads = 8;  // that share a KV head

// Scores of the newest token's queries on all keys, block by block of 64: products of codes, which are exact, and sums of exponentials. A
// part is a run of blocks, the work of a block of threads.
template <class Product>
struct Predicted {
  Product* products;         // [sequences, heads, room_blocks, 64]
  float *tops, *part_tops;   // the largest scores, [sequences, kv_heads, room_blocks, heads of a KV head] and [kv_heads, parts, the same heads]
  double *sums, *part_sums;  // the same: of exponentials below the top
  const float* slopes;       // [heads], or none
  float factor;              // of the products
  int heads, kv_heads, room_blocks;
  int keys = 0, parts = 0;   // of one sequence, once it is chosen; parts of all sequences lie `all_parts` apart
  int all_parts = 0;
};

// The same of one sequence alone.
template <class Product>
XM_DEVICE Predicted<Product> of_sequence(Predicted<Product> scores, const Share& share) {
  const int64_t head_blocks = static_cast<int64_t>(share.sequence) * scores.heads * scores.room_blocks;
  scores.products += head_blocks * kTileKeys;
  scores.tops += head_blocks;
  scores.sums += head_blocks;
  const int64_t first = static_cast<int64_t>(share.first) * (scores.heads / scores.kv_heads);
  scores.part_tops += first;
  scores.part_sums += first;
  scores.keys = share.keys;
  scores.parts = share.count;
  scores.all_parts = gridDim.x;
  return scores;
}

template <class Product>
XM_DEVICE int blocks_of(const Predicted<Product>& scores) {
  return ceil_div(scores.keys, kTileKeys);
}

// Where a part of a head of a KV head is.
template <class Product>
XM_DEVICE int64_t part_place(const Predicted<Product>& scores, int kv_head, int part, int head) {
  return (static_cast<int64_t>(kv_head) * scores.all_parts + part) * (scores.heads / scores.kv_heads) + head;
}

// Blocks [first, last) of a part.
struct Part {
  int first, last;
};

XM_DEVICE Part part_of(int blocks, int part, int parts) {
  const int each = blocks / parts, longer = blocks % parts;  // so many parts have one more
  const int first = part * each + (part < longer ? part : longer);
  return {first, first + each + (part < longer ? 1 : 0)};
}

// 0: none. What adds up to no bias leaves a score as it is.
template <class Product>
XM_DEVICE float slope_of(const Predicted<Product>& from, int head) {
  return from.slopes ? from.slopes[head] : 0.0f;
}

// A score from its product, rounded as the reference's: a product, then a sum.
template <class Product>
XM_DEVICE float score_of(const Predicted<Product>& from, float product, float slope, int key) {
  return times(product, from.factor) + times(slope, static_cast<float>(key));
}

// e to the power of x <= 0 within 1e-14 of it, and exactly 1 of 0; below -708 it is 0.
XM_DEVICE double power_of_e(double x) {
  constexpr double kRounder = 6755399441055744.0;  // 1.5 × 2^52: what is added to it is rounded to an integer in its low bits
  union {
    double number;
    uint64_t bits;
  } shifted = {fused(x, 1.4426950408889634, kRounder)}, scale;
  const double n = shifted.number - kRounder;
  const double rest = fused(n, -2.3190468138462996e-17, fused(n, -0.6931471805599453, x));
  double power = 1.0 / 39916800;  // the series of the exponential: below 0.35 its next part is 7e-15
  power = fused(power, rest, 1.0 / 3628800);
  power = fused(power, rest, 1.0 / 362880);
  power = fused(power, rest, 1.0 / 40320);
  power = fused(power, rest, 1.0 / 5040);
  power = fused(power, rest, 1.0 / 720);
  power = fused(power, rest, 1.0 / 120);
  power = fused(power, rest, 1.0 / 24);
  power = fused(power, rest, 1.0 / 6);
  power = fused(power, rest, 0.5);
  power = fused(power, rest, 1.0);
  power = fused(power, rest, 1.0);
  scale.bits = static_cast<uint64_t>(static_cast<uint32_t>(shifted.bits) + 1023u) << 52;
  return x < -708 ? 0.0 : power * scale.number;
}

XM_DEVICE double power_of_e(float x, float top) { return power_of_e(static_cast<double>(x) - top); }

}  // namespace xmsim
