// What one core does in a nanosecond: steps of the kernels, each alone, over and over, on data that lies where it is said to lie. The host
// model (accel_models/host) puts times of whole kernels together from these; none of them is a kernel, and no kernel calls them.
//
// Every function runs `threads` parts at once, one a thread, each `passes` times, and returns a number made of all results, so that no
// compiler drops the work. 0: this processor has no AVX-512, whose steps these are.
#include "attention.h"
#include "isa.h"
#include "linear_cursors.h"
#include "linear_expand.h"
#include "linear_finish.h"
#include "linear_tokens.h"
#include "team.h"
#include "tiles.h"

#include <utility>
#include <vector>

#if XM_X86
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers start some intrinsics from an undefined register
#endif
XM_BEGIN_TARGET(XM_AVX512_SET)
#define XM_LANES 16
#include "attention_lanes.h"
#include "attention_rows.h"
#include "attention_tile.h"
XM_END_TARGET

namespace xmsim {
namespace {

template <class Part>
uint64_t timed_parts(int threads, const Part& body) {
  if (isa() < Isa::avx512) return 0;
  std::atomic<uint64_t> folded{0};
  for_parts(threads, threads, [&](int64_t part) { folded.fetch_xor(body(part), std::memory_order_relaxed); });
  return folded.load() | 1;
}

// Between passes: the compiler may not know that memory is as it was.
XM_INLINE void again() { __asm__ volatile("" ::: "memory"); }

XM_AVX512 uint64_t fold(__m512i lanes) {
  uint64_t words[8], folded = 0;
  _mm512_storeu_si512(words, lanes);
  for (uint64_t word : words) folded ^= word;
  return folded;
}

XM_AVX512 uint64_t read_words(const uint64_t* words, int64_t count, int64_t passes) {
  __m512i sums[8];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t i = 0; i + 64 <= count; i += 64)
      for (int lane = 0; lane < 8; ++lane) sums[lane] = _mm512_add_epi64(sums[lane], _mm512_loadu_si512(words + i + 8 * lane));
  for (int lane = 1; lane < 8; ++lane) sums[0] = _mm512_add_epi64(sums[0], sums[lane]);
  return fold(sums[0]);
}

// Rows of some bytes, listed; `ahead`: how many rows before its turn each is asked for, 0: never.
XM_AVX512 uint64_t read_rows(const char* rows, const int32_t* list, int64_t count, int64_t row_bytes, int64_t ahead) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; ++i) {
    if (ahead && i + ahead < count)
      for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(rows + list[i + ahead] * row_bytes + byte);
    for (int64_t byte = 0; byte < row_bytes; byte += 64)
      sum = _mm512_add_epi64(sum, _mm512_loadu_si512(rows + list[i] * row_bytes + byte));
  }
  return fold(sum);
}

// Elements of a row of sixteen words, in the order of the Python side.
template <class F>
auto with_element(int element, const F& f) {
  switch (element) {
    case 0: return f(Float32{});
    case 1: return f(Bfloat16{});
    default: return f(Int8{});
  }
}

constexpr int64_t kChunkWords = 16 * kTileWords;  // at most, as in linear_rows.cpp
constexpr int kFoldRows = 64;  // rows whose products are added up before they join a sum in memory

XM_AVX512 XM_INLINE __m512i multiply_add(Float32, __m512i sums, __m512i row, uint32_t x) {
  return (__m512i)_mm512_fmadd_ps((__m512)row, (__m512)_mm512_set1_epi32(x), (__m512)sums);
}
XM_AVX512 XM_INLINE __m512i multiply_add(Bfloat16, __m512i sums, __m512i row, uint32_t x) {
  return (__m512i)_mm512_dpbf16_ps((__m512)sums, (__m512bh)row, (__m512bh)_mm512_set1_epi32(x));
}
XM_AVX512 XM_INLINE __m512i multiply_add(Int8, __m512i sums, __m512i row, uint32_t x) {
  return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(x), row);
}

// Rows as they come, and rows whose zeros are left out.
struct WholeRows {
  const uint32_t* at;
  XM_AVX512 __attribute__((always_inline)) __m512i next() { return _mm512_loadu_si512(std::exchange(at, at + kRowWords)); }
};
template <class E>
struct StoredRows {
  const typename E::Mask* mask;
  const typename E::Bits* value;
  XM_AVX512 __attribute__((always_inline)) __m512i next() {
    __m512i row;
    __asm__("vpxord %0, %0, %0" : "=v"(row));  // a fresh zero: Zen 4's expand waits for what its destination held before
    const auto bits = *mask++;
    if constexpr (sizeof(typename E::Bits) == 4) row = _mm512_mask_expandloadu_epi32(row, bits, value);
    if constexpr (sizeof(typename E::Bits) == 2) row = _mm512_mask_expandloadu_epi16(row, bits, value);
    if constexpr (sizeof(typename E::Bits) == 1) row = _mm512_mask_expandloadu_epi8(row, bits, value);
    value += _mm_popcnt_u64(bits);
    return row;
  }
};

struct RowsCall {
  const void *bitmap, *values;  // bitmap null: whole rows
  int64_t rows, part_stride;    // in rows, from one part's to the next one's: 0 where all parts share rows
  const uint32_t* words;        // [word_rows][group]: those of 16 rows, then again for the 16 rows of the other half of a column block
  int64_t word_rows;            // a power of two; passes go on where the last one stopped
  int64_t passes;
};

template <class E, int kGroup, class Rows>
XM_AVX512 uint64_t multiply_rows(const RowsCall& call, const Rows& first) {
  constexpr int kChains = kGroup <= 3 ? 4 : kGroup <= 6 ? 2 : 1;
  alignas(64) uint32_t folded[kChains * kGroup * kRowWords] = {};
  __asm__ volatile("" ::"r"(folded) : "memory");  // all of it counts
  for (int64_t pass = 0; pass < call.passes; ++pass, again()) {
    Rows rows = first;
    for (int64_t done = 0; done < call.rows; done += kFoldRows) {
      __m512i sums[kChains][kGroup];
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 12
        for (int token = 0; token < kGroup; ++token) sums[chain][token] = _mm512_setzero_si512();
#pragma GCC unroll 1
      for (int64_t row = done; row < done + kFoldRows; row += kChains) {
        const int64_t at = pass * call.rows + row;
        const uint32_t* x = call.words + ((at / 32 * 16 + at % 16) & (call.word_rows - 1)) * kGroup;
#pragma GCC unroll 4
        for (int chain = 0; chain < kChains; ++chain) {
          const __m512i weights = rows.next();
#pragma GCC unroll 12
          for (int token = 0; token < kGroup; ++token)
            sums[chain][token] = multiply_add(E{}, sums[chain][token], weights, x[chain * kGroup + token]);
        }
      }
#pragma GCC unroll 4
      for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 12
        for (int token = 0; token < kGroup; ++token) {
          uint32_t* place = folded + (chain * kGroup + token) * kRowWords;
          _mm512_store_si512(place, _mm512_add_epi32(_mm512_load_si512(place), sums[chain][token]));
        }
    }
  }
  return folded[0];
}

template <class E, class Rows>
uint64_t multiply_rows_of(int group, const RowsCall& call, const Rows& first) {
  switch (group) {
    case 1: return multiply_rows<E, 1>(call, first);
    case 2: return multiply_rows<E, 2>(call, first);
    case 4: return multiply_rows<E, 4>(call, first);
    case 8: return multiply_rows<E, 8>(call, first);
    default: return multiply_rows<E, 12>(call, first);
  }
}

template <class E>
XM_AVX512 uint64_t store_rows(StoredRows<E> first, int64_t rows, int64_t passes) {
  constexpr int64_t kPlaces = 256;
  alignas(64) uint32_t place[kPlaces * kRowWords];
  __asm__ volatile("" ::"r"(place) : "memory");
  for (int64_t pass = 0; pass < passes; ++pass, again()) {
    StoredRows<E> from = first;
#pragma GCC unroll 4
    for (int64_t row = 0; row < rows; ++row) _mm512_storeu_si512(place + row % kPlaces * kRowWords, from.next());
  }
  return place[0];
}

template <class E>
StoredRows<E> stored_rows(const void* bitmap, const void* values) {
  return {static_cast<const typename E::Mask*>(bitmap), static_cast<const typename E::Bits*>(values)};
}

// A walk in which every address comes from the load before it.
uint64_t chase(const int64_t* next, int64_t start, int64_t steps) {
  for (; steps > 0; --steps) start = next[start];
  return static_cast<uint64_t>(start);
}

XM_BEGIN_TARGET(XM_AVX512_SET)

uint64_t exponentials(const float* values, int64_t count, int64_t passes) {
  Floats sums[4] = {};
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t i = 0; i + 4 * kLanes <= count; i += 4 * kLanes)
      for (int lane = 0; lane < 4; ++lane) sums[lane] += exponential(load(values + i + lane * kLanes));
  return static_cast<uint64_t>(sum(sums[0] + sums[1] + sums[2] + sums[3]) * 1e3f);
}

// Rows of a tile by turns, each against the keys that its mask words keep, at most 64: what the attention kernel's inner step takes, the
// list of keys made just before it. q [row_count, dim], words [row_count, words_a_row].
template <class T>
uint64_t attend_rows(const T* q, const T* keys, const T* values, const uint64_t* words, int64_t row_count, int words_a_row, int dim,
                     int64_t passes) {
  alignas(64) int32_t list[kRangeKeys + kWordKeys];
  alignas(64) float scores[kPieceKeys];
  const int64_t row_floats = dim + 2;
  float* rows = static_cast<float*>(thread_scratch(row_count * row_floats * sizeof(float)));
  for (int64_t i = 0; i < row_count; ++i) clear_row(rows + i * row_floats, dim);
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t i = 0; i < row_count; ++i) {
      const int kept = list_keys(words + i * words_a_row, words_a_row, 0, list);
      for (int j = kept; j % kListStep; ++j) list[j] = list[kept - 1];
      attend(rows + i * row_floats, q + i * dim, keys, dim, values, dim, list, kept, dim, 0.125f, 0.0f, 0, scores);
    }
  return static_cast<uint64_t>(rows[dim + 1] * 1e3f);
}

uint64_t make_lists(const uint64_t* words, int64_t count, int64_t words_a_list, int64_t passes) {
  alignas(64) int32_t list[kRangeKeys + kWordKeys];
  uint64_t folded = 0;
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t i = 0; i < count; i += words_a_list) {
      const int kept = list_keys(words + i, static_cast<int>(words_a_list), 0, list);
      __asm__ volatile("" ::"r"(list) : "memory");
      folded += kept;
    }
  return folded;
}

// The `kept` largest of 64 numbers by halving their span: compares, counts, and a step that waits for them.
uint64_t select_runs(const float* values, int64_t runs, int kept, int64_t passes) {
  uint64_t folded = 0;
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t run = 0; run < runs; ++run) {
      __m512 lanes[4];
      for (int i = 0; i < 4; ++i) lanes[i] = _mm512_loadu_ps(values + run * 64 + 16 * i);
      const Floats zero{};
      const auto negated = [&](int i) { return zero - (Floats)lanes[i]; };
      float high = largest(larger(larger((Floats)lanes[0], (Floats)lanes[1]), larger((Floats)lanes[2], (Floats)lanes[3])));
      float low = -largest(larger(larger(negated(0), negated(1)), larger(negated(2), negated(3))));
      uint64_t bits = 0;
      for (int step = 0; step < 32; ++step) {
        const float middle = low + 0.5f * (high - low);
        const __m512 limit = _mm512_set1_ps(middle);
        bits = 0;
        for (int i = 0; i < 4; ++i) bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(lanes[i], limit, _CMP_GE_OQ)) << 16 * i;
        const int64_t count = __builtin_popcountll(bits);
        if (count == kept) break;
        if (count > kept) low = middle; else high = middle;
      }
      folded ^= bits;
    }
  return folded;
}

XM_END_TARGET

}  // namespace
}  // namespace xmsim

// Pairs of weight tiles times 16 or 32 tokens on AMX: the tiles are in L1. 0: no AMX.
XM_API uint64_t xm_rate_tiles(int int8, int tokens, int64_t pairs, int64_t passes, int threads) {
  using namespace xmsim;
  if (isa() < Isa::amx) return 0;
  return timed_parts(threads, [&](int64_t) {
    constexpr int kTileWords = 256;
    alignas(64) uint32_t data[4 * kTileWords] = {}, sums[kTileWords];
    const auto rows = static_cast<uint8_t>(tokens < 16 ? tokens : 16), more = static_cast<uint8_t>(tokens - rows);
    NativeTiles tiles({rows, rows, more, more, rows, more, kTileRegisterRows, kTileRegisterRows});
    for (int64_t i = 0; i < pairs * passes; ++i) {
      tiles.load<4>(data, 64), tiles.load<6>(data + kTileWords, 64), tiles.load<7>(data + 2 * kTileWords, 64);
      int8 ? tiles.add_int8<0, 4, 6>() : tiles.add_bfloat16<0, 4, 6>();
      int8 ? tiles.add_int8<1, 4, 7>() : tiles.add_bfloat16<1, 4, 7>();
      if (!more) continue;
      tiles.load<5>(data + 3 * kTileWords, 64);
      int8 ? tiles.add_int8<2, 5, 6>() : tiles.add_bfloat16<2, 5, 6>();
      int8 ? tiles.add_int8<3, 5, 7>() : tiles.add_bfloat16<3, 5, 7>();
    }
    tiles.store<0>(sums, 64);
    return static_cast<uint64_t>(sums[0]);
  });
}

// `count` 64-bit words a part, read in order; parts are `part_stride` words apart.
XM_API uint64_t xm_rate_reads(const uint64_t* words, int64_t count, int64_t part_stride, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t part) { return read_words(words + part * part_stride, count, passes); });
}

// Listed rows; lists [threads, count].
XM_API uint64_t xm_rate_gathers(const void* rows, const int32_t* lists, int64_t count, int64_t row_bytes, int64_t ahead, int64_t passes,
                                int threads) {
  using namespace xmsim;
  const auto* bytes = static_cast<const char*>(rows);
  return timed_parts(threads, [&](int64_t part) {
    uint64_t folded = 0;
    for (int64_t pass = 0; pass < passes; ++pass, again()) folded ^= read_rows(bytes, lists + part * count, count, row_bytes, ahead);
    return folded;
  });
}

// Steps from one of `next`'s places to another, 8 bytes each; one thread.
XM_API uint64_t xm_rate_chases(const int64_t* next, int64_t steps) { return xmsim::chase(next, 0, steps) | 1; }

// Rows of 16 words times `group` (1, 2, 4, 8 or 12) words each; see RowsCall. The number of rows is a multiple of 64.
XM_API uint64_t xm_rate_rows(int element, int group, const void* bitmap, const void* values, int64_t rows, int64_t part_stride,
                             const uint32_t* words, int64_t word_rows, int64_t passes, int threads) {
  using namespace xmsim;
  const RowsCall call{bitmap, values, rows, part_stride, words, word_rows, passes};
  return timed_parts(threads, [&](int64_t part) {
    return with_element(element, [&](auto e) {
      using E = decltype(e);
      if (bitmap) return multiply_rows_of<E>(group, call, stored_rows<E>(bitmap, values));
      return multiply_rows_of<E>(group, call, WholeRows{static_cast<const uint32_t*>(values) + part * part_stride * kRowWords});
    });
  });
}

// Rows in chunks of `chunk_tiles` tiles, one chunk after the other from wherever they lie: each is multiplied `times` times before the next,
// as by that many groups of tokens. With a bitmap a chunk is expanded first, by the kernels' own code. Parts lie so many bytes apart.
XM_API uint64_t xm_rate_chunks(int element, int group, const void* bitmap, const void* values, int64_t chunks, int64_t chunk_tiles,
                               int64_t bitmap_stride, int64_t values_stride, const uint32_t* words, int64_t word_rows, int64_t times,
                               int threads) {
  using namespace xmsim;
  const RowsCall call{nullptr, values, chunk_tiles * kTileRows, 0, words, word_rows, times};
  return timed_parts(threads, [&](int64_t part) {
    return with_element(element, [&](auto e) {
      using E = decltype(e);
      const auto* whole = reinterpret_cast<const uint32_t*>(static_cast<const char*>(values) + part * values_stride);
      const int64_t first_value = 0;
      PackedWeights weights{};
      weights.bitmap = static_cast<const char*>(bitmap) + part * bitmap_stride;
      weights.values = whole, weights.offsets = &first_value;
      BitmapCursor<E> stored(weights, 0);
      alignas(64) uint32_t place[kChunkWords];
      uint64_t folded = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk, whole += chunk_tiles * kTileWords) {
        if (bitmap) expand_avx512(stored, chunk_tiles, place);
        folded ^= multiply_rows_of<E>(group, call, WholeRows{bitmap ? place : whole});
      }
      return folded;
    });
  });
}

// Tokens [tokens, in_features] made ready for groups of them, as a layer with weights of `element` does before its products.
XM_API uint64_t xm_rate_packs(int element, const void* x, int x_element, int64_t tokens, int64_t in_features, int group, int64_t passes) {
  using namespace xmsim;
  LinearCall call{};
  call.weights.in_features = in_features, call.x = x, call.x_element = static_cast<xmsim::Element>(x_element);
  call.tokens = tokens, call.threads = 1;
  uint64_t folded = 1;
  for (int64_t pass = 0; pass < passes; ++pass) {
    Tokens packed;
    const bool done = with_element(static_cast<xmsim::Element>(element), [&](auto e) { return pack_tokens<decltype(e)>(call, group, 128, packed); });
    folded += done ? packed.words[0] : 0;
  }
  return folded | 1;
}

// Sums of a block of 32 outputs of some tokens, for all `blocks` of a layer, to y [tokens, 32 * blocks]. integers: with their scales.
XM_API uint64_t xm_rate_finishes(int integers, const void* sums, const float* scales, const int32_t* column_sums, const float* steps,
                                 void* y, int y_element, int64_t tokens, int64_t blocks, int64_t passes) {
  using namespace xmsim;
  LinearCall call{};
  call.weights.out_features = blocks * kBlockColumns, call.weights.scales = scales, call.weights.column_sums = column_sums;
  call.x_element = static_cast<xmsim::Element>(y_element), call.y = y;
  for (int64_t pass = 0; pass < passes; ++pass, again())
    for (int64_t block = 0; block < blocks; ++block) {
      if (integers) finish(call, block, 0, tokens, static_cast<const int32_t*>(sums), steps, 128);
      else finish(call, block, 0, tokens, static_cast<const float*>(sums), steps, 128);
    }
  return 1;
}

// Rows expanded into L1 and used by nobody.
XM_API uint64_t xm_rate_expands(int element, const void* bitmap, const void* values, int64_t rows, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t) {
    return with_element(element, [&](auto e) { return store_rows(stored_rows<decltype(e)>(bitmap, values), rows, passes); });
  });
}

XM_API uint64_t xm_rate_exponentials(const float* values, int64_t count, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t) { return exponentials(values, count, passes); });
}

// Query rows [row_count, dim] against the rows of keys and values [.., dim] that words [row_count, words_a_row] keep, 1 to 64 each.
XM_API uint64_t xm_rate_attend(int bf16, const void* q, const void* keys, const void* values, const uint64_t* words, int64_t row_count,
                               int words_a_row, int dim, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t) {
    return bf16 ? attend_rows(static_cast<const Bf16*>(q), static_cast<const Bf16*>(keys), static_cast<const Bf16*>(values), words,
                              row_count, words_a_row, dim, passes)
                : attend_rows(static_cast<const float*>(q), static_cast<const float*>(keys), static_cast<const float*>(values), words,
                              row_count, words_a_row, dim, passes);
  });
}

// Mask words to lists of keys, so many words a list.
XM_API uint64_t xm_rate_lists(const uint64_t* words, int64_t count, int64_t words_a_list, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t) { return make_lists(words, count, words_a_list, passes); });
}

// The `kept` largest of each run of 64 numbers.
XM_API uint64_t xm_rate_selections(const float* values, int64_t runs, int kept, int64_t passes, int threads) {
  using namespace xmsim;
  return timed_parts(threads, [&](int64_t) { return select_runs(values, runs, kept, passes); });
}

// One block of 64 keys' predicted scores for `rows` queries that share a KV head, and what X:M selects of `blocks` such blocks.
// codes [blocks, dim * 64 * bits / 8] of one KV head; q [rows, dim]; scores, exponentials, tops, sums: room as PredictionCall says.
XM_API uint64_t xm_rate_predictions(const uint8_t* codes, const int8_t* q, const int32_t* offsets, const float* factors, float* scores,
                                    float* exponentials, float* tops, float* sums, uint64_t* words, int64_t rows, int64_t blocks,
                                    int64_t dim, int bits, int selects, int64_t passes) {
  using namespace xmsim;
  if (isa() < Isa::avx512) return 0;
  PredictionCall call{};
  call.codes = codes, call.q = q, call.offsets = offsets, call.factors = factors, call.scores = scores, call.exponentials = exponentials;
  call.tops = tops, call.sums = sums, call.heads = rows, call.kv_heads = 1, call.queries = 1;
  call.keys = blocks * kWordKeys, call.dim = dim, call.code_bits = bits;
  const SelectionCall selection{call, rows, false, 16, 8, 1.0, 0.1, words};
  for (int64_t pass = 0; pass < passes; ++pass) {
    if (selects) {
      attention_path().select_xm(selection, 0);
    } else {
      for (int64_t block = 0; block < blocks; ++block) attention_path().predict_block(call, 0, block);
    }
  }
  return words[0] | 1;
}

// A list of `heads` rows decided once more in float64: all its blocks (`ranks` 0), or two of its keys. scores [heads, blocks * 64],
// tops [heads, blocks]: the largest of each block.
XM_API uint64_t xm_rate_decisions(const float* scores, const float* tops, int64_t heads, int64_t blocks, int ranks, int64_t passes) {
  using namespace xmsim;
  if (isa() < Isa::avx512) return 0;
  PredictionCall call{};
  call.scores = const_cast<float*>(scores), call.tops = const_cast<float*>(tops);
  call.heads = heads, call.kv_heads = 1, call.queries = 1, call.keys = blocks * kWordKeys;
  const SelectionCall selection{call, heads, false, 16, 8, 1.0, 0.1, nullptr};
  std::vector<uint8_t> classes(blocks);
  uint64_t folded = 0;
  for (int64_t pass = 0; pass < passes; ++pass) {
    ExactSelection exact(selection, 0);
    uint64_t candidates = 3;
    if (ranks) exact.keep_largest(&candidates, 1, 0, 1); else exact.classify(classes.data());
    folded ^= candidates ^ classes[0];
  }
  return folded | 1;
}
#else
// No other processor has steps of its own yet; the host model says so.
XM_API uint64_t xm_rate_tiles(int, int, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_reads(const uint64_t*, int64_t, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_gathers(const void*, const int32_t*, int64_t, int64_t, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_chases(const int64_t*, int64_t) { return 0; }
XM_API uint64_t xm_rate_rows(int, int, const void*, const void*, int64_t, int64_t, const uint32_t*, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_chunks(int, int, const void*, const void*, int64_t, int64_t, int64_t, int64_t, const uint32_t*, int64_t, int64_t,
                               int) {
  return 0;
}
XM_API uint64_t xm_rate_packs(int, const void*, int, int64_t, int64_t, int, int64_t) { return 0; }
XM_API uint64_t xm_rate_finishes(int, const void*, const float*, const int32_t*, const float*, void*, int, int64_t, int64_t, int64_t) {
  return 0;
}
XM_API uint64_t xm_rate_expands(int, const void*, const void*, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_decisions(const float*, const float*, int64_t, int64_t, int, int64_t) { return 0; }
XM_API uint64_t xm_rate_exponentials(const float*, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_attend(int, const void*, const void*, const void*, const uint64_t*, int64_t, int, int, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_lists(const uint64_t*, int64_t, int64_t, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_selections(const float*, int64_t, int, int64_t, int) { return 0; }
XM_API uint64_t xm_rate_predictions(const uint8_t*, const int8_t*, const int32_t*, const float*, float*, float*, float*, float*, uint64_t*,
                                    int64_t, int64_t, int64_t, int, int, int64_t) {
  return 0;
}
#endif
