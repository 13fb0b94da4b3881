// Sparse attention of many queries on Hopper: the same as attention_prefill.cu, by products of warpgroups (wgmma).
//
// A block has 192 queries, 64 for each of three warpgroups, and walks the tiles of 64 keys that are live for any of them; a warpgroup
// skips those that are dead for it. Why together: keys and values of a tile are 32 KiB, the products of a warpgroup with them 512 clocks,
// and the second cache gives a multiprocessor about 25 bytes a clock; fetched for each warpgroup alone they would take 1300 clocks.
//
// A fourth warpgroup does nothing but bring tiles, into four stages of shared memory: it waits until all have left what a stage held, and
// says when the next tile has landed there. The others go through tiles in runs: while the probabilities of a tile are multiplied by its
// values, the scores of the next one are turned into probabilities. A warpgroup holds no more than two stages, and waits for nobody
// but the one that brings, so that no order of theirs can stop the block.
#include "attention_prefill.h"
#include "attention_products.h"

namespace xmsim {
namespace {

constexpr int kGroups = 3;  // that attend, kTile queries each
constexpr int kThreads = (kGroups + 1) * kGroupThreads;
constexpr unsigned kStages = 4;
constexpr int kFetchRegisters = 32, kAttendRegisters = 160;  // 32 + 3 × 160 = 4 × 128, which is all there are

template <int kDim>
struct PrefillShared {
  Rows<kDim> queries[kGroups], keys[kStages], values[kStages];
  uint64_t kept[kStages][kGroups * kTile];  // words of the mask, of live warpgroups
  int entries[kStages];                     // which tile, and whose
  PhaseBarrier landed[kStages], left[kStages];
};

#ifdef XM_HOPPER

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

template <int kDim>
XM_DEVICE void fetch(const Prefill& job, const Part& part, PrefillShared<kDim>& block) {
  const int thread = threadIdx.x % kGroupThreads;
  const int tile_rows = ceil_div(job.queries, kTile), first_tile_row = part.number * kGroups;
  const int64_t first_list = static_cast<int64_t>(part.mask) * tile_rows + first_tile_row;
  Union walk;
  walk.tiles = job.tiles + first_list * job.key_words;
  XM_UNROLL(3)
  for (int g = 0; g < kGroups; ++g) {
    walk.at[g] = g * job.key_words;
    walk.left[g] = first_tile_row + g < tile_rows ? job.counts[first_list + g] : 0;
    walk.look(g);
  }
  const int first_row = first_tile_row * kTile;
  const uint16_t* queries = job.q + static_cast<int64_t>(part.head) * job.queries * kDim;
  const uint16_t* keys = job.k + static_cast<int64_t>(part.kv_head) * job.keys * kDim;
  const uint16_t* values = job.v + static_cast<int64_t>(part.kv_head) * job.keys * kDim;
  const uint64_t* words = job.words + (static_cast<int64_t>(part.mask) * job.queries + first_row) * job.key_words;
  for (int g = 0; g < kGroups; ++g) fetch_rows<kDim>(block.queries[g], queries, first_row + g * kTile, job.queries);
  const auto say_landed = [&](unsigned i) {
    share_copies();
    warp_sync();
    if (lane() == 0) phase_arrive(block.landed[i % kStages]);
  };
  for (unsigned i = 0;; ++i) {
    const unsigned stage = i % kStages;
    const int entry = walk.next(), tile = entry >> kGroups;
    phase_wait(block.left[stage], (i / kStages + 1) % 2);  // of the tile before in this stage; of none, it has ended
    if (thread == 0) block.entries[stage] = entry;
    if (entry != kNone) {
      fetch_rows<kDim>(block.keys[stage], keys, tile * kTile, job.keys);
      fetch_rows<kDim>(block.values[stage], values, tile * kTile, job.keys);
      XM_UNROLL(2)
      for (int row = thread; row < kGroups * kTile; row += kGroupThreads) {
        if (entry >> row / kTile & 1) {
          cp_async_8(&block.kept[stage][row], words + static_cast<int64_t>(row) * job.key_words + tile, first_row + row < job.queries);
        }
      }
    }
    cp_async_commit();
    if (i) {
      cp_async_wait<1>();
      say_landed(i - 1);
    }
    if (entry != kNone) continue;
    cp_async_wait<0>();
    say_landed(i);
    return;
  }
}

template <class Element, int kDim>
XM_DEVICE void attend(const Prefill& job, const Part& part, PrefillShared<kDim>& block, int group) {
  const int own_row = warp() % 4 * 16 + lane() / 4;
  const float slope = job.slopes ? job.slopes[part.head] * kLog2E : 0.0f, scale = job.scale * kLog2E;
  const uint32_t own_queries = operand(shared_address(block.queries[group]));
  RowState state[2];
  float out[kDim / 8][4] = {}, scores[8][4], shrink[2];
  uint32_t weights[kTile / 16][4] = {};
  int last_tile = 0;

  const auto look = [&](unsigned i) {
    phase_wait(block.landed[i % kStages], i / kStages % 2);
    return block.entries[i % kStages];
  };
  const auto leave = [&](unsigned i) {
    warp_sync();
    if (lane() == 0) phase_arrive(block.left[i % kStages]);
  };
  const auto is_live = [&](int entry) { return entry != kNone && (entry >> group & 1); };
  const auto multiply_keys = [&](unsigned i) {
    products_with_keys<Element, kDim>(scores, own_queries, shared_address(block.keys[i % kStages]));
  };
  const auto multiply_values = [&](unsigned i) {
    products_with_values<Element>(out, weights, shared_address(block.values[i % kStages]));
  };
  const auto exponentiate = [&](unsigned i, int tile) {
    const uint64_t there = keys_there(job, tile);
    const uint64_t* words = &block.kept[i % kStages][group * kTile + own_row];
    const uint64_t kept[2] = {words[0] & there, words[8] & there};
    softmax_step(scores, kept, scale, slope, (tile - last_tile) * kTile, state, shrink);
    last_tile = tile;
  };

  unsigned i = 0;
  int entry = look(0);
  while (entry != kNone) {
    if (!is_live(entry)) {
      leave(i);
      entry = look(++i);
      continue;
    }
    wgmma_fence(scores);
    multiply_keys(i);
    wgmma_wait<0>(scores);
    exponentiate(i, entry >> kGroups);
    take_over<Element>(out, scores, shrink, weights);
    for (entry = look(++i); is_live(entry); entry = look(++i)) {
      wgmma_fence(scores, out, weights);
      multiply_keys(i);
      multiply_values(i - 1);
      wgmma_wait<1>(scores);
      exponentiate(i, entry >> kGroups);
      wgmma_wait<0>(out, state[0].sum + state[1].sum);
      leave(i - 1);
      take_over<Element>(out, scores, shrink, weights);
    }
    wgmma_fence(out, weights);
    multiply_values(i - 1);
    wgmma_wait<0>(out);
    leave(i - 1);
  }
  write_rows<Element>(job, part.head, (part.number * kGroups + group) * kTile + own_row, out, state);
}

#endif

template <class Element, int kDim>
XM_RESIDENT_KERNEL(kThreads, 1) void prefill_hopper(Prefill job) {
#ifdef XM_HOPPER
  using Shared = PrefillShared<kDim>;
  const uint32_t misaligned = shared_address(shared_bytes()) % kTileAlignment;
  Shared& block = *reinterpret_cast<Shared*>(shared_bytes() + (misaligned ? kTileAlignment - misaligned : 0));
  if (threadIdx.x == 0) {
    for (unsigned stage = 0; stage < kStages; ++stage) {
      phase_init(block.landed[stage], kGroupThreads / kWarp);
      phase_init(block.left[stage], kGroups * kGroupThreads / kWarp);
    }
  }
  block_sync();
  const Part part = part_of_block(job);
  const int group = shfl(static_cast<int>(threadIdx.x) / kGroupThreads, 0);  // of the whole warp, as the compiler then knows
  if (group == kGroups) {
    give_registers<kFetchRegisters>();
    fetch<kDim>(job, part, block);
  } else {
    take_registers<kAttendRegisters>();
    attend<Element, kDim>(job, part, block, group);
  }
#else
  __trap();  // compiled for a GPU without such products
#endif
}

template <class Element, int kDim>
int launch_tiles(const Prefill& job, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(job.queries, kGroups * kTile)) * job.heads, 1, 1};
  return launch(prefill_hopper<Element, kDim>, blocks, kThreads, sizeof(PrefillShared<kDim>) + kTileAlignment, stream, job);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The same as xm_cuda_attend_tiles, on GPUs of compute capability 9.0 only.
XM_API int xm_cuda_attend_tiles_hopper(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint64_t* words,
                                       const int* tiles, const int* counts, const float* slopes, uint16_t* out, int heads, int kv_heads,
                                       int masks, int heads_together, int queries, int keys, int dim, float scale, void* stream) {
  const int key_words = ceil_div(keys, kTile);
  const Prefill job = {q,        k,     v,       words, tiles,     counts,         slopes, out, heads,
                       kv_heads, masks, queries, keys,  key_words, heads_together, scale};
  const auto run = dim == 64 ? (half ? launch_tiles<Half, 64> : launch_tiles<Bf16, 64>)
                             : (half ? launch_tiles<Half, 128> : launch_tiles<Bf16, 128>);
  return run(job, stream);
}
