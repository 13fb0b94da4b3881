// Attention calls: split into parts, and put together again.
#include "attention.h"

#include <vector>

#include "team.h"

namespace xmsim {

void* thread_scratch(int64_t bytes) {
  thread_local std::vector<double> memory;
  const auto size = static_cast<size_t>(bytes + sizeof(double) - 1) / sizeof(double);
  if (memory.size() < size) memory.resize(size);
  return memory.data();
}

namespace {

void write(void* out, int64_t index, double value, bool bf16) {
  if (!bf16) {
    static_cast<float*>(out)[index] = static_cast<float>(value);
    return;
  }
  const float x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  static_cast<uint16_t*>(out)[index] = static_cast<uint16_t>(rounded >> 16);
}

// One row of one head from what its ranges of keys gave.
void merge(const AttentionCall& call, int64_t ranges, int64_t head, int64_t query, bool bf16) {
  const int64_t dim = call.dim, out = (head * call.queries + query) * dim;
  float top = -INFINITY;
  for (int64_t range = 0; range < ranges; ++range) top = std::fmax(top, call.partial_row(range, head, query)[dim]);
  std::vector<double> sums(dim);
  double total = 0;
  for (int64_t range = 0; range < ranges && top > -INFINITY; ++range) {
    const float* partial = call.partial_row(range, head, query);
    const double share = std::exp(static_cast<double>(partial[dim]) - top);
    total += share * partial[dim + 1];
    for (int64_t c = 0; c < dim; ++c) sums[c] += share * partial[c];
  }
  for (int64_t c = 0; c < dim; ++c) write(call.out, out + c, total == 0 ? 0 : sums[c] / total, bf16);
}

// All rows; few of them on the calling thread, as waking the others would take longer.
void merge_rows(const AttentionCall& call, int64_t ranges, bool bf16, int threads) {
  const int64_t rows = call.heads * call.queries;
  for_parts(rows, rows < 256 ? 1 : threads, [&](int64_t row) { merge(call, ranges, row / call.queries, row % call.queries, bf16); });
}

}  // namespace
}  // namespace xmsim

// Attention of one set of keys; strides in elements, see AttentionCall. `partial` is needed where the keys are cut into ranges.
XM_API void xm_attend(int bf16, const void* q, const void* k, const void* v, const uint64_t* words, const float* slopes, void* out,
                      float* partial, int64_t heads, int64_t kv_heads, int64_t mask_heads, int64_t queries, int64_t keys, int64_t dim,
                      int64_t kv_head_stride, int64_t kv_row_stride, int64_t tile_queries, int64_t range_keys, int64_t ranges_keys,
                      float scale, int threads) {
  using namespace xmsim;
  AttentionCall call{};
  call.q = {q, queries * dim, dim}, call.k = {k, kv_head_stride, kv_row_stride}, call.v = {v, kv_head_stride, kv_row_stride};
  call.words = words, call.slopes = slopes, call.out = out, call.partial = partial;
  call.heads = heads, call.kv_heads = kv_heads, call.mask_heads = mask_heads, call.queries = queries, call.keys = keys, call.dim = dim;
  call.position = keys - queries, call.tile_queries = tile_queries, call.range_keys = range_keys, call.ranges_keys = ranges_keys;
  call.scale = scale;
  const auto attend = bf16 ? attention_path().attend_bf16 : attention_path().attend_float32;
  for_parts(call.parts(), threads, [&](int64_t part) { attend(call, part); });
  if (!call.finished_here()) merge_rows(call, call.ranges(), bf16, threads);
}

// Attention of all keys of a cache whose first `pruned_tokens` (a multiple of 64) are pruned and whose others lie in k and v as they came.
XM_API void xm_attend_pruned(int bf16, const void* q, const uint32_t* k_bitmap, const void* k_values, const int64_t* k_starts,
                             const uint32_t* v_bitmap, const void* v_values, const int64_t* v_starts, const void* k, const void* v,
                             const float* slopes, void* out, float* partial, int64_t heads, int64_t kv_heads, int64_t queries,
                             int64_t pruned_tokens, int64_t dense_tokens, int64_t dim, int64_t bitmap_stride, int64_t k_values_stride,
                             int64_t v_values_stride, int64_t starts_stride, int64_t kv_head_stride, int64_t kv_row_stride,
                             int64_t ranges_keys, float scale, int threads) {
  using namespace xmsim;
  AttentionCall pruned{};
  pruned.q = {q, queries * dim, dim}, pruned.slopes = slopes, pruned.out = out, pruned.partial = partial;
  pruned.heads = heads, pruned.kv_heads = kv_heads, pruned.mask_heads = kv_heads, pruned.queries = queries, pruned.dim = dim;
  pruned.position = pruned_tokens + dense_tokens - queries, pruned.tile_queries = queries, pruned.ranges_keys = ranges_keys;
  pruned.scale = scale;
  AttentionCall dense = pruned;
  pruned.keys = pruned_tokens, pruned.range_keys = kWordKeys;
  pruned.pruned_k = {k_bitmap, k_values, k_starts, bitmap_stride, k_values_stride, starts_stride};
  pruned.pruned_v = {v_bitmap, v_values, v_starts, bitmap_stride, v_values_stride, starts_stride};
  dense.k = {k, kv_head_stride, kv_row_stride}, dense.v = {v, kv_head_stride, kv_row_stride};
  dense.keys = dense_tokens, dense.first_key = pruned_tokens, dense.range_keys = kRangeKeys;
  dense.partial = pruned.partial_row(pruned.ranges(), 0, 0);
  pruned.merged_elsewhere = dense.merged_elsewhere = true;
  const auto attend = bf16 ? attention_path().attend_bf16 : attention_path().attend_float32;
  const int64_t pruned_parts = pruned.parts();
  for_parts(pruned_parts + dense.parts(), threads,
            [&](int64_t part) { part < pruned_parts ? attend(pruned, part) : attend(dense, part - pruned_parts); });
  merge_rows(pruned, pruned.ranges() + dense.ranges(), bf16, threads);
}
