// X:M and top-k selection on predicted scores, in float32; what lies too near a cut for that is left to ExactSelection.
// Included after kv_scores.h.
#pragma once

namespace xmsim {
namespace {

constexpr float kWeightMargin = 1e-5f;  // relative: products of exponentials of float32 differences below 27, and their sums, err by less
constexpr float kFarWeight = 1e-12f;    // further differences have larger rounding errors
constexpr double kShareMargin = 1e-5;

// Order of floats as order of integers.
XM_INLINE int32_t ordered(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

XM_INLINE float unordered(int32_t bits) {
  bits ^= bits >> 31 & 0x7fffffff;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The kept-th largest of so many values (a multiple of 64), by halving the range of integers that floats are: 32 counts.
XM_INLINE float cut_of(const float* values, int64_t count, int64_t kept) {
  int64_t low = INT32_MIN, high = INT32_MAX;  // at least `kept` values are >= low
  while (low < high) {
    const int64_t middle = (low + high + 1) >> 1;
    const float limit = unordered(static_cast<int32_t>(middle));
    int64_t above = 0;
    if (limit != limit) {  // a NaN's place: no value lies there
      above = middle < 0 ? count : 0;
    } else {
      for (int64_t first = 0; first < count; first += kWordKeys) {
        int32_t here = 0;
        for (int i = 0; i < kWordKeys; ++i) here += values[first + i] >= limit;
        above += here;
      }
    }
    if (above >= kept) low = middle; else high = middle - 1;
  }
  return unordered(static_cast<int32_t>(low));
}

#if XM_LANES == 16
// One step of a bitonic network: lane i and lane i ^ Distance exchange, the larger goes to the front where (i & Run) is 0.
template <int Distance, int Run>
XM_INLINE __m512 exchange(__m512 x) {
  __mmask16 larger = 0;
  for (int i = 0; i < 16; ++i) larger |= ((i & Distance) == 0) == ((i & Run) == 0) ? 1 << i : 0;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 other = _mm512_permutexvar_ps(_mm512_xor_si512(lanes, _mm512_set1_epi32(Distance)), x);
  return _mm512_mask_max_ps(_mm512_min_ps(x, other), larger, x, other);
}

XM_INLINE __m512 sorted(__m512 x) {  // descending
  x = exchange<1, 2>(x);
  x = exchange<1, 4>(exchange<2, 4>(x));
  x = exchange<1, 8>(exchange<2, 8>(exchange<4, 8>(x)));
  return exchange<1, 16>(exchange<2, 16>(exchange<4, 16>(exchange<8, 16>(x))));
}

XM_INLINE __m512 sixteen_largest(__m512 a, __m512 b) {  // of two sorted vectors, sorted
  const __m512i back = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512 x = _mm512_max_ps(a, _mm512_permutexvar_ps(back, b));
  return exchange<1, 16>(exchange<2, 16>(exchange<4, 16>(exchange<8, 16>(x))));
}
#endif

XM_INLINE float block_cut(const float* values, int64_t kept) {
#if XM_LANES == 16
  if (kept <= 16) {
    __m512 v[4];
    for (int i = 0; i < 4; ++i) v[i] = sorted(_mm512_loadu_ps(values + 16 * i));
    const __m512 all = sixteen_largest(sixteen_largest(v[0], v[1]), sixteen_largest(v[2], v[3]));
    float front[16];
    _mm512_storeu_ps(front, all);
    return front[kept - 1];
  }
#endif
  return cut_of(values, kWordKeys, kept);
}

// Which keys of a block reach a cut, one bit each.
#if XM_LANES == 16
XM_INLINE uint64_t at_least(const float* values, float cut) {
  uint64_t word = 0;
  for (int i = 3; i >= 0; --i) word = word << 16 | _mm512_cmp_ps_mask(_mm512_loadu_ps(values + 16 * i), _mm512_set1_ps(cut), _CMP_GE_OQ);
  return word;
}
#else
XM_INLINE uint64_t at_least(const float* values, float cut) {
  uint64_t word = 0;
  for (int i = 0; i < kWordKeys; ++i) word |= static_cast<uint64_t>(values[i] >= cut) << i;
  return word;
}
#endif

XM_INLINE float next_above(float x) { return unordered(ordered(x + 0.0f) + 1); }  // + 0: of the two zeros the upper one

// The `count` lowest set bits.
XM_INLINE uint64_t lowest_bits(uint64_t word, int64_t count) {
  uint64_t kept = 0;
  for (; count > 0 && word; --count, word &= word - 1) kept |= word & -word;
  return kept;
}

// Keys of block `block` that the query of a list may see.
XM_INLINE uint64_t allowed_word(const SelectionCall& call, int64_t list, int64_t block) {
  const int64_t seen = call.prediction.position(list % call.prediction.queries) + 1 - block * kWordKeys;
  return seen >= kWordKeys ? ~0ull : seen <= 0 ? 0 : (1ull << seen) - 1;
}

// Weights of the 64 keys of a block that a list ranks, from the exponentials of its rows. factors: what makes them probabilities.
XM_INLINE void combine(const SelectionCall& call, int64_t list, int64_t block, const float* factors, float* weights) {
  const int64_t blocks = call.prediction.blocks();
  for (int key = 0; key < kWordKeys; key += kLanes) {
    Floats weight{};
    for (int64_t i = 0; i < call.heads_a_list; ++i) {
      const float* exponentials = call.prediction.exponentials + (call.row(list, i) * blocks + block) * kWordKeys;
      const Floats probability = load(exponentials + key) * splat(factors[i * blocks + block]);
      weight = call.largest ? larger(weight, probability) : weight + probability;
    }
    store(weights + key, weight);
  }
}

// The `kept` largest of the allowed keys in `words` words from key `first` on, whose kept-th largest is `cut`; scores are ranked as they
// are, weights with a margin. `doubtful` is room for as many words.
XM_INLINE void keep_largest(const float* values, bool scores, float cut, int64_t kept, const uint64_t* allowed, int64_t words,
                            int64_t first, uint64_t* out, uint64_t* doubtful, ExactSelection& exact) {
  float low = cut, high = next_above(cut);
  if (!scores) low = cut < kFarWeight ? 0 : cut * (1 - kWeightMargin), high = (cut < kFarWeight ? kFarWeight : cut) * (1 + kWeightMargin);
  int64_t missing = kept, doubtful_count = 0;
  for (int64_t i = 0; i < words; ++i) {
    out[i] = at_least(values + i * kWordKeys, high) & allowed[i];
    doubtful[i] = at_least(values + i * kWordKeys, low) & allowed[i] & ~out[i];
    missing -= __builtin_popcountll(out[i]), doubtful_count += __builtin_popcountll(doubtful[i]);
  }
  if (doubtful_count > missing) {
    if (scores) {
      for (int64_t i = 0; i < words; ++i) doubtful[i] = lowest_bits(doubtful[i], missing), missing -= __builtin_popcountll(doubtful[i]);
    } else {
      exact.keep_largest(doubtful, words, first, missing);
    }
  }
  for (int64_t i = 0; i < words; ++i) out[i] |= doubtful[i];
}

// What turns exponentials relative to a block's top into parts of the row's total, [heads_a_list, blocks].
XM_INLINE void make_factors(const SelectionCall& call, int64_t list, float* factors) {
  const int64_t blocks = call.prediction.blocks();
  for (int64_t i = 0; i < call.heads_a_list; ++i, factors += blocks) {
    const float *tops = call.prediction.tops + call.row(list, i) * blocks, *sums = call.prediction.sums + call.row(list, i) * blocks;
    float top = -INFINITY;
    for (int64_t block = 0; block < blocks; ++block) top = tops[block] > top ? tops[block] : top;
    double total = 0;
    for (int64_t block = 0; block < blocks; block += kLanes) {
      float part[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) part[lane] = block + lane < blocks ? tops[block + lane] - top : -INFINITY;
      store(part, exponential(load(part)));
      for (int lane = 0; lane < kLanes && block + lane < blocks; ++lane) {
        factors[block + lane] = part[lane];
        total += static_cast<double>(part[lane]) * sums[block + lane];
      }
    }
    for (int64_t block = 0; block < blocks; ++block) factors[block] = static_cast<float>(factors[block] / total);
  }
}

// 2, 1 or 0 for each block: it keeps kept_high, kept_low or no keys. ExactSelection is asked where a share is near a threshold.
XM_INLINE void classify(const SelectionCall& call, int64_t list, const float* factors, double* masses, uint8_t* classes,
                        ExactSelection& exact) {
  const int64_t blocks = call.prediction.blocks();
  double total = 0;
  const bool shared_max = call.largest && call.heads_a_list > 1;
  for (int64_t block = 0; block < blocks; ++block) {
    if (shared_max) {
      float weights[kWordKeys];
      combine(call, list, block, factors, weights);
      Floats sums{};
      for (int key = 0; key < kWordKeys; key += kLanes) sums += load(weights + key);
      masses[block] = sum(sums);
    } else {
      masses[block] = 0;
      for (int64_t i = 0; i < call.heads_a_list; ++i)
        masses[block] += static_cast<double>(factors[i * blocks + block]) * call.prediction.sums[call.row(list, i) * blocks + block];
    }
    total += masses[block];
  }
  const double blocks_a_row = static_cast<double>(call.prediction.keys) / kWordKeys, high = call.threshold_high * total,
               low = call.threshold_low * total;
  const auto near = [](double share, double limit) { return limit > 0 && std::fabs(share - limit) <= kShareMargin * limit + 1e-30; };
  for (int64_t block = 0; block < blocks; ++block) {
    const double share = masses[block] * blocks_a_row;
    if (near(share, high) || near(share, low)) return exact.classify(classes);
    classes[block] = share > high ? 2 : share < low ? 0 : 1;
  }
}

void select_xm(const SelectionCall& call, int64_t list) {
  const int64_t blocks = call.prediction.blocks(), heads = call.heads_a_list;
  char* scratch = static_cast<char*>(thread_scratch(blocks * (sizeof(double) + heads * sizeof(float) + 1)));
  double* masses = reinterpret_cast<double*>(scratch);
  float* factors = reinterpret_cast<float*>(masses + blocks);
  uint8_t* classes = reinterpret_cast<uint8_t*>(factors + heads * blocks);
  ExactSelection exact(call, list);
  make_factors(call, list, factors);
  classify(call, list, factors, masses, classes, exact);
  for (int64_t block = 0; block < blocks; ++block) {
    uint64_t* word = call.words + list * blocks + block;
    const int64_t kept = classes[block] == 2 ? call.kept_high : classes[block] == 1 ? call.kept_low : 0;
    const uint64_t allowed = allowed_word(call, list, block);
    if (kept == 0 || __builtin_popcountll(allowed) <= kept) {
      *word = kept ? allowed : 0;
      continue;
    }
    const float* values = call.prediction.scores + (call.row(list, 0) * blocks + block) * kWordKeys;
    float weights[kWordKeys];
    if (heads > 1) combine(call, list, block, factors, weights), values = weights;
    uint64_t doubtful;
    keep_largest(values, heads == 1, block_cut(values, kept), kept, &allowed, 1, block * kWordKeys, word, &doubtful, exact);
  }
}

void select_top(const SelectionCall& call, int64_t list) {
  const int64_t blocks = call.prediction.blocks(), heads = call.heads_a_list;
  char* scratch = static_cast<char*>(thread_scratch(blocks * (2 * sizeof(uint64_t) + heads * sizeof(float) + kWordKeys * sizeof(float))));
  uint64_t *allowed = reinterpret_cast<uint64_t*>(scratch), *doubtful = allowed + blocks, *words = call.words + list * blocks;
  float *factors = reinterpret_cast<float*>(doubtful + blocks), *weights = factors + heads * blocks;
  ExactSelection exact(call, list);
  int64_t seen = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    allowed[block] = allowed_word(call, list, block);
    seen += __builtin_popcountll(allowed[block]);
  }
  if (seen <= call.kept_high) {
    std::memcpy(words, allowed, blocks * sizeof(uint64_t));
    return;
  }
  const float* values = call.prediction.scores + call.row(list, 0) * blocks * kWordKeys;
  if (heads > 1) {
    make_factors(call, list, factors);
    for (int64_t block = 0; block < blocks; ++block) combine(call, list, block, factors, weights + block * kWordKeys);
    values = weights;
  }
  const float cut = cut_of(values, blocks * kWordKeys, call.kept_high);
  keep_largest(values, heads == 1, cut, call.kept_high, allowed, blocks, 0, words, doubtful, exact);
}

}  // namespace
}  // namespace xmsim
