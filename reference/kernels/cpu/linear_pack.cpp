// Between a matrix in rows [out, in] and its tiles.
#include <algorithm>
#include <cstring>

#include "isa.h"
#include "linear_expand.h"
#include "linear_format.h"
#include "team.h"

namespace xmsim {
namespace {

struct Matrix {
  char* bytes;
  int64_t rows, columns;
};

// The words that tile (block, k_tile, half) takes from each of its outputs; beyond the matrix there are none.
template <class E>
struct TilePlace {
  int64_t first_row, rows;
  int64_t first_byte, bytes, row_bytes;

  TilePlace(const Matrix& matrix, int64_t block, int64_t k_tile, int64_t half) {
    constexpr int64_t kElementBytes = sizeof(typename E::Bits);
    row_bytes = matrix.columns * kElementBytes;
    first_row = block * kBlockColumns + half * kTileColumns;
    rows = std::clamp<int64_t>(matrix.rows - first_row, 0, kTileColumns);
    first_byte = k_tile * kTileRows * 4;
    bytes = std::min<int64_t>(kTileRows * 4, row_bytes - first_byte);
  }
  char* row(const Matrix& matrix, int64_t index) const { return matrix.bytes + (first_row + index) * row_bytes + first_byte; }
};

void transpose(const uint32_t* from, uint32_t* to) {
  for (int row = 0; row < kTileRows; ++row)
    for (int column = 0; column < kTileColumns; ++column) to[row * kRowWords + column] = from[column * kTileRows + row];
}

template <class E>
void read_tile(const Matrix& matrix, const TilePlace<E>& place, uint32_t* tile) {
  uint32_t columns[kTileWords] = {};
  for (int64_t i = 0; i < place.rows; ++i) std::memcpy(columns + i * kTileRows, place.row(matrix, i), place.bytes);
  transpose(columns, tile);
}

template <class E>
void write_tile(const Matrix& matrix, const TilePlace<E>& place, const uint32_t* tile) {
  uint32_t columns[kTileWords];
  transpose(tile, columns);
  for (int64_t i = 0; i < place.rows; ++i) std::memcpy(place.row(matrix, i), columns + i * kTileRows, place.bytes);
}

// Calls body(block, place, index of the tile) for each tile, the tiles of a block in order.
template <class E, class Body>
void for_tiles(const Matrix& matrix, int64_t block, const Body& body) {
  const int64_t k_tiles = ceil_div(matrix.columns, kTileRows * E::kPerWord);
  for (int64_t tile = 0; tile < 2 * k_tiles; ++tile)
    body(TilePlace<E>(matrix, block, tile / 2, tile % 2), block * 2 * k_tiles + tile);
}

// Without its sign: zero for 0 and -0.
uint32_t magnitude(Float32, uint32_t bits) { return bits & 0x7fffffff; }
uint16_t magnitude(Bfloat16, uint16_t bits) { return bits & 0x7fff; }
uint16_t magnitude(Float16, uint16_t bits) { return bits & 0x7fff; }
uint8_t magnitude(Int8, uint8_t bits) { return bits; }

constexpr uint32_t infinity(Float32) { return 0x7f800000; }
constexpr uint16_t infinity(Bfloat16) { return 0x7f80; }
constexpr uint16_t infinity(Float16) { return 0x7c00; }
constexpr uint8_t infinity(Int8) { return 0xff; }

template <class E>
int64_t count_values(const Matrix& matrix, int64_t block) {
  const auto* elements = reinterpret_cast<const typename E::Bits*>(matrix.bytes);
  const int64_t first = block * kBlockColumns, last = std::min(first + kBlockColumns, matrix.rows);
  int64_t count = 0;
  bool nan = false;
  for (int64_t i = first * matrix.columns; i < last * matrix.columns; ++i) {
    const auto size = magnitude(E{}, elements[i]);
    count += size != 0;
    nan |= size > infinity(E{});
  }
  return nan ? -1 : count;
}

template <class E>
void pack_block(const Matrix& matrix, int64_t block, typename E::Mask* bitmap, typename E::Bits* values) {
  for_tiles<E>(matrix, block, [&](const TilePlace<E>& place, int64_t tile) {
    uint32_t words[kTileWords];
    read_tile(matrix, place, words);
    typename E::Bits elements[kTileWords * E::kPerWord], kept[kTileWords * E::kPerWord];
    std::memcpy(elements, words, sizeof words);
    int count = 0;
    for (int row = 0; row < kTileRows; ++row) {
      uint64_t mask = 0;
      for (int i = 0; i < kRowElements<E>; ++i) {
        const auto element = elements[row * kRowElements<E> + i];
        const bool stored = magnitude(E{}, element) != 0;
        kept[count] = element;
        count += stored;
        mask |= static_cast<uint64_t>(stored) << i;
      }
      bitmap[tile * kTileRows + row] = static_cast<typename E::Mask>(mask);
    }
    std::copy(kept, kept + count, values);
    values += count;
  });
}

}  // namespace
}  // namespace xmsim

// counts [blocks of 32 outputs]: how many elements of a block are not zero, -1 where one is NaN.
XM_API void xm_bitmap_count(int element, const void* matrix, int64_t rows, int64_t columns, int64_t* counts, int threads) {
  using namespace xmsim;
  const Matrix source{static_cast<char*>(const_cast<void*>(matrix)), rows, columns};
  with_element(static_cast<Element>(element), [&](auto e) {
    for_parts(ceil_div(rows, kBlockColumns), threads, [&](int64_t block) { counts[block] = count_values<decltype(e)>(source, block); });
  });
}

// Fill bitmap and values; offsets [blocks] come from the counts.
XM_API void xm_bitmap_pack(int element, const void* matrix, int64_t rows, int64_t columns, const int64_t* offsets, void* bitmap,
                           void* values, int threads) {
  using namespace xmsim;
  const Matrix source{static_cast<char*>(const_cast<void*>(matrix)), rows, columns};
  with_element(static_cast<Element>(element), [&](auto e) {
    using E = decltype(e);
    for_parts(ceil_div(rows, kBlockColumns), threads, [&](int64_t block) {
      pack_block<E>(source, block, static_cast<typename E::Mask*>(bitmap), static_cast<typename E::Bits*>(values) + offsets[block]);
    });
  });
}

XM_API void xm_bitmap_unpack(int element, const void* bitmap, const void* values, const int64_t* offsets, int64_t rows, int64_t columns,
                             void* matrix, int threads) {
  using namespace xmsim;
  const Matrix target{static_cast<char*>(matrix), rows, columns};
  const PackedWeights weights{rows, columns, Form::bitmap, bitmap, values, offsets, nullptr, nullptr, nullptr};
  with_element(static_cast<Element>(element), [&](auto e) {
    using E = decltype(e);
    for_parts(weights.blocks(), threads, [&](int64_t block) {
      BitmapCursor<E> cursor(weights, block);
      for_tiles<E>(target, block, [&](const TilePlace<E>& place, int64_t) {
        uint32_t tile[kTileWords];
        expand_portable(cursor, 1, tile);
        write_tile(target, place, tile);
      });
    });
  });
}

XM_API void xm_tiles_pack(int element, const void* matrix, int64_t rows, int64_t columns, uint32_t* tiles, int threads) {
  using namespace xmsim;
  const Matrix source{static_cast<char*>(const_cast<void*>(matrix)), rows, columns};
  with_element(static_cast<Element>(element), [&](auto e) {
    using E = decltype(e);
    for_parts(ceil_div(rows, kBlockColumns), threads, [&](int64_t block) {
      for_tiles<E>(source, block,
                   [&](const TilePlace<E>& place, int64_t tile) { read_tile(source, place, tiles + tile * kTileWords); });
    });
  });
}

XM_API void xm_tiles_unpack(int element, const uint32_t* tiles, int64_t rows, int64_t columns, void* matrix, int threads) {
  using namespace xmsim;
  const Matrix target{static_cast<char*>(matrix), rows, columns};
  with_element(static_cast<Element>(element), [&](auto e) {
    using E = decltype(e);
    for_parts(ceil_div(rows, kBlockColumns), threads, [&](int64_t block) {
      for_tiles<E>(target, block,
                   [&](const TilePlace<E>& place, int64_t tile) { write_tile(target, place, tiles + tile * kTileWords); });
    });
  });
}
