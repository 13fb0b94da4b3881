// Rows of a bitmap format as a matrix, for products of many tokens, which the library's dense product does best.
#include "linear_elements.h"

namespace xmsim {
namespace {

constexpr int kGroup = 64;  // rows and columns of a GroupTile, and its words
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kPitch = kGroup + 8;  // numbers from one row to the next in shared memory

struct UnpackShared {
  HalfWord halves[kGroup][2];
  alignas(16) uint16_t rows[kGroup][kPitch];
};

// A block takes a GroupTile, a warp every eighth of its words. In both formats a GroupTile's numbers lie in the order of its words.
template <bool kByColumns>
XM_KERNEL(kThreads)
void unpack_groups(const uint16_t* values, const uint64_t* bitmap, const int* group_offsets, int first_group, int rows, int inputs,
                   uint16_t* dense) {
  UnpackShared& block = shared<UnpackShared>();
  const int64_t group = static_cast<int64_t>(first_group + static_cast<int>(blockIdx.y)) * static_cast<int>(gridDim.x) + blockIdx.x;
  if (warp() == 0) {
    const uint64_t words[2] = {bitmap[group * kGroup + 2 * lane()], bitmap[group * kGroup + 2 * lane() + 1]};
    const int counts[2] = {popcount(words[0]), popcount(words[1])};
    const int both = counts[0] + counts[1], start = group_offsets[group] + lanes_running_sum(both) - both;
    split_word(words[0], start, block.halves[2 * lane()]);
    split_word(words[1], start + counts[0], block.halves[2 * lane() + 1]);
  }
  block_sync();
  XM_UNROLL(8)
  for (int i = 0; i < kGroup / kWarps; ++i) {
    const int word = kWarps * i + warp();
    const Pair pair = two_numbers(block.halves[word][lane() / 16], kByColumns ? neighbours_of_lane() : bits_of_lane(), values);
    if constexpr (kByColumns) {
      block.rows[2 * lane()][word] = pair.low;
      block.rows[2 * lane() + 1][word] = pair.high;
    } else {  // a stripe of 16 rows has four TCTiles: top left, bottom left, top right, bottom right
      const int row = word / 16 * 16 + word % 2 * 8 + lane() / 4, column = word % 16 / 4 * 16 + word / 2 % 2 * 8 + lane() % 4 * 2;
      block.rows[row][column] = pair.low;
      block.rows[row][column + 1] = pair.high;
    }
  }
  block_sync();
  for (int i = threadIdx.x; i < kGroup * kGroup / 8; i += kThreads) {
    const int own = i / (kGroup / 8), at = i % (kGroup / 8) * 8;
    const int row = static_cast<int>(blockIdx.y) * kGroup + own, input = static_cast<int>(blockIdx.x) * kGroup + at;
    if (row < rows && input < inputs) {
      *reinterpret_cast<uint4*>(dense + static_cast<int64_t>(row) * inputs + input) = *reinterpret_cast<const uint4*>(&block.rows[own][at]);
    }
  }
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// dense [rows, inputs]: the rows from GroupTile row first_group on, of a GpuTcaBme, or of a GpuColumnBitmap; inputs is a multiple of 8.
XM_API int xm_cuda_unpack_rows(int by_columns, const uint16_t* values, const uint64_t* bitmap, const int* group_offsets, int first_group,
                               int rows, int inputs, uint16_t* dense, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(inputs, kGroup)), static_cast<unsigned>(ceil_div(rows, kGroup)), 1};
  return launch(by_columns ? unpack_groups<true> : unpack_groups<false>, blocks, kThreads, sizeof(UnpackShared), stream, values, bitmap,
                group_offsets, first_group, rows, inputs, dense);
}
