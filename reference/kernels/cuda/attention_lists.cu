// Which tiles of 64 queries × 64 keys hold a kept pair: the list that sparse attention walks, whatever method made the mask.
#include "simt.h"

namespace xmsim {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 64;

struct ListShared {
  int counts[kThreads / kWarp];
};

// A block takes 64 queries of a mask; a thread a column of words. Live tiles are listed in ascending order.
XM_KERNEL(kThreads) void list_tiles(const uint64_t* words, int queries, int key_words, int* tiles, int* counts) {
  ListShared& block = shared<ListShared>();
  const int tile_rows = ceil_div(queries, kTileRows), tile_row = blockIdx.x, mask = tile_row / tile_rows;
  const int first_row = tile_row % tile_rows * kTileRows;
  const int rows = queries - first_row < kTileRows ? queries - first_row : kTileRows;
  const uint64_t* own = words + (static_cast<int64_t>(mask) * queries + first_row) * key_words;
  int listed = 0;
  for (int start = 0; start < key_words; start += kThreads) {
    const int column = start + static_cast<int>(threadIdx.x);
    uint64_t any = 0;
    if (column < key_words) {
      for (int row = 0; row < rows; ++row) any |= own[static_cast<int64_t>(row) * key_words + column];
    }
    const uint32_t votes = ballot(any != 0);
    if (lane() == 0) block.counts[warp()] = popcount(votes);
    block_sync();
    int before = 0, all = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) {
      before += w < warp() ? block.counts[w] : 0;
      all += block.counts[w];
    }
    block_sync();
    if (any) tiles[static_cast<int64_t>(tile_row) * key_words + listed + before + popcount(votes & ((1u << lane()) - 1))] = column;
    listed += all;
  }
  if (threadIdx.x == 0) counts[tile_row] = listed;
}

}  // namespace
}  // namespace xmsim

using namespace xmsim;

// words [masks, queries, key_words]; tiles [masks, ceil(queries / 64), key_words], of which counts [masks, ceil(queries / 64)] are filled.
XM_API int xm_cuda_list_tiles(const uint64_t* words, int masks, int queries, int key_words, int* tiles, int* counts, void* stream) {
  const dim3 blocks = {static_cast<unsigned>(ceil_div(queries, kTileRows)) * masks, 1, 1};
  return launch(list_tiles, blocks, kThreads, sizeof(ListShared), stream, words, queries, key_words, tiles, counts);
}
