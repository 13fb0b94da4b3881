// What the mask kernels work on. ctypes mirrors these structs, so every field is eight bytes; the rule is that of the CPU's kernels.
#pragma once

#include "../cpu/mask_job.h"

namespace xmsim {

// score(head, query, key) = factor[head] × (q · k), plus slopes[head] × key; q · k of codes stays below 2^22.
struct CodeScores {
  const int8_t* q;       // [heads, queries, dim]
  const int8_t* k;       // [kv_heads, keys, dim]
  const float* factor;   // [heads]
  const float* slopes;   // [heads]; null: none
  int64_t heads, kv_heads, queries, keys;
  int64_t dim;     // 64, 128 or 256: channels beyond the model's are zeros
  int64_t offset;  // position of query 0
  int64_t causal;  // 0: every query sees every key
  int64_t window;  // keys that a causal query sees; 0: all before it
};

// Exact scores: q · k added up channel by channel with one rounding each, as the CPU's vectors do.
struct FloatScores {
  const float* q;  // [heads, queries, dim]
  const float* k;  // [kv_heads, keys, dim]
  const float* factor;
  const float* slopes;
  int64_t heads, kv_heads, queries, keys;
  int64_t dim;  // a multiple of 4 up to 256
  int64_t offset, causal, window;
};

struct RowFacts;

struct MaskTarget {
  uint64_t* words;    // [heads, queries, ceil(keys / 64)]
  int32_t* kept;      // [heads, queries]
  uint8_t* doubtful;  // [heads, queries]: rounding may have decided something, so that the judge has to decide the row again
  // room to work in, of each block of each row; blocks as many as fill the words, queries padded to a multiple of 128
  float* mass;           // [heads, blocks, padded queries]: X:M
  uint8_t* classes;      // [heads, words, padded queries], two bits a block: 1 keeps kept_high of its keys, 2 kept_low: low-bit X:M, N:M
  float* doubts;         // [heads, blocks, padded queries]: shared X:M
  uint64_t* low_words;   // [heads, words, padded queries]: keys kept of blocks whose share is low: shared and exact X:M
  const RowFacts* rows;  // [heads, queries]: Sanger, shared X:M
};

}  // namespace xmsim
