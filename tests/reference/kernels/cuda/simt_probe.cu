// Kernels that ask one thing of the SIMT layer each; for tests of the emulator against the definitions.
#include "fragments.h"
#include "simt.h"

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

}  // namespace xmsim

using namespace xmsim;

XM_API int probe_multiply(const float* a, const float* b, float* out, int int8) {
  return launch(multiply, {1, 1, 1}, 32, 0, nullptr, a, b, out, int8);
}
XM_API int probe_matrices(const uint16_t* matrices, uint32_t* out, int transposed) {
  return launch(load_matrices, {1, 1, 1}, 32, sizeof(Tile), nullptr, matrices, out, transposed);
}
XM_API int probe_neighbours(const int* values, int* out) { return launch(neighbours, {1, 1, 1}, 64, 0, nullptr, values, out); }
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
