// The mask kernels in plain C++: for processors without AVX2, and those that are no x86.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "isa.h"
#include "mask_job.h"
#include "team.h"

#define XM_SET

namespace xmsim {
namespace {

constexpr int kDotRows = 2;  // rows whose sums are kept in registers together

struct V {
  float x[16];
};

#define XM_EACH(expression)                      \
  V result;                                      \
  for (int i = 0; i < 16; ++i) result.x[i] = expression; \
  return result
XM_INLINE V set(float x) { XM_EACH(x); }
XM_INLINE V load(const float* p) { XM_EACH(p[i]); }
XM_INLINE V load_first(const float* p, int64_t n, float fill) { XM_EACH(i < n ? p[i] : fill); }
XM_INLINE V add(const V& a, const V& b) { XM_EACH(a.x[i] + b.x[i]); }
XM_INLINE V sub(const V& a, const V& b) { XM_EACH(a.x[i] - b.x[i]); }
XM_INLINE V mul(const V& a, const V& b) { XM_EACH(a.x[i] * b.x[i]); }
XM_INLINE V multiply_add(const V& a, const V& b, const V& c) { XM_EACH(a.x[i] * b.x[i] + c.x[i]); }
XM_INLINE V max(const V& a, const V& b) { XM_EACH(a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
XM_INLINE V min(const V& a, const V& b) { XM_EACH(a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
XM_INLINE V where_less(const V& a, const V& limit, const V& instead) { XM_EACH(a.x[i] < limit.x[i] ? a.x[i] : instead.x[i]); }
XM_INLINE V shifted_to_exponent(const V& a) {
  V result;
  uint32_t bits[16];
  std::memcpy(bits, a.x, sizeof bits);
  for (uint32_t& word : bits) word <<= 23;
  std::memcpy(result.x, bits, sizeof bits);
  return result;
}
#undef XM_EACH
XM_INLINE void store(float* p, const V& a) { std::memcpy(p, a.x, sizeof a.x); }
XM_INLINE float total(V a) {  // always in this order, so that sums are the same on every instruction set
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.x[i] += a.x[i + width];
  return a.x[0];
}
XM_INLINE float largest(V a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.x[i] = a.x[i] > a.x[i + width] ? a.x[i] : a.x[i + width];
  return a.x[0];
}
XM_INLINE uint64_t ge_bits(const V& a, const V& b) {
  uint64_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<uint64_t>(a.x[i] >= b.x[i]) << i;
  return bits;
}
XM_INLINE int bit_count(uint64_t bits) { return __builtin_popcountll(bits); }
XM_INLINE uint64_t first_bits(uint64_t bits, int count) {
  uint64_t first = 0;
  for (; count > 0 && bits; --count, bits &= bits - 1) first |= bits & (~bits + 1);
  return first;
}

#include "mask_scores.h"
#include "mask_rows.h"
#include "mask_tiles.h"

}  // namespace

void make_masks_portable(const MaskJob& job, int threads) { make_masks(job, threads); }

}  // namespace xmsim
