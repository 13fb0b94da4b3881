// Up to 16 vectors times weights in TCA-BME (formats/tca_bme.py) by tensor cores. A TCTile's BitmapTile r has the two weights that lane l of
// mma's operand holds in register r, the values in the order of lanes; their bits are those of bits_of_lane.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;      // rows and columns of a GroupTile
constexpr int kStripes = 4;     // of 16 rows
constexpr int kStripeRows = 16;
constexpr int kTiles = 16;      // BitmapTiles of a stripe
constexpr int kWarps = 8;
constexpr int kRowOfX = kGroup + 8;  // numbers from one token to the next in shared memory: 8 tokens then lie in different banks
constexpr int kMostValues = kStripeRows * kGroup + 16;  // of a stripe, which starts and ends anywhere within 16 bytes

// Half of a bitmap, and the place of its first value in shared memory.
struct Half32 {
  uint32_t bits, place;
};

// A stripe of a GroupTile and its inputs, as they are copied from memory.
template <int kColumns>
struct Stage {
  alignas(16) uint16_t values[kMostValues];
  uint32_t words[2 * kTiles];  // halves of the bitmaps
  uint16_t x[kColumns][kRowOfX];
  int32_t first;  // of the values
};

template <int kColumns>
struct WarpShared {
  static constexpr int kStages = 32 / kColumns;  // two blocks share a multiprocessor
  Stage<kColumns> stages[kStages];
  alignas(16) Half32 halves[2][kTiles];
};

template <int kColumns>  // tokens, a multiple of 8
struct TcaShared {
  WarpShared<kColumns> warps[kWarps];
  float sums[kWarps][kColumns / 8][4][kWarp];
};

struct TcaWeights {
  const uint16_t* values;
  const uint32_t* words;
  const int* group_offsets;
  const int* stripe_offsets;
  int outputs, inputs;
};

// Starts a lane's copies: of the values from `start` to `end`, their bitmaps from `word` on, and four tokens' inputs from x on; of nothing
// if there is no more, of zeros where inputs are not inside.
template <int kColumns>
XM_DEVICE void fetch(Stage<kColumns>& stage, const TcaWeights& weights, int start, int end, uint32_t word, const uint16_t* x, int tokens,
                     bool more, bool inside) {
  const int aligned = start & ~7, count = end - aligned - 8 * lane();
  stage.first = start - aligned;  // by every lane
  const uint16_t* own = weights.values + (aligned + 8 * lane());
  XM_UNROLL(8)
  for (int i = 0; i < kMostValues; i += 8 * kWarp) {
    cp_async_16_where(i < count, stage.values + 8 * lane() + i, own + i, true);
  }
  cp_async_16_where(more && lane() < kTiles / 2, stage.words + 4 * lane(), weights.words + word, true);
  XM_UNROLL(4)
  for (int i = 0; i < kColumns; i += 4) {  // four tokens at once; what stands for others is in no sum that is kept
    cp_async_16_where(more && i + lane() / 8 < tokens, &stage.x[lane() / 8][lane() % 8 * 8] + i * kRowOfX,
                      x + i * static_cast<int64_t>(weights.inputs), inside);
  }
}

// The two weights of a lane; `place` is that of the half word's first value in shared memory. Both are read whatever the bits are, and put where
// they belong by a choice of bytes: no branch, and one popcount for 64 weights, since the GPU counts bits at an eighth of its other
// instructions' rate.
XM_DEVICE uint32_t two_weights(uint32_t bits, uint32_t place, const PairOfBits& own_bits) {
  const uint32_t own = place + 2 * popcount(bits & own_bits.before);
  const uint32_t first = shared_16(own), second = shared_16(own + 2);
  // 0x2222, zeros above the first, 0x6610 the first low, 0x1022 the first high, 0x5410 the first low and the second high: by one product
  return choose_bytes(first, second, (bits >> own_bits.shift & 0x0101) * 0x43ee + 0x2222);
}

// A block takes 16 rows; each of its warps a part of the columns, in a pipeline of its own.
template <class Element, int kColumns>
XM_RESIDENT_KERNEL(kWarps* kWarp, 2)
void tca_bme_rows(TcaWeights weights, const uint16_t* x, int tokens, const uint16_t* bias, uint16_t* y) {
  using Shared = TcaShared<kColumns>;
  constexpr int kStages = WarpShared<kColumns>::kStages;
  Shared& block = shared<Shared>();
  WarpShared<kColumns>& own = block.warps[warp()];
  const int across = ceil_div(weights.inputs, kGroup);
  const int part = uniform_warp(), first = across * part / kWarps;
  const uint32_t count = across * (part + 1) / kWarps - first;
  const int stripe = static_cast<int>(blockIdx.x) % kStripes, group = static_cast<int>(blockIdx.x) / kStripes * across + first;
  let_next_start();
  const int soon = count < kWarp ? count : kWarp;  // GroupTiles that are looked up at first
  prefetch_by_lanes(weights.group_offsets + group, (soon + 1) * sizeof(int));
  prefetch_by_lanes(weights.stripe_offsets + static_cast<int64_t>(group) * kStripes, soon * kStripes * sizeof(int));
  for (int at = lane(); at < 4 * soon; at += kWarp) {  // their bitmaps of the stripe, 128 bytes each
    prefetch(weights.words + ((static_cast<int64_t>(group) + at / 4) * kStripes + stripe) * 2 * kTiles + at % 4 * 8);
  }
  wait_for_kernel_before();
  uint32_t word = (group * kStripes + stripe) * 2 * kTiles + 4 * lane();  // the next that is copied
  const uint32_t row_of_x = lane() / 8 * weights.inputs;
  uint32_t input = row_of_x + first * kGroup + lane() % 8 * 8;
  int starts = 0, ends = 0;  // of the values of 32 GroupTiles, one a lane
  const auto look_up = [&](uint32_t i) {
    starts = ends = 0;
    if (i + lane() < count) {
      const uint32_t there = group + i + lane();
      const int offset = weights.group_offsets[there];
      const int* stripes = weights.stripe_offsets + (static_cast<int64_t>(there) * kStripes + stripe);
      starts = offset + stripes[0];
      ends = stripe + 1 < kStripes ? offset + stripes[1] : weights.group_offsets[there + 1];
    }
  };
  const auto fetch_next = [&](uint32_t i) {
    const int start = shfl(starts, static_cast<int>(i % kWarp)), end = shfl(ends, static_cast<int>(i % kWarp));
    fetch(own.stages[i % kStages], weights, start, end, word, x + input, tokens, i < count, input < row_of_x + weights.inputs);
    word += kStripes * 2 * kTiles;
    input += kGroup;
    cp_async_commit();
  };
  constexpr uint32_t kAhead = kStages - 1;
  look_up(0);
  for (uint32_t i = 0; i < kAhead; ++i) fetch_next(i);
  const PairOfBits own_bits = bits_of_lane();
  float sums[kColumns / 8][4] = {};
  const auto multiply = [&](uint32_t i) {
    cp_async_wait<kAhead - 1>();
    warp_sync();
    fetch_next(i + kAhead);  // into what was read in the round before
    const Stage<kColumns>& stage = own.stages[i % kStages];
    // where the values of each half word start: a sum over those before it
    const uint32_t bits = stage.words[lane()];
    const int stored = popcount(bits);
    own.halves[lane() % 2][lane() / 2] = {bits, shared_place(stage.values) + 2 * (stage.first + lanes_running_sum(stored) - stored)};
    warp_sync();
    uint32_t b[kColumns / 8][4];
    XM_UNROLL(4)
    for (int tile = 0; tile < kTiles / 4; ++tile) {
      if (tile % 2 == 0) {  // 32 inputs at once
        XM_UNROLL(2)
        for (int n = 0; n < kColumns / 8; ++n) ldmatrix_4(b[n], &stage.x[8 * n + lane() % 8][16 * tile + lane() / 8 * 8]);
      }
      uint32_t a[4];
      XM_UNROLL(2)
      for (int r = 0; r < 4; r += 2) {
        const uint4 pair = *reinterpret_cast<const uint4*>(&own.halves[lane() / 16][4 * tile + r]);  // two half words
        a[r] = two_weights(pair.x, pair.y, own_bits);
        a[r + 1] = two_weights(pair.z, pair.w, own_bits);
      }
      XM_UNROLL(2)
      for (int n = 0; n < kColumns / 8; ++n) {
        const uint32_t columns[2] = {b[n][tile % 2 * 2], b[n][tile % 2 * 2 + 1]};
        mma<Element>(sums[n], a, columns);
      }
    }
  };
  for (uint32_t i = 0, until = kWarp - kAhead; i < count; until += kWarp) {  // a lookup serves 32 copies
    for (; i < count && i < until; ++i) multiply(i);
    look_up(i + kAhead);
  }
  XM_UNROLL(2)
  for (int n = 0; n < kColumns / 8; ++n) {
    XM_UNROLL(4)
    for (int i = 0; i < 4; ++i) block.sums[warp()][n][i][lane()] = sums[n][i];
  }
  block_sync();
  // a warp adds up one element of the sums for every lane, part by part
  for (int at = warp(); at < kColumns / 2; at += kWarps) {
    const int n = at / 4, i = at % 4, token = 8 * n + sum_column(lane(), i);
    const int row = static_cast<int>(blockIdx.x) * kStripeRows + sum_row(lane(), i);
    float sum = 0;
    XM_UNROLL(8)
    for (int w = 0; w < kWarps; ++w) sum += block.sums[w][n][i][lane()];
    if (row < weights.outputs && token < tokens) put<Element>(y, bias, token, weights.outputs, row, sum);
  }
}

template <class Element, int kColumns>
int launch_rows(const TcaWeights& weights, const uint16_t* x, int tokens, const uint16_t* bias, uint16_t* y, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(weights.outputs, kStripeRows)), 1, 1};
  return launch_early(tca_bme_rows<Element, kColumns>, blocks, kWarps * kWarp, sizeof(TcaShared<kColumns>), stream, weights, x, tokens, bias, y);
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// The parts of a GpuTcaBme [outputs, inputs], its bitmaps as halves; x [tokens, inputs], at most 16 tokens, inputs a multiple of 8; bias
// [outputs] or none; y [tokens, outputs].
XM_API int xm_cuda_tca_bme_rows(int half, const uint16_t* values, const uint32_t* words, const int* group_offsets, const int* stripe_offsets,
                                const uint16_t* x, int tokens, int outputs, int inputs, const uint16_t* bias, uint16_t* y, void* stream) {
  const TcaWeights weights = {values, words, group_offsets, stripe_offsets, outputs, inputs};
  const auto run = tokens > 8 ? (half ? launch_rows<Half, 16> : launch_rows<Bf16, 16>) : (half ? launch_rows<Half, 8> : launch_rows<Bf16, 8>);
  return run(weights, x, tokens, bias, y, stream);
}
