// Sparse attention of many queries on Hopper where the query heads of one or more KV heads share a mask: products of warpgroups (wgmma) with
// gathered keys.
//
// A warpgroup's 64 rows are all heads of a group at a few neighbouring queries, 16 where 4 heads share. A block has two warpgroups that
// attend; 64 at a time it gathers the keys, and their values, that any of its queries keeps (attention_unions.cu), so that what is left of a
// tile, and not the whole tile, is fetched, multiplied and weighed. Both share what is gathered: a row of keys and values is 512 bytes, 20
// clocks of the second cache, and 14 of the tensor cores for each of them.
//
// A third warpgroup does nothing but gather, into four stages; how it and the others wait for each other, and how products overlap with
// the softmax of the next step, is as in attention_prefill_hopper.cu. Here every step is both warpgroups' own.
#include "attention_products.h"

namespace xmsim {
namespace {

constexpr int kGroups = 2;  // that attend, kTile rows each
constexpr int kThreads = (kGroups + 1) * kGroupThreads;
constexpr int kStages = 4;
constexpr int kMostPositions = kTile / 2;  // queries of a warpgroup, where two heads share

struct SharedPrefill {
  const uint16_t *q, *k, *v;  // [heads, queries, d], [kv_heads, keys, d] twice
  const uint16_t* picks;      // as xm_cuda_pack_unions makes them of 128 / (heads / kv_heads) positions
  const uint64_t* packed;
  const int* counts;
  uint16_t* out;  // [heads, queries, d]
  int heads, kv_heads, masks, queries, keys, key_words;
  float scale;
};

template <int kDim>
struct GatherShared {
  Rows<kDim> queries[kGroups], keys[kStages], values[kStages];
  uint64_t kept[kStages][kGroups * kMostPositions];  // which keys of a step a query keeps
  PhaseBarrier landed[kStages], left[kStages];
};

#ifdef XM_HOPPER

constexpr int kFetchRegisters = 40, kAttendRegisters = 232;  // 40 + 2 × 232 = 3 × 168, which is all there are

// What a block attends to.
struct Part {
  int share, positions, first_query, first_head, kv_head, steps;  // heads of a group, queries of a warpgroup
  int64_t list;

  XM_MEMBER explicit Part(const SharedPrefill& job) {
    const int tile = static_cast<int>(gridDim.x - blockIdx.x) - 1;  // the last queries see most keys: they go first
    share = job.heads / job.kv_heads;
    positions = kTile / share;
    first_query = tile * kGroups * positions;
    kv_head = blockIdx.y;
    first_head = kv_head * share;
    list = static_cast<int64_t>(kv_head / (job.kv_heads / job.masks)) * gridDim.x + tile;
    steps = job.counts[list];
  }

  // Row r of a warpgroup is head r / positions of the group and query r % positions.
  XM_MEMBER int query(int group, int row) const { return first_query + group * positions + row % positions; }
  XM_MEMBER int head(int row) const { return first_head + row / positions; }
};

// Eight keys of a step, of rows that are 8 from each other.
struct Picks {
  uint4 pairs = {};

  XM_MEMBER int key(int i) const {
    const uint32_t pair = i / 2 == 0 ? pairs.x : i / 2 == 1 ? pairs.y : i / 2 == 2 ? pairs.z : pairs.w;
    return static_cast<int>(i % 2 ? pair >> 16 : pair & 0xffff);
  }
};

template <int kDim>
XM_DEVICE void gather(const SharedPrefill& job, const Part& part, GatherShared<kDim>& block) {
  constexpr int kParts = kDim / 8, kApart = kGroupThreads / kParts, kOwn = kTile / kApart;  // a thread's rows are kApart apart: 8 or 16
  const int thread = threadIdx.x % kGroupThreads, own_part = thread % kParts, first_row = thread / kParts;
  const auto place = [&](Rows<kDim>& to) { return to[own_part / 8] + tile_place(first_row, own_part % 8); };
  const int64_t source = static_cast<int64_t>(part.kv_head) * job.keys * kDim + 8 * own_part;
  const uint16_t *keys = job.k + source, *values = job.v + source;
  const uint4* picks = reinterpret_cast<const uint4*>(job.picks + part.list * job.key_words * kTile) + first_row % 8;
  const int words = kGroups * part.positions;  // of a step
  const uint64_t* packed = job.packed + part.list * job.key_words * words + 2 * thread;
  for (int group = 0; group < kGroups; ++group) {
    for (int i = 0; i < kOwn; ++i) {
      const int row = first_row + kApart * i, query = part.query(group, row);
      const bool there = query < job.queries;
      const uint16_t* from = job.q + (static_cast<int64_t>(part.head(row)) * job.queries + (there ? query : 0)) * kDim + 8 * own_part;
      cp_async_16(place(block.queries[group]) + i * kApart * kTileColumns, from, there);
    }
  }
  const auto say_landed = [&](int i) {
    share_copies();
    warp_sync();
    if (lane() == 0) phase_arrive(block.landed[i % kStages]);
  };
  Picks ahead = part.steps ? Picks{picks[0]} : Picks{};
  for (int i = 0; i < part.steps; ++i) {
    const int stage = i % kStages;
    const Picks now = ahead;
    if (i + 1 < part.steps) ahead = {picks[8 * (i + 1)]};
    phase_wait(block.left[stage], (i / kStages + 1) % 2);  // of the step before in this stage; of none, it has ended
    uint16_t *to_keys = place(block.keys[stage]), *to_values = place(block.values[stage]);
    XM_UNROLL(8)
    for (int own = 0; own < kOwn; ++own) {
      const int key = kApart == 8 ? now.key(own) : first_row < 8 ? now.key(2 * own) : now.key(2 * own + 1);
      cp_async_16(to_keys + own * kApart * kTileColumns, keys + key * kDim, true);
      cp_async_16(to_values + own * kApart * kTileColumns, values + key * kDim, true);
    }
    if (2 * thread < words) cp_async_16(&block.kept[stage][2 * thread], packed + static_cast<int64_t>(i) * words, true);
    cp_async_commit();
    if (i) {
      cp_async_wait<1>();
      say_landed(i - 1);
    }
  }
  cp_async_wait<0>();
  if (part.steps) say_landed(part.steps - 1);
}

template <class Element, int kDim>
XM_DEVICE void attend(const SharedPrefill& job, const Part& part, GatherShared<kDim>& block, int group) {
  const int own_row = warp() % 4 * 16 + lane() / 4;
  const int places[2] = {group * part.positions + own_row % part.positions, group * part.positions + (own_row + 8) % part.positions};
  const float scale = job.scale * kLog2E;
  const uint32_t queries = operand(shared_address(block.queries[group]));
  RowState state[2];
  float out[kDim / 8][4] = {}, scores[8][4], shrink[2];
  uint32_t weights[kTile / 16][4] = {};

  const auto wait = [&](int i) { phase_wait(block.landed[i % kStages], i / kStages % 2); };
  const auto multiply_keys = [&](int i) { products_with_keys<Element, kDim>(scores, queries, shared_address(block.keys[i % kStages])); };
  const auto multiply_values = [&](int i) {
    products_with_values<Element>(out, weights, shared_address(block.values[i % kStages]));
  };
  const auto exponentiate = [&](int i) {
    const uint64_t kept[2] = {block.kept[i % kStages][places[0]], block.kept[i % kStages][places[1]]};
    softmax_step(scores, kept, scale, 0.0f, 0, state, shrink);
  };
  if (part.steps) {
    wait(0);
    wgmma_fence(scores);
    multiply_keys(0);
    wgmma_wait<0>(scores);
    exponentiate(0);
    take_over<Element>(out, scores, shrink, weights);
    for (int i = 1; i < part.steps; ++i) {
      wait(i);
      wgmma_fence(scores, out, weights);
      multiply_keys(i);
      multiply_values(i - 1);
      wgmma_wait<1>(scores);
      exponentiate(i);
      wgmma_wait<0>(out, state[0].sum + state[1].sum);
      warp_sync();
      if (lane() == 0) phase_arrive(block.left[(i - 1) % kStages]);
      take_over<Element>(out, scores, shrink, weights);
    }
    wgmma_fence(out, weights);
    multiply_values(part.steps - 1);
    wgmma_wait<0>(out);
  }
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    const float sum = lanes_sum(state[half].sum, 4), factor = sum > 0 ? 1 / sum : 0.0f;
    const int row = own_row + 8 * half, query = part.query(group, row);
    if (query >= job.queries) continue;
    uint16_t* to = job.out + (static_cast<int64_t>(part.head(row)) * job.queries + query) * kDim + 2 * (lane() % 4);
    XM_UNROLL(16)
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + 8 * n) = pair_of<Element>(out[n][2 * half] * factor, out[n][2 * half + 1] * factor);
    }
  }
}

#endif

template <class Element, int kDim>
XM_RESIDENT_KERNEL(kThreads, 1) void prefill_shared(SharedPrefill job) {
#ifdef XM_HOPPER
  using Shared = GatherShared<kDim>;
  const uint32_t misaligned = shared_address(shared_bytes()) % kTileAlignment;
  Shared& block = *reinterpret_cast<Shared*>(shared_bytes() + (misaligned ? kTileAlignment - misaligned : 0));
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      phase_init(block.landed[stage], kGroupThreads / kWarp);
      phase_init(block.left[stage], kGroups * kGroupThreads / kWarp);
    }
  }
  block_sync();
  const Part part(job);
  const int group = shfl(static_cast<int>(threadIdx.x) / kGroupThreads, 0);  // of the whole warp, as the compiler then knows
  if (group == kGroups) {
    give_registers<kFetchRegisters>();
    gather<kDim>(job, part, block);
  } else {
    take_registers<kAttendRegisters>();
    attend<Element, kDim>(job, part, block, group);
  }
#else
  __trap();  // compiled for a GPU without such products
#endif
}

template <class Element, int kDim>
int launch_steps(const SharedPrefill& job, void* stream) {
  const int positions = kGroups * kTile / (job.heads / job.kv_heads);
  const dim3 blocks = {static_cast<unsigned>(ceil_div(job.queries, positions)), static_cast<unsigned>(job.kv_heads), 1};
  return launch(prefill_shared<Element, kDim>, blocks, kThreads, sizeof(GatherShared<kDim>) + kTileAlignment, stream, job);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// dim is 64 or 128; heads is 2, 4 or 8 times kv_heads, and that a multiple of masks; for GPUs of compute capability 9.0 only.
XM_API int xm_cuda_attend_unions(int half, const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* picks,
                                 const uint64_t* packed, const int* counts, uint16_t* out, int heads, int kv_heads, int masks, int queries,
                                 int keys, int dim, float scale, void* stream) {
  const SharedPrefill job = {q, k, v, picks, packed, counts, out, heads, kv_heads, masks, queries, keys, ceil_div(keys, kTile), scale};
  const auto run = dim == 64 ? (half ? launch_steps<Half, 64> : launch_steps<Bf16, 64>)
                             : (half ? launch_steps<Half, 128> : launch_steps<Bf16, 128>);
  return run(job, stream);
}
