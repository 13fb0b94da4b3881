// Kernels that ask one thing of the SIMT layer each; for tests of the emulator against the definitions.
#include "linear_elements.h"
#include "warpgroup.h"

namespace xmsim {

XM_KERNEL(32) void multiply(const float* a, const float* b, float* out, int int8) {
  // a [16, K], b [K, 8] as float32 of values that bfloat16 and int8 hold exactly
  const int numbers = int8 ? 4 : 2, inner = int8 ? 32 : 16;
  uint32_t rows[4], columns[2];
  for (int r = 0; r < 4; ++r) {
    rows[r] = 0;
    for (int n = 0; n < numbers; ++n) {
      const float x = a[a_row(lane(), r) * inner + a_column(lane(), r, numbers) + n];
      rows[r] |= int8 ? (static_cast<uint32_t>(static_cast<int>(x)) & 0xff) << 8 * n : bf16_pair(n ? 0 : x, n ? x : 0);
    }
  }
  for (int r = 0; r < 2; ++r) {
    columns[r] = 0;
    for (int n = 0; n < numbers; ++n) {
      const float x = b[(b_row(lane(), r, numbers) + n) * 8 + b_column(lane())];
      columns[r] |= int8 ? (static_cast<uint32_t>(static_cast<int>(x)) & 0xff) << 8 * n : bf16_pair(n ? 0 : x, n ? x : 0);
    }
  }
  float sums[4] = {0, 0, 0, 0};
  int32_t integers[4] = {0, 0, 0, 0};
  if (int8) {
    mma_int8(integers, rows, columns);
  } else {
    mma_bf16(sums, rows, columns);
  }
  for (int i = 0; i < 4; ++i) out[sum_row(lane(), i) * 8 + sum_column(lane(), i)] = int8 ? static_cast<float>(integers[i]) : sums[i];
}

struct Tile {
  uint16_t rows[32][8];  // four matrices below each other
};

XM_KERNEL(32) void load_matrices(const uint16_t* matrices, uint32_t* out, int transposed) {
  Tile& tile = shared<Tile>();
  cp_async_16(tile.rows[lane()], matrices + 8 * lane(), true);
  cp_async_commit();
  cp_async_wait<0>();
  warp_sync();
  uint32_t words[4];
  if (transposed) {
    ldmatrix_4_transposed(words, tile.rows[lane()]);
  } else {
    ldmatrix_4(words, tile.rows[lane()]);
  }
  for (int m = 0; m < 4; ++m) out[m * 32 + lane()] = words[m];
}

XM_KERNEL(64) void neighbours(const int* values, int* out) {
  const int own = values[threadIdx.x];
  out[threadIdx.x] = lanes_sum(own);
  out[64 + threadIdx.x] = lanes_max(own, 4);
  out[128 + threadIdx.x] = shfl_up(own, 1);
  out[192 + threadIdx.x] = static_cast<int>(ballot(own > 0));
}

XM_KERNEL(32) void words_of_lanes(const uint32_t* values, uint32_t* out) {
  const uint32_t own = values[lane()], next = values[(lane() + 1) % kWarp], places = own & 0x7777;
  out[lane()] = static_cast<uint32_t>(lanes_running_sum(static_cast<int>(own)));
  out[32 + lane()] = choose_bytes(own, next, places);
  out[64 + lane()] = load_16(reinterpret_cast<const uint16_t*>(values) + lane());
  Tile& tile = shared<Tile>();
  for (int i = 0; i < 8; ++i) tile.rows[lane()][i] = static_cast<uint16_t>(lane());
  cp_async_16_where(own & 4, tile.rows[lane()], values, own & 8);
  cp_async_commit();
  cp_async_wait<0>();
  out[96 + lane()] = shared_16(shared_place(tile.rows[lane()]) + 2);
}

// Without the barrier, thread 0 reads what the last thread may not have written.
XM_KERNEL(64) void hand_over(int* out, int with_barrier) {
  int* box = reinterpret_cast<int*>(shared_bytes());
  if (threadIdx.x == 63) *box = 7;
  if (with_barrier) block_sync();
  if (threadIdx.x == 0) *out = *box;
}

XM_KERNEL(32) void half_a_warp(int* out) {
  if (lane() < 16) *out = lanes_sum(1);
}

XM_KERNEL(32) void product_and_sum(const float* values, float* out) { out[lane()] = times(values[0], values[1]) + values[2]; }

// What was asked for is not there before it is waited for.
XM_KERNEL(32) void impatient(const int* from, int* out, int waits) {
  Tile& tile = shared<Tile>();
  if (lane() == 0) {
    cp_async_16(&tile, from, true);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    *out = *reinterpret_cast<int*>(&tile);
  }
}

// Every second lane's 8 bytes, by way of shared memory; zeros for the others.
XM_KERNEL(32) void every_second(const uint2* from, uint2* out) {
  uint2* box = reinterpret_cast<uint2*>(shared_bytes());
  cp_async_8(&box[lane()], from + lane(), lane() % 2 == 0);
  cp_async_commit();
  cp_async_wait<0>();
  out[lane()] = box[lane()];
}

struct Operands {
  alignas(16) uint16_t left[64 * kTileColumns], right[2][64 * kTileColumns];
};

// One thing that a kernel may forget.
enum Forgotten { nothing, share, fence, wait, patience, swaps };

XM_DEVICE void fetch_tile(uint16_t* to, const uint16_t* from, int row_numbers, bool swapped) {
  for (int i = threadIdx.x; i < 64 * 8; i += kGroupThreads) {
    const int row = i / 8, part = i % 8;
    cp_async_16(to + (swapped ? tile_place(row, part) : row * kTileColumns + 8 * part), from + row * row_numbers + 8 * part, true);
  }
}

// out [64, N] of a [64, 64] with the rows of b [64, 64], N = 64, or with the columns of b [64, N], a in registers; all of bfloat16.
template <int kEights, bool kRows>
XM_KERNEL(kGroupThreads) void group_product(const uint16_t* a, const uint16_t* b, float* out, int forgotten) {
#ifdef XM_HOPPER
  const uint32_t misaligned = shared_address(shared_bytes()) % kTileAlignment;
  Operands& block = *reinterpret_cast<Operands*>(shared_bytes() + (misaligned ? kTileAlignment - misaligned : 0));
  fetch_tile(block.left, a, 64, true);
  for (int panel = 0; panel < kEights / 8; ++panel) fetch_tile(block.right[panel], b + 64 * panel, 8 * kEights, forgotten != swaps);
  cp_async_commit();
  cp_async_wait<0>();
  if (forgotten != share) share_copies();
  block_sync();
  const uint32_t left = operand(shared_address(block.left));
  const uint32_t right = kRows ? operand(shared_address(block.right), sizeof block.right[0]) : operand(shared_address(block.right));
  uint32_t rows[4][4];
  for (int step = 0; step < 4; ++step) {
    for (int r = 0; r < 4; ++r) {
      const int row = 16 * (warp() % 4) + a_row(lane(), r), column = 16 * step + a_column(lane(), r, 2);
      rows[step][r] = static_cast<uint32_t>(a[row * 64 + column + 1]) << 16 | a[row * 64 + column];
    }
  }
  float sums[kEights][4] = {};
  if (forgotten != fence) wgmma_fence(sums, rows);
  for (int step = 0; step < 4; ++step) {
    if constexpr (kRows) {
      wgmma_rows<Bf16>(sums, rows[step], further(right, 2 * kEightRows * step));
    } else {
      wgmma_shared<Bf16, true>(sums, further(left, 32 * step), further(right, 32 * step));
    }
  }
  wgmma_commit();
  if (forgotten == patience) fetch_tile(block.right[0], a, 64, true);  // while products may still read there
  if (forgotten != wait) wgmma_wait<0>(sums);
  for (int n = 0; n < kEights; ++n) {
    for (int e = 0; e < 4; ++e) {
      const int row = 16 * (warp() % 4) + sum_row(lane(), e);
      out[row * 8 * kEights + 8 * n + sum_column(lane(), e)] = sums[n][e];
    }
  }
#endif
}

// The last thread hands a number to the first by a barrier of so many arrivals; twice, in two phases.
XM_KERNEL(64) void phases(int* out, int arrivals) {
#ifdef XM_HOPPER
  struct Box {
    PhaseBarrier barrier;
    int numbers[2];
  };
  Box& box = shared<Box>();
  if (threadIdx.x == 0) phase_init(box.barrier, arrivals);
  block_sync();
  for (int i = 0; i < 2; ++i) {
    if (threadIdx.x == 63) box.numbers[i] = 7 + i;
    phase_arrive(box.barrier);
    phase_wait(box.barrier, i);
    if (threadIdx.x == 0) out[i] = box.numbers[i];
  }
#endif
}

// A warpgroup hands numbers to another by way of two buffers, three times each. Forgotten: 1 to wait until a buffer is free, 2 to give it back
// only when it was read, 3 that four warps give it back, 4 that four warps fill it, 5 to wait for its barriers, 6 for all lanes of a warp.
XM_KERNEL(2 * kGroupThreads) void ring(int* out, int forgotten) {
#ifdef XM_HOPPER
  struct Box {
    PhaseBarrier landed[2], left[2];
    int numbers[2][kGroupThreads];
  };
  Box& box = shared<Box>();
  if (threadIdx.x == 0) {
    for (int buffer = 0; buffer < 2; ++buffer) {
      phase_init(box.landed[buffer], forgotten == 4 ? 3 : 4);
      phase_init(box.left[buffer], forgotten == 3 ? 3 : 4);
    }
  }
  if (forgotten != 5) block_sync();
  const int own = threadIdx.x % kGroupThreads;
  const auto arrive = [&](PhaseBarrier& barrier) {
    if (forgotten != 6) warp_sync();
    if (lane() == 0) phase_arrive(barrier);
  };
  for (int i = 0; i < 6; ++i) {
    const int buffer = i % 2, phase = i / 2 % 2;
    if (threadIdx.x >= kGroupThreads) {
      if (forgotten != 1) phase_wait(box.left[buffer], 1 - phase);
      box.numbers[buffer][own] = i;
      arrive(box.landed[buffer]);
    } else {
      phase_wait(box.landed[buffer], phase);
      if (forgotten == 2) arrive(box.left[buffer]);
      out[kGroupThreads * i + own] = box.numbers[buffer][kGroupThreads - 1 - own];
      if (forgotten != 2) arrive(box.left[buffer]);
    }
  }
#endif
}

// Reads what the kernel before writes, if it waits at all before it does or after.
XM_KERNEL(64) void read_early(const int* written, int* out, int waits, int impatient) {
  let_next_start();
  prefetch_by_lanes(written, sizeof(int));
  int read = impatient ? written[0] : 0;
  if (waits || threadIdx.x) wait_for_kernel_before();
  if (!impatient) read = written[0];
  out[threadIdx.x] = read;
}

XM_KERNEL(32) void pairs_of_16_bits(const uint32_t* a, const uint32_t* b, uint32_t* out) {
  out[lane()] = max_u16x2(a[lane()], b[lane()]);
  out[kWarp + lane()] = min_u16x2(a[lane()], b[lane()]);
  out[2 * kWarp + lane()] = add_min_u16x2(a[lane()], b[lane()], 0x80000007u);
}

}  // namespace xmsim

using namespace xmsim;

XM_API int probe_multiply(const float* a, const float* b, float* out, int int8) {
  return launch(multiply, {1, 1, 1}, 32, 0, nullptr, a, b, out, int8);
}
XM_API int probe_matrices(const uint16_t* matrices, uint32_t* out, int transposed) {
  return launch(load_matrices, {1, 1, 1}, 32, sizeof(Tile), nullptr, matrices, out, transposed);
}
XM_API int probe_neighbours(const int* values, int* out) { return launch(neighbours, {1, 1, 1}, 64, 0, nullptr, values, out); }
XM_API int probe_words(const uint32_t* values, uint32_t* out) {
  return launch(words_of_lanes, {1, 1, 1}, 32, sizeof(Tile), nullptr, values, out);
}
XM_API int probe_hand_over(int* out, int with_barrier) {
  return launch(hand_over, {1, 1, 1}, 64, sizeof(int), nullptr, out, with_barrier);
}
XM_API int probe_product_and_sum(const float* values, float* out) {
  return launch(product_and_sum, {1, 1, 1}, 32, 0, nullptr, values, out);
}
XM_API int probe_half_a_warp(int* out) { return launch(half_a_warp, {1, 1, 1}, 32, 0, nullptr, out); }
XM_API int probe_impatient(const int* from, int* out, int waits) {
  return launch(impatient, {1, 1, 1}, 32, sizeof(Tile), nullptr, from, out, waits);
}
XM_API int probe_every_second(const uint2* from, uint2* out) {
  return launch(every_second, {1, 1, 1}, 32, 32 * sizeof(uint2), nullptr, from, out);
}
XM_API int probe_group_product(const uint16_t* a, const uint16_t* b, float* out, int columns, int rows, int forgotten) {
  const auto kernel = !rows ? group_product<8, false> : columns == 64 ? group_product<8, true> : group_product<16, true>;
  return launch(kernel, {1, 1, 1}, kGroupThreads, sizeof(Operands) + kTileAlignment, nullptr, a, b, out, forgotten);
}
XM_API int probe_phases(int* out, int arrivals) { return launch(phases, {1, 1, 1}, 64, 64, nullptr, out, arrivals); }
XM_API int probe_ring(int* out, int forgotten) {
  return launch(ring, {1, 1, 1}, 2 * kGroupThreads, 2 * sizeof(int) * kGroupThreads + 64, nullptr, out, forgotten);
}
XM_API int probe_early(const int* written, int* out, int waits, int impatient) {
  return launch_early(read_early, {1, 1, 1}, 64, 0, nullptr, written, out, waits, impatient);
}
XM_API int probe_pairs(const uint32_t* a, const uint32_t* b, uint32_t* out) {
  return launch(pairs_of_16_bits, {1, 1, 1}, 32, 0, nullptr, a, b, out);
}
