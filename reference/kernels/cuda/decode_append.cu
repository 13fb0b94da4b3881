// The newest token of each sequence of a batch into its place: key, value and, where there is a few-bit copy of the keys, its code.
#include "linear_elements.h"
#include "low_bit.h"

namespace xmsim {
namespace {

constexpr int kThreads = 256;
constexpr int kEight = 8;  // channels of a thread
constexpr int kBlockKeys = 64;  // whose codes lie together

struct Append {
  const uint16_t *k, *v;    // [sequences, kv_heads, dim]
  uint16_t *keys, *values;  // [sequences, kv_heads, room, channels]
  uint32_t* codes;          // [sequences, kv_heads, code_blocks, words, 64] as decode_scores.cu has them, or none
  int* lengths;             // [sequences], one more where there are some, even where there is no room for it
  int kv_heads, dim, room, channels, code_blocks, code_bits;
  float limit, per_unit;
};

// A block of threads takes a sequence: all its threads have read its length before one of them changes it.
template <class Element>
XM_KERNEL(kThreads) void append_token(Append job) {
  let_next_start();
  const int sequence = blockIdx.x, at = job.lengths[sequence], eights = job.channels / kEight;
  block_sync();
  if (at <= 0) return;
  if (threadIdx.x == 0) job.lengths[sequence] = at + 1;
  if (at >= job.room) return;
  for (int i = threadIdx.x; i < job.kv_heads * eights; i += kThreads) {
    const int eight = i % eights;
    const int64_t head = static_cast<int64_t>(sequence) * job.kv_heads + i / eights, to = (head * job.room + at) * job.channels;
    uint32_t bytes[kEight];
    XM_UNROLL(8)
    for (int n = 0; n < kEight; ++n) {
      const int channel = eight * kEight + n;
      const bool there = channel < job.dim;
      const uint16_t key = there ? job.k[head * job.dim + channel] : uint16_t{0};
      bytes[n] = code_of(value_of<Element>(key), job.limit, job.per_unit);
      if (there) {
        job.keys[to + channel] = key;
        job.values[to + channel] = job.v[head * job.dim + channel];
      }
    }
    if (!job.codes) continue;
    const int words = job.channels * job.code_bits / 32;
    uint32_t* own = job.codes + (head * job.code_blocks + at / kBlockKeys) * words * kBlockKeys + at % kBlockKeys;
    uint32_t first = 0, second = 0;
    XM_UNROLL(4)
    for (int n = 0; n < 4; ++n) {
      if (job.code_bits == 4) {
        first |= (((bytes[n] + 8) & 0xf) | ((bytes[n + 4] + 8) & 0xf) << 4) << 8 * n;
      } else {
        first |= bytes[n] << 8 * n;
        second |= bytes[n + 4] << 8 * n;
      }
    }
    if (job.code_bits == 4) {
      own[eight * kBlockKeys] = first;
    } else {
      own[2 * eight * kBlockKeys] = first;
      own[(2 * eight + 1) * kBlockKeys] = second;
    }
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// channels is 64 or 128, dim at most that; room at most 2^24.
XM_API int xm_cuda_append_token(int half, const uint16_t* k, const uint16_t* v, uint16_t* keys, uint16_t* values, uint32_t* codes, int* lengths,
                                int sequences, int kv_heads, int dim, int room, int channels, int code_blocks, int code_bits, float limit,
                                float per_unit, void* stream) {
  const Append job = {k, v, keys, values, codes, lengths, kv_heads, dim, room, channels, code_blocks, code_bits, limit, per_unit};
  const dim3 blocks = {static_cast<unsigned>(sequences), 1, 1};
  return launch(half ? append_token<Half> : append_token<Bf16>, blocks, kThreads, 0, stream, job);
}
