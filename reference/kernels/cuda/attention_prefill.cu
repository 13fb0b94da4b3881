// Sparse attention of many queries: tiles of 64 queries × 64 keys without a kept pair are skipped, pairs that are not kept are masked in
// the others. Scores, softmax and output of a tile stay in registers; keys and values of the next tile are fetched meanwhile.
#include "attention_prefill.h"
#include "attention_rows.h"

namespace xmsim {
namespace {

constexpr int kWarps = 4;  // 16 queries each
constexpr int kThreads = kWarps * kWarp;

template <int kDim>
struct PrefillShared {
  uint16_t keys[2][kTile * kDim];
  uint16_t values[2][kTile * kDim];
};

template <int kDim>
XM_DEVICE void fetch_rows(uint16_t* to, const uint16_t* from, int first, int rows) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = first + row < rows;
    cp_async_16(to + place<kDim>(row, chunk), from + static_cast<int64_t>(there ? first + row : 0) * kDim + 8 * chunk, there);
  }
}

template <class Element, int kDim>
XM_KERNEL(kThreads) void prefill_tiles(Prefill job) {
  using Shared = PrefillShared<kDim>;
  Shared& block = shared<Shared>();
  constexpr int kSteps = kDim / 16;  // of mma over the channels
  const auto [head, kv_head, mask, tile_row] = part_of_block(job);
  const int first_query = tile_row * kTile;
  const uint16_t* keys = job.k + static_cast<int64_t>(kv_head) * job.keys * kDim;
  const uint16_t* values = job.v + static_cast<int64_t>(kv_head) * job.keys * kDim;
  const int64_t list = static_cast<int64_t>(mask) * ceil_div(job.queries, kTile) + tile_row;
  const int* tiles = job.tiles + list * job.key_words;
  const int count = job.counts[list];

  // the queries of this warp, as mma takes them, by way of shared memory
  fetch_rows<kDim>(block.keys[1], job.q + static_cast<int64_t>(head) * job.queries * kDim, first_query, job.queries);
  if (count) {
    fetch_rows<kDim>(block.keys[0], keys, tiles[0] * kTile, job.keys);
    fetch_rows<kDim>(block.values[0], values, tiles[0] * kTile, job.keys);
  }
  cp_async_commit();
  cp_async_wait<0>();
  block_sync();
  uint32_t queries[kSteps][4];
  XM_UNROLL(8)
  for (int step = 0; step < kSteps; ++step) {
    // matrices in the order of the registers: rows 0-7 and 8-15 of the first eight channels, then of the next
    ldmatrix_4(queries[step], block.keys[1] + place<kDim>(16 * warp() + lane() % 16, 2 * step + lane() / 16));
  }
  block_sync();

  const int first_row = first_query + 16 * warp() + lane() / 4;
  const uint64_t* own_words = job.words + (static_cast<int64_t>(mask) * job.queries + first_row) * job.key_words;
  const float slope = job.slopes ? job.slopes[head] * kLog2E : 0.0f, scale = job.scale * kLog2E;
  RowState state[2];
  float out[kDim / 8][4] = {};
  int last_tile = 0;
  for (int i = 0; i < count; ++i) {
    const int buffer = i % 2, tile = tiles[i];
    if (i + 1 < count) {
      fetch_rows<kDim>(block.keys[1 - buffer], keys, tiles[i + 1] * kTile, job.keys);
      fetch_rows<kDim>(block.values[1 - buffer], values, tiles[i + 1] * kTile, job.keys);
      cp_async_commit();
    }
    uint64_t kept[2];
    kept_keys(job, own_words, first_row, tile, kept);
    float scores[8][4] = {};
    XM_UNROLL(8)
    for (int n = 0; n < 8; ++n) {
      XM_UNROLL(4)
      for (int step = 0; step < kSteps; step += 2) {
        uint32_t b[4];  // of two steps: four times eight channels of eight keys
        ldmatrix_4(b, block.keys[buffer] + place<kDim>(8 * n + lane() % 8, 2 * step + lane() / 8));
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mma<Element>(scores[n], queries[step], first);
        mma<Element>(scores[n], queries[step + 1], second);
      }
    }
    float shrink[2];
    softmax_step(scores, kept, scale, slope, (tile - last_tile) * kTile, state, shrink);
    last_tile = tile;
    XM_UNROLL(16)
    for (int n = 0; n < kDim / 8; ++n) {
      XM_UNROLL(4)
      for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
    }
    XM_UNROLL(4)
    for (int step = 0; step < kTile / 16; ++step) {
      uint32_t a[4];
      probabilities<Element>(scores, step, a);
      XM_UNROLL(8)
      for (int n = 0; n < kDim / 8; n += 2) {
        uint32_t b[4];  // keys 0-7 and 8-15 of eight channels, then of the next eight
        ldmatrix_4_transposed(b, block.values[buffer] + place<kDim>(16 * step + lane() % 16, n + lane() / 16));
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mma<Element>(out[n], a, first);
        mma<Element>(out[n + 1], a, second);
      }
    }
    cp_async_wait<0>();
    block_sync();
  }
  write_rows<Element>(job, head, first_row, out, state);
}

template <class Element, int kDim>
int launch_tiles(const Prefill& job, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(job.queries, kTile)) * job.heads, 1, 1};
  return launch(prefill_tiles<Element, kDim>, blocks, kThreads, sizeof(PrefillShared<kDim>), stream, job);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// dim is 64 or 128; heads is a multiple of kv_heads, of masks and of heads_together.
XM_API int xm_cuda_attend_tiles(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint64_t* words, const int* tiles,
                                const int* counts, const float* slopes, uint16_t* out, int heads, int kv_heads, int masks,
                                int heads_together, int queries, int keys, int dim, float scale, void* stream) {
  const int key_words = ceil_div(keys, kTile);
  const Prefill job = {q,        k,     v,       words, tiles,     counts,         slopes, out, heads,
                       kv_heads, masks, queries, keys,  key_words, heads_together, scale};
  const auto run = dim == 64 ? (half ? launch_tiles<Half, 64> : launch_tiles<Bf16, 64>)
                             : (half ? launch_tiles<Half, 128> : launch_tiles<Bf16, 128>);
  return run(job, stream);
}
