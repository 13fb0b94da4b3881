// Attention over kept keys: what a call says, and the code for it in each instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa.h"

// Between these two every function is compiled for `set`, inline ones and templates among them: standard headers must stand above.
#define XM_PRAGMA_TEXT(text) _Pragma(#text)
#define XM_PRAGMA(text) XM_PRAGMA_TEXT(text)
#if defined(__clang__)
#define XM_BEGIN_TARGET(set) XM_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define XM_END_TARGET _Pragma("clang attribute pop")
#else
#define XM_BEGIN_TARGET(set) _Pragma("GCC push_options") XM_PRAGMA(GCC target(set))
#define XM_END_TARGET _Pragma("GCC pop_options")
#endif

namespace xmsim {

struct Bf16 {
  uint16_t bits;
};

constexpr int64_t kWordKeys = 64;         // keys of one mask word, and of one block of the caches
constexpr int kRangeKeys = 1024;          // no range is longer: its kept keys are listed in a buffer of that size
constexpr int kPieceKeys = 64;            // kept keys that all heads of a row finish before the next ones are fetched

// Rows of one operand; strides in elements.
struct Rows {
  const void* data;
  int64_t head_stride, row_stride;

  template <class T>
  const T* row(int64_t head, int64_t index) const {
    return static_cast<const T*>(data) + head * head_stride + index * row_stride;
  }
};

// One [kv_heads, keys, dim] operand with its zeros left out: 32 channels a bitmap word, the other values after each other.
struct PrunedRows {
  const uint32_t* bitmap;   // [kv_heads, tokens, dim / 32]
  const void* values;       // [kv_heads, head_values]; readable for 64 bytes behind the last
  const int64_t* starts;    // [kv_heads, tokens / 64 + 1]: the first value of each block of 64 tokens
  int64_t bitmap_stride, values_stride, starts_stride;  // from one KV head to the next, in elements
};

// Softmax attention of all queries of all heads; `words` null: every key up to the query's own position.
struct AttentionCall {
  Rows q, k, v;
  PrunedRows pruned_k, pruned_v;  // instead of k and v, where bitmap is not null
  const uint64_t* words;          // [mask_heads, queries, ceil(keys / 64)]
  const float* slopes;            // [heads], ALiBi; null: none
  void* out;                      // [heads, queries, dim], in the number format of q; dim is a multiple of 32
  float* partial;                 // [ranges, heads, queries, dim + 2]: weighted values, top score, total
  int64_t heads, kv_heads, mask_heads, queries, keys, dim;
  int64_t first_key;              // position of k's first row: a part of the keys may be elsewhere
  int64_t position;               // of query 0 among all keys
  int64_t tile_queries, range_keys, ranges_keys;  // queries that share what is fetched, keys fetched for them at once, keys of one part
  float scale;
  bool merged_elsewhere;  // other calls share `partial`, and whoever made them puts the rows together

  bool finished_here() const { return ranges() == 1 && !merged_elsewhere; }
  int64_t sharing() const { return heads / kv_heads; }
  int64_t tiles() const { return (queries + tile_queries - 1) / tile_queries; }
  int64_t ranges() const { return (keys + ranges_keys - 1) / ranges_keys; }
  int64_t parts() const { return kv_heads * tiles() * ranges(); }
  float* partial_row(int64_t range, int64_t head, int64_t query) const {
    return partial + ((range * heads + head) * queries + query) * (dim + 2);
  }
};

// Predicted scores of some query rows on one KV head's low-bit keys.
struct PredictionCall {
  const uint8_t* codes;    // [kv_heads, blocks, dim / channels a byte row, 64 keys, 4 bytes]; see kv_scores.h
  const int8_t* q;         // [heads, queries, dim]
  const int32_t* offsets;  // [heads, queries]: what codes make the products too large by, the row's sum times 2^(bits - 1)
  const float* factors;    // [heads]
  const float* slopes;     // [heads] or null
  float* scores;           // [heads, queries, blocks * 64]; -infinity where the query does not see the key
  float* exponentials;     // the same shape: relative to the block's top; null where nobody asks
  float* tops;             // [heads, queries, blocks]
  float* sums;             // [heads, queries, blocks]: of the exponentials relative to the block's top
  int64_t heads, kv_heads, queries, keys, dim, head_codes;  // head_codes: bytes from one KV head to the next
  int code_bits;           // 4 or 8

  int64_t sharing() const { return heads / kv_heads; }
  int64_t blocks() const { return (keys + kWordKeys - 1) / kWordKeys; }
  int64_t position(int64_t query) const { return keys - queries + query; }  // the last query sees the last key
};

// Which keys the rows of a list keep. A list belongs to one query row, or, where heads_a_list is all that share a KV head, to that
// query of all of them: then keys are ranked by the sum or the largest of the heads' probabilities.
struct SelectionCall {
  PredictionCall prediction;  // made: scores, tops and sums are there
  int64_t heads_a_list;
  bool largest;               // of the heads' probabilities, not their sum
  int64_t kept_high, kept_low;
  double threshold_high, threshold_low;  // relative to an even share; at most what xm_keep takes them for
  uint64_t* words;            // [lists, blocks]

  int64_t lists() const { return prediction.heads / heads_a_list * prediction.queries; }
  int64_t row(int64_t list, int64_t i) const {  // the i-th query row of a list
    const int64_t queries = prediction.queries;
    return (list / queries * heads_a_list + i) * queries + list % queries;
  }
};

// The slow and sure side of a selection, in float64 as the reference computes: asked where float32 may be on the wrong side of a cut.
class ExactSelection {
 public:
  ExactSelection(const SelectionCall& call, int64_t list) : call_(call), list_(list) {}
  ~ExactSelection() { delete[] rows_; }
  ExactSelection(const ExactSelection&) = delete;

  // For each block 2, 1 or 0: it keeps kept_high, kept_low or no keys.
  void classify(uint8_t* classes);
  // The `count` keys of largest weight among `candidates` (a bitmap of `words` words from key `first` on); lowest key first among equals.
  void keep_largest(uint64_t* candidates, int64_t words, int64_t first, int64_t count);

 private:
  struct RowTotal {
    double top, log_total;  // of its scores, and of their exponentials below the top
  };
  double weight(int64_t key);  // its logarithm
  const SelectionCall& call_;
  const int64_t list_;
  RowTotal* rows_ = nullptr;  // of the list, made when the first weight is asked for
};

struct AttentionPath {
  void (*attend_float32)(const AttentionCall&, int64_t part);
  void (*attend_bf16)(const AttentionCall&, int64_t part);
  void (*predict_block)(const PredictionCall&, int64_t kv_head, int64_t block);
  void (*select_xm)(const SelectionCall&, int64_t list);
  void (*select_top)(const SelectionCall&, int64_t list);  // kept_high keys of the whole row
};

extern const AttentionPath portable_attention;
#if XM_X86
extern const AttentionPath avx2_attention, avx512_attention;
#endif

// Memory of the calling thread, of this size at least; its content is whatever was left there.
void* thread_scratch(int64_t bytes);

inline const AttentionPath& attention_path() {
#if XM_X86
  if (isa() >= Isa::avx512) return avx512_attention;
  if (isa() >= Isa::avx2) return avx2_attention;
#endif
  return portable_attention;
}

}  // namespace xmsim
