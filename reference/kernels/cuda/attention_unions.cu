// For masks that the query heads of a KV head share: of a few neighbouring queries, the keys that any of them keeps, side by side without
// gaps, and for each query which of these are its own. What a step of attention multiplies is then 64 keys that are wanted, wherever
// they lie.
#include "simt.h"

namespace xmsim {
namespace {

constexpr int kStepKeys = 64;

struct Unions {
  const uint64_t* words;  // [masks, queries, key_words]
  int queries, keys, key_words;
  uint16_t* picks;   // [masks, tiles, key_words, 8, 8]: the keys of a step, in ascending order if its last two axes are swapped
  uint64_t* packed;  // [masks, tiles, key_words, positions]: which keys of a step a query keeps
  int* counts;       // [masks, tiles]: steps
};

template <int kPositions>
struct UnionShared {
  uint64_t words[kPositions][kWarp + 1];  // one more, so that neither rows nor columns meet in a bank
};

// Where a key stands: the next but eight follows it, as a thread copies every eighth row.
XM_DEVICE int slot(int key) { return key / kStepKeys * kStepKeys + key % 8 * 8 + key / 8 % 8; }

// How the bits under a mask move to the low end: six moves, each of some bits by 1, 2, 4, ... places.
// Source: Warren, Hacker's Delight, "Compress, or Generalized Extract".
struct Moves {
  uint64_t of[6];

  XM_MEMBER explicit Moves(uint64_t mask) {
    uint64_t unset = ~mask << 1;
    XM_UNROLL(6)
    for (int i = 0; i < 6; ++i) {
      uint64_t odd = unset;  // bits with an odd number of unset ones below, as far as they were not counted
      XM_UNROLL(6)
      for (int by = 1; by < 64; by *= 2) odd ^= odd << by;
      of[i] = odd & mask;
      mask = (mask ^ of[i]) | of[i] >> (1 << i);
      unset &= ~odd;
    }
  }
};

// A warp takes the queries of a tile, a lane one or two of them, and goes along their words.
template <int kPositions>
XM_KERNEL(kWarp) void pack_unions(Unions job) {
  constexpr int kOwn = kPositions > kWarp ? kPositions / kWarp : 1;  // queries of a lane
  UnionShared<kPositions>& block = shared<UnionShared<kPositions>>();
  const int first = static_cast<int>(blockIdx.x) * kPositions;
  const int64_t list = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  const uint64_t* words = job.words + (static_cast<int64_t>(blockIdx.y) * job.queries + first) * job.key_words;
  uint16_t* picks = job.picks + list * job.key_words * kStepKeys;
  uint64_t* packed = job.packed + list * job.key_words * kPositions;
  uint64_t pending[kOwn] = {};  // bits that fill no step so far
  int total = 0;                // keys
  const auto write_step = [&](int step) {
    XM_UNROLL(2)
    for (int o = 0; o < kOwn; ++o) {
      if (lane() < kPositions) packed[static_cast<int64_t>(step) * kPositions + kWarp * o + lane()] = pending[o];
    }
  };
  for (int start = 0; start < job.key_words; start += kWarp) {
    const int column = start + lane();
    uint64_t any = 0;
    for (int p = 0; p < kPositions; ++p) {
      const bool there = column < job.key_words && first + p < job.queries;
      const uint64_t word = there ? words[static_cast<int64_t>(p) * job.key_words + column] : 0;
      block.words[p][lane()] = word;
      any |= word;
    }
    if (job.keys - column * kStepKeys < kStepKeys) any &= (uint64_t{1} << (job.keys % kStepKeys)) - 1;  // of the last word
    const Moves own_moves(any);  // of this lane's column
    warp_sync();
    for (int t = 0; t < kWarp && start + t < job.key_words; ++t) {
      const uint64_t kept = shfl(any, t);
      if (!kept) continue;
      XM_UNROLL(2)
      for (int half = 0; half < 2; ++half) {
        const int bit = kWarp * half + lane();
        const uint64_t below = kept & ((uint64_t{1} << bit) - 1);
        if (kept >> bit & 1) picks[slot(total + popcount(below))] = static_cast<uint16_t>((start + t) * kStepKeys + bit);
      }
      const int filled = total % kStepKeys, step = total / kStepKeys;
      total += popcount(kept);
      const bool full = total / kStepKeys > step;
      uint64_t bits[kOwn];
      XM_UNROLL(2)
      for (int o = 0; o < kOwn; ++o) bits[o] = block.words[(kWarp * o + lane()) % kPositions][t] & kept;
      XM_UNROLL(6)
      for (int i = 0; i < 6; ++i) {
        const uint64_t moves = shfl(own_moves.of[i], t);
        XM_UNROLL(2)
        for (int o = 0; o < kOwn; ++o) {
          const uint64_t moving = bits[o] & moves;
          bits[o] = (bits[o] ^ moving) | moving >> (1 << i);
        }
      }
      XM_UNROLL(2)
      for (int o = 0; o < kOwn; ++o) pending[o] |= bits[o] << filled;
      if (!full) continue;
      write_step(step);
      XM_UNROLL(2)
      for (int o = 0; o < kOwn; ++o) pending[o] = filled ? bits[o] >> (kStepKeys - filled) : 0;
    }
    warp_sync();
  }
  const int steps = ceil_div(total, kStepKeys);
  if (total % kStepKeys) {
    write_step(steps - 1);
    for (int i = total + lane(); i < steps * kStepKeys; i += kWarp) picks[slot(i)] = 0;  // a key that is there, and that nobody keeps
  }
  if (lane() == 0) job.counts[list] = steps;
}

template <int kPositions>
int launch_unions(const Unions& job, int masks, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(job.queries, kPositions)), static_cast<unsigned>(masks), 1};
  return launch(pack_unions<kPositions>, blocks, kWarp, sizeof(UnionShared<kPositions>), stream, job);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// positions, the queries of a tile, is 16, 32 or 64; keys is at most 65536.
XM_API int xm_cuda_pack_unions(const uint64_t* words, int masks, int queries, int keys, int positions, uint16_t* picks, uint64_t* packed,
                               int* counts, void* stream) {
  const Unions job = {words, queries, keys, ceil_div(keys, kStepKeys), picks, packed, counts};
  const auto run = positions == 16 ? launch_unions<16> : positions == 32 ? launch_unions<32> : launch_unions<64>;
  return run(job, masks, stream);
}
