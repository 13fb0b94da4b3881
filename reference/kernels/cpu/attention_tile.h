// The walk over one part of a call: some queries of the heads that share a KV head, range by range of the keys. Included after
// attention_rows.h.
#pragma once

namespace xmsim {
namespace {

// Kept keys of `words`, whose first key is `first`: written to `list`, returned is how many. `list` has room for 63 more.
XM_INLINE int list_keys(const uint64_t* words, int count, int32_t first, int32_t* list) {
  int kept = 0;
  for (int i = 0; i < count; ++i, first += kWordKeys) {
    uint64_t word = words[i];
    if (!word) continue;
#if XM_LANES == 16
    const __m512i places = _mm512_set_epi8(
        63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31,
        30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    uint8_t packed[64];
    _mm512_storeu_si512(packed, _mm512_maskz_compress_epi8(word, places));
    const int here = __builtin_popcountll(word);
    for (int j = 0; j < here; j += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + j));
      _mm512_storeu_si512(list + kept + j, _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(first)));
    }
    kept += here;
#else
    for (; word; word &= word - 1) list[kept++] = first + __builtin_ctzll(word);
#endif
  }
  return kept;
}

template <class T>
XM_INLINE void fetch(const Rows& rows, int64_t head, const int32_t* list, int count, int64_t dim) {
  for (int i = 0; i < count; ++i) {
    const char* row = reinterpret_cast<const char*>(rows.row<T>(head, list[i]));
    for (int64_t byte = 0; byte < dim * static_cast<int64_t>(sizeof(T)); byte += 64) __builtin_prefetch(row + byte);
  }
}

// 64 tokens of one pruned operand with their zeros, [64, dim].
template <class T>
XM_INLINE void expand_block(const PrunedRows& rows, int64_t kv_head, int64_t block, int64_t dim, T* into) {
  const uint32_t* bitmap = rows.bitmap + kv_head * rows.bitmap_stride + block * kWordKeys * dim / 32;
  const T* values = static_cast<const T*>(rows.values) + kv_head * rows.values_stride + rows.starts[kv_head * rows.starts_stride + block];
  for (int64_t i = 0; i < kWordKeys * dim / 32; ++i) {
    const uint32_t word = bitmap[i];
#if XM_LANES == 16
    // cleared by hand: the masked expand would wait for what the register held before
    __m512i clear = _mm512_setzero_si512();
    __asm__("" : "+v"(clear));
    if (sizeof(T) == 2) {
      _mm512_storeu_si512(into + 32 * i, _mm512_mask_expand_epi16(clear, word, _mm512_loadu_si512(values)));
    } else {
      const int low = __builtin_popcount(word & 0xffff);
      _mm512_storeu_si512(into + 32 * i, _mm512_mask_expand_epi32(clear, word & 0xffff, _mm512_loadu_si512(values)));
      _mm512_storeu_si512(into + 32 * i + 16, _mm512_mask_expand_epi32(clear, word >> 16, _mm512_loadu_si512(values + low)));
    }
    values += __builtin_popcount(word);
#else
    std::memset(into + 32 * i, 0, 32 * sizeof(T));
    for (uint32_t rest = word; rest; rest &= rest - 1) into[32 * i + __builtin_ctz(rest)] = *values++;
#endif
  }
}

template <class T>
void attend_part(const AttentionCall& call, int64_t part) {
  // the last tiles see the most keys: they go first, so that no thread ends with one
  const int64_t tile = call.tiles() - 1 - part / (call.kv_heads * call.ranges());
  const int64_t kv_head = part % call.kv_heads, range = part / call.kv_heads % call.ranges();
  const int64_t first_query = tile * call.tile_queries, sharing = call.sharing(), words_a_row = (call.keys + kWordKeys - 1) / kWordKeys;
  const int64_t queries = least(call.tile_queries, call.queries - first_query);
  const int64_t mask_heads = call.words ? call.mask_heads / call.kv_heads : 1, heads_a_mask = sharing / mask_heads;
  const int64_t begin = range * call.ranges_keys, end = least(call.keys, begin + call.ranges_keys);
  const int dim = static_cast<int>(call.dim);
  const bool pruned = call.pruned_k.bitmap != nullptr;
  // few rows find the keys that they gather in memory, not in a cache that earlier rows filled; of all keys the hardware sees the pattern
  const bool far = call.words && call.queries * sharing < 64;

  const int64_t row_floats = dim + 2;
  float* scratch = static_cast<float*>(thread_scratch((queries * sharing * row_floats + 2 * kWordKeys * dim) * sizeof(float)));
  const auto row = [&](int64_t query, int64_t i) {
    return call.finished_here() ? scratch + (query * sharing + i) * row_floats
                              : call.partial_row(range, kv_head * sharing + i, first_query + query);
  };
  for (int64_t query = 0; query < queries; ++query)
    for (int64_t i = 0; i < sharing; ++i) clear_row(row(query, i), dim);
  T* expanded_k = reinterpret_cast<T*>(scratch + queries * sharing * row_floats);
  T* expanded_v = expanded_k + kWordKeys * dim;
  alignas(64) int32_t list[kRangeKeys + kWordKeys];
  alignas(64) float scores[kPieceKeys];

  for (int64_t first = begin; first < end; first += call.range_keys) {
    const int64_t here = least(call.range_keys, end - first);
    if (pruned) {
      expand_block(call.pruned_k, kv_head, first / kWordKeys, dim, expanded_k);
      expand_block(call.pruned_v, kv_head, first / kWordKeys, dim, expanded_v);
    }
    for (int64_t query = 0; query < queries; ++query)
      for (int64_t mask = 0; mask < mask_heads; ++mask) {
        int kept = 0;
        if (call.words) {
          const int64_t mask_row = (kv_head * mask_heads + mask) * call.queries + first_query + query;
          kept = list_keys(call.words + mask_row * words_a_row + first / kWordKeys, static_cast<int>((here + kWordKeys - 1) / kWordKeys),
                           static_cast<int32_t>(first), list);
        } else {
          const int64_t seen = call.position + first_query + query + 1 - call.first_key - first;
          kept = static_cast<int>(most(0, least(here, seen)));
          for (int i = 0; i < kept; ++i) list[i] = static_cast<int32_t>(pruned ? i : first + i);
        }
        if (!kept) continue;
        for (int i = kept; i % kListStep; ++i) list[i] = list[kept - 1];
        for (int piece = 0; piece < kept; piece += kPieceKeys) {
          const int count = static_cast<int>(least(kPieceKeys, kept - piece));
          const int next = static_cast<int>(least(kPieceKeys, kept - piece - count));
          if (far) {
            if (!piece) fetch<T>(call.v, kv_head, list, count, dim);
            fetch<T>(call.k, kv_head, list + piece + count, next, dim);
            fetch<T>(call.v, kv_head, list + piece + count, next, dim);
          }
          for (int64_t i = mask * heads_a_mask; i < (mask + 1) * heads_a_mask; ++i) {
            const int64_t head = kv_head * sharing + i;
            const T* q = call.q.row<T>(head, first_query + query);
            const float slope = call.slopes ? call.slopes[head] : 0;
            if (pruned) {
              attend(row(query, i), q, expanded_k, dim, expanded_v, dim, list + piece, count, dim,
                     call.scale, slope, call.first_key + first, scores);
            } else {
              attend(row(query, i), q, call.k.row<T>(kv_head, 0), call.k.row_stride, call.v.row<T>(kv_head, 0), call.v.row_stride,
                     list + piece, count, dim, call.scale, slope, call.first_key, scores);
            }
          }
        }
      }
  }
  if (!call.finished_here()) return;
  for (int64_t query = 0; query < queries; ++query)
    for (int64_t i = 0; i < sharing; ++i) {
      const float *finished = row(query, i), total = finished[dim + 1];
      T* out = static_cast<T*>(call.out) + ((kv_head * sharing + i) * call.queries + first_query + query) * dim;
      for (int c = 0; c < dim; ++c) store_number(out + c, total == 0 ? 0 : finished[c] / total);
    }
}

}  // namespace
}  // namespace xmsim
