// Up to 16 vectors times weights in TCA-BME (formats/tca_bme.py) by tensor cores. The bitmaps stand in the order of mma's operand: bits
// 2 l and 2 l + 1 of BitmapTile r of a TCTile are the two weights that lane l holds in register r.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;         // rows and columns of a GroupTile
constexpr int kStripes = 4;        // of 16 rows, one a warp
constexpr int kTiles = 16;         // BitmapTiles of a stripe
constexpr int kThreads = kStripes * kWarp;
constexpr int kRowOfX = kGroup + 8;  // numbers from one token to the next in shared memory: 8 tokens then lie in different banks

template <int kColumns>  // tokens, a multiple of 8
struct TcaShared {
  uint64_t bitmap[2][kGroup];
  uint16_t x[2][kColumns][kRowOfX];
  HalfWord halves[kStripes][kTiles][2];
  alignas(16) uint16_t values[1];  // [2][most_values]
};

struct TcaWeights {
  const uint16_t* values;
  const uint64_t* bitmap;
  const int* group_offsets;
  const int* stripe_offsets;
  int outputs, inputs, most_values;
};

// Starts the copies of a GroupTile and of its inputs into one of two buffers.
template <int kColumns>
XM_DEVICE void fetch(TcaShared<kColumns>& block, int buffer, const TcaWeights& weights, const uint16_t* x, int tokens, int group, int column) {
  const int first = weights.group_offsets[group], chunks = (weights.group_offsets[group + 1] - first) / 8;
  uint16_t* values = block.values + buffer * weights.most_values;
  for (int i = threadIdx.x; i < chunks; i += kThreads) cp_async_16(values + 8 * i, weights.values + first + 8 * i, true);
  for (int i = threadIdx.x; i < kGroup / 2; i += kThreads) {
    cp_async_16(block.bitmap[buffer] + 2 * i, weights.bitmap + static_cast<int64_t>(group) * kGroup + 2 * i, true);
  }
  for (int i = threadIdx.x; i < kColumns * kGroup / 8; i += kThreads) {
    const int token = i / (kGroup / 8), at = i % (kGroup / 8) * 8, input = column * kGroup + at;
    const bool there = token < tokens && input < weights.inputs;
    cp_async_16(&block.x[buffer][token][at], there ? x + static_cast<int64_t>(token) * weights.inputs + input : x, there);
  }
  cp_async_commit();
}

// A block takes 64 rows and one part of the columns; a warp 16 of the rows.
template <class Element, int kColumns>
XM_KERNEL(kThreads) void tca_bme_rows(TcaWeights weights, const uint16_t* x, int tokens, float* parts) {
  using Shared = TcaShared<kColumns>;
  Shared& block = shared<Shared>();
  const int across = ceil_div(weights.inputs, kGroup);
  const int first = across * static_cast<int>(blockIdx.y) / static_cast<int>(gridDim.y);
  const int last = across * static_cast<int>(blockIdx.y + 1) / static_cast<int>(gridDim.y);
  const int groups = static_cast<int>(blockIdx.x) * across;
  float sums[kColumns / 8][4] = {};
  if (first < last) fetch(block, 0, weights, x, tokens, groups + first, first);
  for (int column = first; column < last; ++column) {
    const int buffer = (column - first) % 2, group = groups + column;
    const int start = weights.stripe_offsets[group * kStripes + warp()];
    if (column + 1 < last) {
      fetch(block, 1 - buffer, weights, x, tokens, group + 1, column + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    block_sync();
    // where the numbers of each BitmapTile of this warp's stripe start: a sum over the tiles before it
    const uint64_t word = lane() < kTiles ? block.bitmap[buffer][kTiles * warp() + lane()] : 0;
    const int count = popcount(word);
    int before = count;
    XM_UNROLL(4)
    for (int by = 1; by < kTiles; by *= 2) {
      const int other = shfl_up(before, by);
      before += lane() >= by ? other : 0;
    }
    if (lane() < kTiles) split_word(word, start + before - count, block.halves[warp()][lane()]);
    warp_sync();
    const uint16_t* values = block.values + buffer * weights.most_values;
    XM_UNROLL(4)
    for (int tile = 0; tile < kTiles / 4; ++tile) {
      uint32_t a[4];
      XM_UNROLL(4)
      for (int r = 0; r < 4; ++r) {
        const Pair pair = two_numbers(block.halves[warp()][4 * tile + r][lane() / 16], values);
        a[r] = static_cast<uint32_t>(pair.high) << 16 | pair.low;
      }
      XM_UNROLL(2)
      for (int n = 0; n < kColumns / 8; ++n) {
        uint32_t b[2];
        XM_UNROLL(2)
        for (int r = 0; r < 2; ++r) {
          b[r] = *reinterpret_cast<const uint32_t*>(&block.x[buffer][8 * n + b_column(lane())][16 * tile + b_row(lane(), r, 2)]);
        }
        mma<Element>(sums[n], a, b);
      }
    }
    block_sync();
  }
  XM_UNROLL(2)
  for (int n = 0; n < kColumns / 8; ++n) {
    XM_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      const int row = static_cast<int>(blockIdx.x) * kGroup + 16 * warp() + sum_row(lane(), i), token = 8 * n + sum_column(lane(), i);
      if (row < weights.outputs && token < tokens) {
        parts[(static_cast<int64_t>(blockIdx.y) * tokens + token) * weights.outputs + row] = sums[n][i];
      }
    }
  }
}

template <class Element, int kColumns>
int launch_rows(const TcaWeights& weights, const uint16_t* x, int tokens, int parts_count, float* parts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(weights.outputs, kGroup)), static_cast<unsigned>(parts_count), 1};
  const size_t bytes = offsetof(TcaShared<kColumns>, values) + 2 * sizeof(uint16_t) * weights.most_values;
  return launch(tca_bme_rows<Element, kColumns>, blocks, kThreads, bytes, stream, weights, x, tokens, parts);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a TcaBme [outputs, inputs]; x [tokens, inputs], at most 16 tokens, inputs a multiple of 8; parts [count, tokens, outputs];
// most_values of a GroupTile, a multiple of 8.
XM_API int xm_cuda_tca_bme_rows(int half, const uint16_t* values, const uint64_t* bitmap, const int* group_offsets, const int* stripe_offsets,
                                const uint16_t* x, int tokens, int outputs, int inputs, int most_values, int parts_count, float* parts,
                                void* stream) {
  const TcaWeights weights = {values, bitmap, group_offsets, stripe_offsets, outputs, inputs, most_values};
  const auto run = tokens > 8 ? (half ? launch_rows<Half, 16> : launch_rows<Bf16, 16>) : (half ? launch_rows<Half, 8> : launch_rows<Bf16, 8>);
  return run(weights, x, tokens, parts_count, parts, stream);
}
