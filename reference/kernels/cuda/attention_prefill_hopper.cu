// Sparse attention of many queries on Hopper: the same as attention_prefill.cu, by products of warpgroups (wgmma).
//
// A block has 192 queries, 64 for each of its three warpgroups, and walks the tiles of 64 keys that are live for any of them; a warpgroup
// skips those that are dead for it. Why together: keys and values of a tile are 32 KiB, the products of a warpgroup with them 512 clocks,
// and the second cache gives a multiprocessor about 25 bytes a clock; fetched for each warpgroup alone they would take 1300 clocks.
//
// Four stages of shared memory. In step i a thread sees its copies for tile i + 1 landed and says so, waits until all threads said so of
// tile i, and fetches tile i + 2 over tile i - 2, which everybody has left who said so. Nobody waits for more than that: warpgroups may
// drift apart by a tile, so that one is at its softmax while others keep the tensor cores busy.
#include "attention_prefill.h"
#include "warpgroup.h"

namespace xmsim {
namespace {

constexpr int kGroups = 3;  // kTile queries each
constexpr int kThreads = kGroups * kGroupThreads;
constexpr int kStages = 4;

// 64 rows, in panels of 64 channels, as products read them.
template <int kDim>
using Rows = uint16_t[kDim / kTileColumns][kTile * kTileColumns];

template <int kDim>
struct PrefillShared {
  Rows<kDim> queries[kGroups], keys[kStages], values[kStages];
  PhaseBarrier landed[kStages];
};

#ifdef XM_HOPPER

constexpr int kPanelBytes = 2 * kTile * kTileColumns;
constexpr int kNone = -1;  // no tile

// The tiles that are live in any of the lists of neighbouring rows of tiles, in ascending order.
struct Union {
  const int* tiles;                                // of the first list
  int at[kGroups], left[kGroups], heads[kGroups];  // of each: where its next tile stands, how many are left, and the next

  XM_MEMBER void look(int g) { heads[g] = left[g] ? tiles[at[g]] : 0x7fffffff; }

  // 8 × the next tile, + 2^g for each list that has it; kNone after the last.
  XM_MEMBER int next() {
    int tile = heads[0], live = 0;
    XM_UNROLL(3)
    for (int g = 1; g < kGroups; ++g) tile = heads[g] < tile ? heads[g] : tile;
    if (tile == 0x7fffffff) return kNone;
    XM_UNROLL(3)
    for (int g = 0; g < kGroups; ++g) {
      if (heads[g] != tile) continue;
      live |= 1 << g;
      ++at[g];
      --left[g];
      look(g);
    }
    return tile << kGroups | live;
  }
};

// By the threads of one warpgroup.
template <int kDim>
XM_DEVICE void fetch_rows(Rows<kDim>& to, const uint16_t* from, int first, int rows) {
  constexpr int kParts = kDim / 8, kStep = kGroupThreads / kParts;  // rows at a time, a multiple of 8
  const int part = threadIdx.x % kParts, row = threadIdx.x % kGroupThreads / kParts;
  const uint16_t* source = from + static_cast<int64_t>(first + row) * kDim + 8 * part;  // beyond the last row nothing is read
  uint16_t* place = to[part / 8] + tile_place(row, part % 8);
  XM_UNROLL(8)
  for (int i = 0; i < kTile / kStep; ++i) {
    cp_async_16(place + i * kStep * kTileColumns, source + i * kStep * kDim, first + row + i * kStep < rows);
  }
}

template <class Element, int kDim>
XM_DEVICE void attend(const Prefill& job) {
  using Shared = PrefillShared<kDim>;
  const uint32_t misaligned = shared_address(shared_bytes()) % kTileAlignment;
  Shared& block = *reinterpret_cast<Shared*>(shared_bytes() + (misaligned ? kTileAlignment - misaligned : 0));
  const int tile_rows = ceil_div(job.queries, kTile);
  const int first_tile_row = (static_cast<int>(gridDim.x - blockIdx.x) - 1) * kGroups;  // the last queries see most keys: they go first
  const int group = shfl(static_cast<int>(threadIdx.x) / kGroupThreads, 0);  // of the whole warp, as the compiler then knows
  const int head = blockIdx.y, kv_head = head / (job.heads / job.kv_heads), mask = head / (job.heads / job.masks);
  const uint16_t* source = (group ? job.v : job.k) + static_cast<int64_t>(kv_head) * job.keys * kDim;
  const int64_t first_list = static_cast<int64_t>(mask) * tile_rows + first_tile_row;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) phase_init(block.landed[stage], kThreads / kWarp);
  }
  block_sync();

  Union walk;
  walk.tiles = job.tiles + first_list * job.key_words;
  XM_UNROLL(3)
  for (int g = 0; g < kGroups; ++g) {
    walk.at[g] = g * job.key_words;
    walk.left[g] = first_tile_row + g < tile_rows ? job.counts[first_list + g] : 0;
    walk.look(g);
  }
  const uint16_t* queries = job.q + static_cast<int64_t>(head) * job.queries * kDim;
  fetch_rows<kDim>(block.queries[group], queries, (first_tile_row + group) * kTile, job.queries);
  const auto fetch = [&](int entry, int stage) {  // the first warpgroup brings the keys, the second the values
    if (entry != kNone && group < 2) {
      fetch_rows<kDim>(group ? block.values[stage] : block.keys[stage], source, (entry >> kGroups) * kTile, job.keys);
    }
    cp_async_commit();
  };
  const auto say_landed = [&](int stage) {
    share_copies();
    warp_sync();
    if (lane() == 0) phase_arrive(block.landed[stage]);
  };
  int entry = walk.next(), next = walk.next();
  fetch(entry, 0);
  fetch(next, 1);
  cp_async_wait<1>();
  say_landed(0);

  const int first_row = (first_tile_row + group) * kTile + warp() % 4 * 16 + lane() / 4;
  const uint64_t* own_words = job.words + (static_cast<int64_t>(mask) * job.queries + first_row) * job.key_words;
  const float slope = job.slopes ? job.slopes[head] * kLog2E : 0.0f, scale = job.scale * kLog2E;
  const uint64_t own_queries = operand(shared_address(block.queries[group]), kPanelBytes);
  RowState state[2];
  float out[kDim / 8][4] = {};
  for (int i = 0; entry != kNone; ++i) {
    const int stage = i % kStages, tile = entry >> kGroups;
    cp_async_wait<0>();
    say_landed((i + 1) % kStages);
    phase_wait(block.landed[stage], i / kStages % 2);
    const int after_next = walk.next();
    fetch(after_next, (i + 2) % kStages);
    if (entry >> group & 1) {
      uint64_t kept[2];
      kept_keys(job, own_words, first_row, tile, kept);
      float scores[8][4];
      wgmma_fence(scores);
      const uint64_t tile_keys = operand(shared_address(block.keys[stage]), kPanelBytes);
      XM_UNROLL(8)
      for (int step = 0; step < kDim / 16; ++step) {
        const int bytes = step / 4 * kPanelBytes + step % 4 * 32;
        if (step == 0) {
          wgmma_shared<Element, false>(scores, own_queries, tile_keys);
        } else {
          wgmma_shared<Element, true>(scores, further(own_queries, bytes), further(tile_keys, bytes));
        }
      }
      wgmma_commit();
      wgmma_wait<0>(scores);
      float shrink[2];
      softmax_step(scores, kept, scale, slope, tile * kTile, state, shrink);
      if (ballot(shrink[0] != 1.0f || shrink[1] != 1.0f)) {
        XM_UNROLL(16)
        for (int n = 0; n < kDim / 8; ++n) {
          XM_UNROLL(4)
          for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
        }
      }
      uint32_t weights[kTile / 16][4];
      XM_UNROLL(4)
      for (int step = 0; step < kTile / 16; ++step) probabilities<Element>(scores, step, weights[step]);
      wgmma_fence(out, weights);
      const uint64_t tile_values = operand(shared_address(block.values[stage]), kPanelBytes);
      XM_UNROLL(4)
      for (int step = 0; step < kTile / 16; ++step) wgmma_rows<Element>(out, weights[step], further(tile_values, 2 * kEightRows * step));
      wgmma_commit();
      wgmma_wait<0>(out);
    }
    entry = next;
    next = after_next;
  }
  write_rows<Element>(job, head, first_row, out, state);
}

#endif

template <class Element, int kDim>
XM_KERNEL(kThreads) void prefill_hopper(Prefill job) {
#ifdef XM_HOPPER
  attend<Element, kDim>(job);
#else
  __trap();  // compiled for a GPU without such products
#endif
}

template <class Element, int kDim>
int launch_tiles(const Prefill& job, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(job.queries, kGroups * kTile)), static_cast<unsigned>(job.heads), 1};
  return launch(prefill_hopper<Element, kDim>, blocks, kThreads, sizeof(PrefillShared<kDim>) + kTileAlignment, stream, job);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The same as xm_cuda_attend_tiles, on GPUs of compute capability 9.0 only.
XM_API int xm_cuda_attend_tiles_hopper(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint64_t* words,
                                       const int* tiles, const int* counts, const float* slopes, uint16_t* out, int heads, int kv_heads,
                                       int masks, int queries, int keys, int dim, float scale, void* stream) {
  const Prefill job = {q, k, v, words, tiles, counts, slopes, out, heads, kv_heads, masks, queries, keys, ceil_div(keys, kTile), scale};
  const auto run = dim == 64 ? (half ? launch_tiles<Half, 64> : launch_tiles<Bf16, 64>)
                             : (half ? launch_tiles<Half, 128> : launch_tiles<Bf16, 128>);
  return run(job, stream);
}
