// What the two kernels of tile-skipping attention share: the job, the mask of a tile, and the way out.
#pragma once

#include "attention_softmax.h"

namespace xmsim {

struct Prefill {
  const uint16_t *q, *k, *v;   // [heads, queries, d], [kv_heads, keys, d] twice
  const uint64_t* words;       // [masks, queries, key_words]
  const int *tiles, *counts;   // as xm_cuda_list_tiles makes them
  const float* slopes;         // [heads], or none: ALiBi
  uint16_t* out;               // [heads, queries, d]
  int heads, kv_heads, masks, queries, keys, key_words, heads_together;
  float scale;
};

// What a block takes: of a head that many rows, in parts of which all heads have the same number.
struct Part {
  int head, kv_head, mask, number;
};

// Blocks start in the order of their numbers: some heads, whose keys and values the second cache holds, then the next; of these heads the
// last rows first, as the last queries see most keys, so that what is left at the end is short.
XM_DEVICE Part part_of_block(const Prefill& job) {
  const int parts = static_cast<int>(gridDim.x) / job.heads, block = blockIdx.x, together = job.heads_together;
  Part part;
  part.head = block / (parts * together) * together + block % together;
  part.number = parts - 1 - block % (parts * together) / together;
  part.kv_head = part.head / (job.heads / job.kv_heads);
  part.mask = part.head / (job.heads / job.masks);
  return part;
}

// Which keys of a tile there are: all, but for the last.
XM_DEVICE uint64_t keys_there(const Prefill& job, int tile) {
  return job.keys - tile * kTile < kTile ? (uint64_t{1} << (job.keys - tile * kTile)) - 1 : ~uint64_t{0};
}

// Which keys of a tile are kept by this lane's two rows, first_row and eight on; `words` are those of the first.
XM_DEVICE void kept_keys(const Prefill& job, const uint64_t* words, int first_row, int tile, uint64_t (&kept)[2]) {
  const uint64_t there = keys_there(job, tile);
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    kept[half] = first_row + 8 * half < job.queries ? words[static_cast<int64_t>(8 * half) * job.key_words + tile] & there : 0;
  }
}

// A warp's 16 rows of the output; a row that keeps nothing gives zeros.
template <class Element, int kEights>
XM_DEVICE void write_rows(const Prefill& job, int head, int first_row, const float (&out)[kEights][4], const RowState (&state)[2]) {
  XM_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    const float sum = lanes_sum(state[half].sum, 4), factor = sum > 0 ? 1 / sum : 0.0f;
    const int row = first_row + 8 * half;
    if (row >= job.queries) continue;
    uint16_t* to = job.out + (static_cast<int64_t>(head) * job.queries + row) * 8 * kEights + 2 * (lane() % 4);
    XM_UNROLL(16)
    for (int n = 0; n < kEights; ++n) {
      *reinterpret_cast<uint32_t*>(to + 8 * n) = pair_of<Element>(out[n][2 * half] * factor, out[n][2 * half + 1] * factor);
    }
  }
}

}  // namespace xmsim
