// Where a kernel stands in the weights of one block of 32 outputs, for each form that leaves zeros out. A cursor gives tile after tile of
// the block in the order [k_tile][2].
#pragma once

#include <algorithm>

#include "isa.h"
#include "linear_format.h"

namespace xmsim {

// The bitmap that lies in the kernels' own order: rows follow each other.
template <class E>
struct BitmapCursor {
  const typename E::Mask* mask;
  const typename E::Bits* value;

  BitmapCursor(const PackedWeights& weights, int64_t block)
      : mask(static_cast<const typename E::Mask*>(weights.bitmap) + block * weights.k_tiles<E>() * 2 * kTileRows),
        value(static_cast<const typename E::Bits*>(weights.values) + static_cast<const int64_t*>(weights.offsets)[block]) {}
};

constexpr int kGroup = 64;  // rows and columns of a GroupTile, of TCA-BME and of the bitmap by columns
constexpr int kStripes = 4, kStripeRows = 16, kPair = 8;  // of TCA-BME: stripes of a GroupTile; two 8 x 8 bitmaps are 16 rows x 8 columns

// Which tile of the block comes next, as 16 rows (a quarter of a GroupTile) and some columns of a GroupTile.
template <class E>
struct GroupPlace {
  static constexpr int kTileInputs = kTileRows * E::kPerWord, kParts = kGroup / kTileInputs;
  int64_t first_group, tile = 0;
  int first_quarter;

  GroupPlace(const PackedWeights& weights, int64_t block)
      : first_group(block / 2 * ceil_div(weights.in_features, kGroup)), first_quarter(static_cast<int>(block % 2) * 2) {}
  int64_t group() const { return first_group + tile / 2 / kParts; }
  int quarter() const { return first_quarter + half(); }
  int half() const { return static_cast<int>(tile % 2); }
  int part() const { return static_cast<int>(tile / 2 % kParts); }
};

// SpInfer's TCA-BME (formats/tca_bme.py): within a stripe of 16 rows, values of two bitmaps at a time, 8 columns from top to bottom.
template <class E>
struct TcaBmeCursor {
  GroupPlace<E> place;
  const uint64_t* bitmap;
  const typename E::Bits* values;
  const int32_t *group_offsets, *stripe_offsets;
  const typename E::Bits* value[2] = {};  // of each half of the block

  TcaBmeCursor(const PackedWeights& weights, int64_t block)
      : place(weights, block),
        bitmap(static_cast<const uint64_t*>(weights.bitmap)),
        values(static_cast<const typename E::Bits*>(weights.values)),
        group_offsets(static_cast<const int32_t*>(weights.offsets)),
        stripe_offsets(static_cast<const int32_t*>(weights.inner_offsets)) {}

  static constexpr int kPairs = kTileRows * E::kPerWord / kPair;  // of a tile

  // The bitmaps [kPairs][2] of the next tile, whose first value is at value[place.half()].
  const uint64_t* next_bitmaps() {
    const int64_t group = place.group();
    const int stripe = place.quarter(), half = place.half(), part = place.part();
    if (part == 0) value[half] = values + group_offsets[group] + stripe_offsets[group * kStripes + stripe];
    ++place.tile;
    return bitmap + group * kGroup + stripe * kStripeRows + part * kPairs * 2;
  }
};

// SPDP's bitmap by columns (formats/column_bitmap.py): 64 rows of a column are one word, and its values follow each other.
template <class E>
struct ColumnCursor {
  GroupPlace<E> place;
  const uint64_t* bitmap;
  const typename E::Bits* values;
  const int32_t* group_offsets;
  const uint16_t* column_offsets;

  ColumnCursor(const PackedWeights& weights, int64_t block)
      : place(weights, block),
        bitmap(static_cast<const uint64_t*>(weights.bitmap)),
        values(static_cast<const typename E::Bits*>(weights.values)),
        group_offsets(static_cast<const int32_t*>(weights.offsets)),
        column_offsets(static_cast<const uint16_t*>(weights.inner_offsets)) {}

  struct Part {
    uint32_t mask;  // of 16 rows
    const typename E::Bits* value;
  };
  // The 16 rows of the running tile in one of its columns.
  Part part(int column) const {
    const int64_t group = place.group(), record = group * kGroup + place.part() * GroupPlace<E>::kTileInputs + column;
    const int shift = place.quarter() * kTileColumns;
    const uint64_t word = bitmap[record];
    const auto above = __builtin_popcountll(word & ((uint64_t{1} << shift) - 1));
    return {static_cast<uint32_t>(word >> shift & 0xffff), values + group_offsets[group] + column_offsets[record] + above};
  }
};

// For each byte of places, two nibbles of two 2-bit places: which of 8 inputs they name.
struct MaskOfPlaces {
  uint8_t of[256] = {};
  constexpr MaskOfPlaces() {
    for (int byte = 0; byte < 256; ++byte)
      of[byte] = static_cast<uint8_t>(1 << (byte & 3) | 1 << (byte >> 2 & 3) | 16 << (byte >> 4 & 3) | 16 << (byte >> 6 & 3));
  }
};
inline constexpr MaskOfPlaces kMaskOfPlaces;

// 2:4 (formats/two_four.py): rows of values at half the width, and 4 bits of places for each four inputs.
template <class E>
struct TwoFourCursor {
  const typename E::Bits* values;
  const uint8_t* places;
  int64_t out_features, in_features, first_output, tile = 0;

  TwoFourCursor(const PackedWeights& weights, int64_t block)
      : values(static_cast<const typename E::Bits*>(weights.values)),
        places(static_cast<const uint8_t*>(weights.bitmap)),
        out_features(weights.out_features),
        in_features(weights.in_features),
        first_output(block * kBlockColumns) {}

  struct Part {
    uint32_t mask;  // of the tile's 16 or 32 inputs
    const typename E::Bits* value;
  };
  // The inputs of the running tile in one of its 16 outputs; none beyond the matrix.
  Part part(int column) const {
    constexpr int kInputs = kTileRows * E::kPerWord;
    const int64_t output = first_output + tile % 2 * kTileColumns + column, first = tile / 2 * kInputs;
    if (output >= out_features) return {0, values};
    const int64_t inputs = std::min<int64_t>(kInputs, in_features - first);
    const uint8_t* const row = places + output * ceil_div(in_features, 8) + first / 8;
    uint32_t mask = 0;
    for (int i = 0; 8 * i < inputs; ++i) mask |= static_cast<uint32_t>(kMaskOfPlaces.of[row[i]]) << 8 * i;
    if (inputs < 32) mask &= (uint32_t{1} << inputs) - 1;  // the last byte may be half empty
    return {mask, values + (output * in_features + first) / 2};
  }
};

// Calls f with a cursor at the start of a block; not for Form::tiles.
template <class E, class F>
void with_cursor(const PackedWeights& weights, int64_t block, const F& f) {
  if constexpr (sizeof(typename E::Bits) > 1) {
    switch (weights.form) {
      case Form::tca_bme: return f(TcaBmeCursor<E>(weights, block));
      case Form::column_bitmap: return f(ColumnCursor<E>(weights, block));
      case Form::two_four: return f(TwoFourCursor<E>(weights, block));
      default: break;
    }
  }
  f(BitmapCursor<E>(weights, block));
}

}  // namespace xmsim
