// Low-bit codes of queries and keys: pruned, clamped, rounded as the reference does, and padded with zeros.
#include "simt.h"

namespace xmsim {
namespace {

constexpr float kRounder = 12582912.0f;  // 1.5 × 2^23: what is added to it is rounded to an integer, halves to even, in its low bits

// Whether a channel is the first of largest magnitude in its group.
XM_DEVICE bool is_kept(const float* row, int channel, int group) {
  const int first = channel / group * group;
  const float own = fabsf(row[channel]);
  bool kept = true;
  for (int other = first; other < first + group; ++other) {
    const float magnitude = fabsf(row[other]);
    kept &= other < channel ? magnitude < own : magnitude <= own;
  }
  return kept;
}

// A thread makes four neighbouring codes, which are one word.
XM_KERNEL(256) void make_codes(const float* values, const float* top, const float* steps, int64_t rows_per_head, int64_t words, int dim,
                               int padded_dim, int group, uint32_t* codes) {
  const int64_t word = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (word >= words) return;
  const int words_per_row = padded_dim / 4, first = static_cast<int>(word % words_per_row) * 4;
  const int64_t row = word / words_per_row, head = row / rows_per_head;
  const float* from = values + row * dim;
  const float limit = top[head], per_unit = steps[head];
  uint32_t packed = 0;
  for (int i = 0; i < 4; ++i) {
    const int channel = first + i;
    if (channel >= dim || (group > 1 && !is_kept(from, channel, group))) continue;
    const float value = from[channel], clamped = value < -limit ? -limit : value > limit ? limit : value;
    packed |= (bits_of_float(times(clamped, per_unit) + kRounder) & 0xffu) << 8 * i;
  }
  codes[word] = packed;
}

}  // namespace
}  // namespace xmsim

// values [heads, rows_per_head, dim] -> codes [heads, rows_per_head, padded_dim]; top and steps [heads].
XM_API int xm_cuda_make_codes(const float* values, const float* top, const float* steps, int64_t heads, int64_t rows_per_head, int dim,
                              int padded_dim, int group, void* codes, void* stream) {
  using namespace xmsim;
  const int64_t words = heads * rows_per_head * padded_dim / 4;
  return launch(make_codes, {static_cast<unsigned>(ceil_div<int64_t>(words, 256)), 1, 1}, 256, 0, stream, values, top, steps, rows_per_head,
                words, dim, padded_dim, group, static_cast<uint32_t*>(codes));
}
