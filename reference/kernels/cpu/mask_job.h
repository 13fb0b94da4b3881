// What the mask kernels work on: where scores come from, which rule keeps them, where the mask goes. ctypes mirrors these structs, so every
// field is eight bytes.
#pragma once

#include <cstdint>

namespace xmsim {

// score(head, query, key) = factor[head] × (q · k), plus slope[head] × key; a row's allowed keys are one range.
struct MaskScores {
  const float* q;        // [heads, queries, dim]
  const float* k;        // [kv_heads, keys, dim]
  const float* factor;   // [heads]
  const float* slopes;   // [heads]; null: none
  const float* q_top;    // [heads]: low-bit scores, magnitudes are clamped here; null: exact scores
  const float* q_steps;  // [heads]: integers per unit
  const float* k_top;    // [kv_heads]
  const float* k_steps;  // [kv_heads]
  int64_t heads, kv_heads, queries, keys, dim;
  int64_t group;   // channels of a query of which the largest is kept; low-bit scores only
  int64_t offset;  // position of query 0
  int64_t causal;  // 0: every query sees every key
  int64_t window;  // keys that a causal query sees; 0: all before it
};

enum class MaskKind : int64_t { xm = 0, xm_causal = 1, nm = 2, topk = 3, sanger = 4, salo = 5 };

struct MaskRule {
  MaskKind kind;
  int64_t block;                  // xm, nm, salo
  int64_t kept_high, kept_low;    // xm; nm and topk keep kept_high
  double high, low;               // xm: thresholds; sanger: high is its threshold
  int64_t window, global_tokens, picks, dilation;  // salo
};

struct MaskOut {
  uint64_t* words;    // [heads, queries, ceil(keys / 64)]
  int32_t* kept;      // [heads, queries]
  uint8_t* doubtful;  // [heads, queries]: rounding may have decided something, so that the judge has to decide the row again
  void* packed_keys;  // float [kv_heads, ceil(keys / 16), dim, 16], room to work in
};

struct MaskJob {
  MaskScores scores;
  MaskRule rule;
  MaskOut out;

  int64_t group_rows() const { return scores.heads / scores.kv_heads * scores.queries; }  // rows that share a KV head
  int64_t key_blocks() const { return (scores.keys + 15) / 16; }
  int64_t row_words() const { return (scores.keys + 63) / 64; }
};

// The same kernels compiled for each instruction set.
void make_masks_portable(const MaskJob& job, int threads);
void make_masks_avx2(const MaskJob& job, int threads);
void make_masks_avx512(const MaskJob& job, int threads);

}  // namespace xmsim
