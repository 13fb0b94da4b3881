// Attention of one query a head on the keys of a cache that are kept: rows are gathered, 16 bytes a lane, and read once for all query heads
// that share them. The list of live blocks is cut into splits, whose results are merged in their order.
#include "attention_softmax.h"
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlockKeys = 64;
constexpr int kDeep = 4;  // keys of a lane that are read together, with their values

struct Decode {
  const uint16_t *q, *k, *v;  // [heads, d], [kv_heads, room, d] twice
  const uint64_t* words;      // [masks, key_words]: kept keys
  const int *blocks, *counts;  // [kv_heads, key_words] and [kv_heads]: blocks in which a query head of the group keeps a key
  const float* slopes;         // [heads], or none: ALiBi
  float *tops, *sums, *parts;  // [splits, heads] twice, [splits, heads, d]
  int kv_heads, masks, keys, room, key_words;
  float scale;
};

template <int kHeads, int kDim>
struct DecodeShared {
  uint16_t keys[kWarps][kBlockKeys];  // places of kept keys in a block
  uint8_t keeps[kWarps][kBlockKeys];  // a bit for each query head that keeps it
  float tops[kWarps][kHeads], sums[kWarps][kHeads];
  float out[kWarps][kHeads][kDim];
};

// State of the softmax of the query heads of a group; scores in units of log 2.
template <int kHeads>
struct GroupState {
  float tops[kHeads], sums[kHeads], out[kHeads][8];
};

template <class Element>
XM_DEVICE void eight_of(const uint4& words, float (&numbers)[8]) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  XM_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    numbers[2 * i] = low_of<Element>(pairs[i]);
    numbers[2 * i + 1] = high_of<Element>(pairs[i]);
  }
}

XM_DEVICE float finite_or_zero(float x) { return x == -INFINITY ? 0.0f : x; }

// Kept keys of a block in ascending order, with who keeps them; how many there are.
template <int kHeads>
XM_DEVICE int list_keys(const Decode& job, int kv_head, int block, uint16_t* keys, uint8_t* keeps) {
  const int own_masks = job.masks / job.kv_heads;  // 1, or one for each query head
  uint64_t words[kHeads], any = 0;
  const int left = job.keys - block * kBlockKeys;
  XM_UNROLL(8)
  for (int h = 0; h < kHeads; ++h) {
    const int64_t mask = static_cast<int64_t>(kv_head) * own_masks + (own_masks == 1 ? 0 : h);
    words[h] = job.words[mask * job.key_words + block];
    if (left < kBlockKeys) words[h] &= (uint64_t{1} << left) - 1;
    any |= words[h];
  }
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    const int key = lane() + kWarp * half;
    if (!(any >> key & 1)) continue;
    const int at = popcount(any & ((uint64_t{1} << key) - 1));
    uint32_t heads = 0;
    XM_UNROLL(8)
    for (int h = 0; h < kHeads; ++h) heads |= static_cast<uint32_t>(words[h] >> key & 1) << h;
    keys[at] = static_cast<uint16_t>(key);
    keeps[at] = static_cast<uint8_t>(heads);
  }
  return popcount(any);
}

// A block of threads takes one split of a KV head's live blocks; a warp every fourth of them; some lanes a key.
template <class Element, int kHeads, int kDim>
XM_KERNEL(kThreads) void decode_blocks(Decode job) {
  using Shared = DecodeShared<kHeads, kDim>;
  Shared& block = shared<Shared>();
  constexpr int kLanes = kDim / 8;        // lanes of a key
  constexpr int kBeside = kWarp / kLanes;  // keys that a warp takes beside each other
  const int kv_head = blockIdx.x, split = blockIdx.y, own = lane() % kLanes, beside = lane() / kLanes;
  const int64_t count = job.counts[kv_head];
  const int64_t first = count * split / gridDim.y, last = count * (split + 1) / gridDim.y;
  const int* blocks = job.blocks + static_cast<int64_t>(kv_head) * job.key_words;
  const int64_t rows = static_cast<int64_t>(kv_head) * job.room;
  float query[kHeads][8], slope[kHeads];
  GroupState<kHeads> state;
  XM_UNROLL(8)
  for (int h = 0; h < kHeads; ++h) {
    const int head = kv_head * kHeads + h;
    eight_of<Element>(*reinterpret_cast<const uint4*>(job.q + static_cast<int64_t>(head) * kDim + 8 * own), query[h]);
    slope[h] = job.slopes ? job.slopes[head] * kLog2E : 0.0f;
    state.tops[h] = -INFINITY;
    state.sums[h] = 0;
    XM_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      state.out[h][i] = 0;
      query[h][i] *= job.scale * kLog2E;
    }
  }
  for (int64_t at = first + warp(); at < last; at += kWarps) {
    const int tile = blocks[at];
    const int kept = list_keys<kHeads>(job, kv_head, tile, block.keys[warp()], block.keeps[warp()]);
    warp_sync();
    for (int start = 0; start < kept; start += kDeep * kBeside) {
      uint4 keys[kDeep], values[kDeep];
      uint32_t keeps[kDeep];
      float positions[kDeep];
      XM_UNROLL(4)
      for (int n = 0; n < kDeep; ++n) {
        const int listed = start + n * kBeside + beside;
        const bool there = listed < kept;
        const int key = tile * kBlockKeys + (there ? block.keys[warp()][listed] : 0);
        keeps[n] = there ? block.keeps[warp()][listed] : 0;
        positions[n] = static_cast<float>(key);
        keys[n] = there ? stream_16(job.k + (rows + key) * kDim + 8 * own) : uint4{0, 0, 0, 0};
        values[n] = there ? stream_16(job.v + (rows + key) * kDim + 8 * own) : uint4{0, 0, 0, 0};
      }
      float scores[kDeep][kHeads];
      XM_UNROLL(4)
      for (int n = 0; n < kDeep; ++n) {
        float numbers[8];
        eight_of<Element>(keys[n], numbers);
        XM_UNROLL(8)
        for (int h = 0; h < kHeads; ++h) {
          float sum = 0;
          XM_UNROLL(8)
          for (int i = 0; i < 8; ++i) sum = fused(query[h][i], numbers[i], sum);
          sum = lanes_sum(sum, kLanes) + slope[h] * positions[n];
          scores[n][h] = keeps[n] >> h & 1 ? sum : -INFINITY;
        }
      }
      XM_UNROLL(8)
      for (int h = 0; h < kHeads; ++h) {
        float top = state.tops[h];
        XM_UNROLL(4)
        for (int n = 0; n < kDeep; ++n) top = scores[n][h] > top ? scores[n][h] : top;
        const float base = finite_or_zero(top), shrink = exp2_fast(state.tops[h] - base);
        state.tops[h] = top;
        state.sums[h] *= shrink;
        XM_UNROLL(8)
        for (int i = 0; i < 8; ++i) state.out[h][i] *= shrink;
        XM_UNROLL(4)
        for (int n = 0; n < kDeep; ++n) {
          scores[n][h] = exp2_fast(scores[n][h] - base);
          state.sums[h] += scores[n][h];
        }
      }
      XM_UNROLL(4)
      for (int n = 0; n < kDeep; ++n) {
        float numbers[8];
        eight_of<Element>(values[n], numbers);
        XM_UNROLL(8)
        for (int h = 0; h < kHeads; ++h) {
          XM_UNROLL(8)
          for (int i = 0; i < 8; ++i) state.out[h][i] = fused(scores[n][h], numbers[i], state.out[h][i]);
        }
      }
    }
    warp_sync();
  }
  // the lanes beside each other, then the warps
  XM_UNROLL(8)
  for (int h = 0; h < kHeads; ++h) {
    XM_UNROLL(2)
    for (int by = kLanes; by < kWarp; by *= 2) {
      const float other = shfl_xor(state.tops[h], by), other_sum = shfl_xor(state.sums[h], by);
      const float top = other > state.tops[h] ? other : state.tops[h], base = finite_or_zero(top);
      const float mine = exp2_fast(state.tops[h] - base), theirs = exp2_fast(other - base);
      state.tops[h] = top;
      state.sums[h] = state.sums[h] * mine + other_sum * theirs;
      XM_UNROLL(8)
      for (int i = 0; i < 8; ++i) state.out[h][i] = state.out[h][i] * mine + shfl_xor(state.out[h][i], by) * theirs;
    }
    if (beside == 0) {
      XM_UNROLL(8)
      for (int i = 0; i < 8; ++i) block.out[warp()][h][8 * own + i] = state.out[h][i];
      if (own == 0) {
        block.tops[warp()][h] = state.tops[h];
        block.sums[warp()][h] = state.sums[h];
      }
    }
  }
  block_sync();
  for (int i = threadIdx.x; i < kHeads * kDim; i += kThreads) {
    const int h = i / kDim, channel = i % kDim;
    float top = -INFINITY, sum = 0, out = 0;
    for (int w = 0; w < kWarps; ++w) top = block.tops[w][h] > top ? block.tops[w][h] : top;
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2_fast(block.tops[w][h] - finite_or_zero(top));
      sum += block.sums[w][h] * factor;
      out += block.out[w][h][channel] * factor;
    }
    const int64_t place = static_cast<int64_t>(split) * job.kv_heads * kHeads + kv_head * kHeads + h;
    job.parts[place * kDim + channel] = out;
    if (channel == 0) {
      job.tops[place] = top;
      job.sums[place] = sum;
    }
  }
}

// The splits of a head, in their order. A block takes a head, a thread a channel.
template <class Element>
XM_KERNEL(128) void merge_splits(const float* tops, const float* sums, const float* parts, int splits, int heads, int dim, uint16_t* out) {
  const int head = blockIdx.x, channel = threadIdx.x;
  if (channel >= dim) return;
  float top = -INFINITY, sum = 0, value = 0;
  for (int split = 0; split < splits; ++split) {
    const float own = tops[static_cast<int64_t>(split) * heads + head];
    top = own > top ? own : top;
  }
  for (int split = 0; split < splits; ++split) {
    const int64_t place = static_cast<int64_t>(split) * heads + head;
    const float factor = exp2_fast(tops[place] - finite_or_zero(top));
    sum += sums[place] * factor;
    value += parts[place * dim + channel] * factor;
  }
  out[static_cast<int64_t>(head) * dim + channel] = bits_of<Element>(sum > 0 ? value / sum : 0.0f);
}

template <class Element, int kHeads>
int launch_decode(const Decode& job, int dim, int splits, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(job.kv_heads), static_cast<unsigned>(splits), 1};
  if (dim == 64) return launch(decode_blocks<Element, kHeads, 64>, blocks, kThreads, sizeof(DecodeShared<kHeads, 64>), stream, job);
  return launch(decode_blocks<Element, kHeads, 128>, blocks, kThreads, sizeof(DecodeShared<kHeads, 128>), stream, job);
}

template <class Element>
int launch_group(const Decode& job, int heads_a_group, int dim, int splits, void* stream) {
  if (heads_a_group == 1) return launch_decode<Element, 1>(job, dim, splits, stream);
  if (heads_a_group == 2) return launch_decode<Element, 2>(job, dim, splits, stream);
  if (heads_a_group == 4) return launch_decode<Element, 4>(job, dim, splits, stream);
  return launch_decode<Element, 8>(job, dim, splits, stream);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// dim is 64 or 128, heads / kv_heads 1, 2, 4 or 8, masks kv_heads or heads; tops, sums [splits, heads], parts [splits, heads, dim].
XM_API int xm_cuda_decode_blocks(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint64_t* words, const int* blocks,
                                 const int* counts, const float* slopes, float* tops, float* sums, float* parts, int heads, int kv_heads,
                                 int masks, int keys, int room, int dim, int splits, float scale, void* stream) {
  const Decode job = {q, k, v, words, blocks, counts, slopes, tops, sums, parts, kv_heads, masks, keys, room, ceil_div(keys, kBlockKeys), scale};
  return (half ? launch_group<Half> : launch_group<Bf16>)(job, heads / kv_heads, dim, splits, stream);
}

XM_API int xm_cuda_merge_splits(int half, const float* tops, const float* sums, const float* parts, int splits, int heads, int dim,
                                uint16_t* out, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(heads), 1, 1};
  return launch(half ? merge_splits<Half> : merge_splits<Bf16>, blocks, 128, 0, stream, tops, sums, parts, splits, heads, dim, out);
}
