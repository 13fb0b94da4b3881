// Low-bit codes of queries and keys: pruned, clamped, rounded as the reference does, and padded with zeros.
#include "low_bit.h"

namespace xmsim {
namespace {

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
    packed |= code_of(from[channel], limit, per_unit) << 8 * i;
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
