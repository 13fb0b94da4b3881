// Attention by products of warpgroups: the steps that a warpgroup's 64 rows take with 64 keys and their values.
#pragma once

#include "attention_softmax.h"
#include "warpgroup.h"

namespace xmsim {

// 64 rows, in panels of 64 channels, as products read them.
template <int kDim>
using Rows = uint16_t[kDim / kTileColumns][kTile * kTileColumns];

#ifdef XM_HOPPER

constexpr int kPanelBytes = 2 * kTile * kTileColumns;

template <class Element, int kDim>
XM_DEVICE void products_with_keys(float (&scores)[8][4], uint32_t queries, uint32_t keys_address) {
  const uint32_t keys = operand(keys_address);
  XM_UNROLL(8)
  for (int step = 0; step < kDim / 16; ++step) {
    const int bytes = step / 4 * kPanelBytes + step % 4 * 32;
    if (step == 0) {
      wgmma_shared<Element, false>(scores, queries, keys);
    } else {
      wgmma_shared<Element, true>(scores, further(queries, bytes), further(keys, bytes));
    }
  }
  wgmma_commit();
}

template <class Element, int kEights>
XM_DEVICE void products_with_values(float (&out)[kEights][4], uint32_t (&weights)[kTile / 16][4], uint32_t values_address) {
  const uint32_t values = operand(values_address, kPanelBytes);
  XM_UNROLL(4)
  for (int step = 0; step < kTile / 16; ++step) wgmma_rows<Element>(out, weights[step], further(values, 2 * kEightRows * step));
  wgmma_commit();
}

// The output follows the largest score, and scores become the next left operand.
template <class Element, int kEights>
XM_DEVICE void take_over(float (&out)[kEights][4], float (&scores)[8][4], const float (&shrink)[2], uint32_t (&weights)[kTile / 16][4]) {
  if (ballot(shrink[0] != 1.0f || shrink[1] != 1.0f)) {
    XM_UNROLL(16)
    for (int n = 0; n < kEights; ++n) {
      XM_UNROLL(4)
      for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
    }
  }
  XM_UNROLL(4)
  for (int step = 0; step < kTile / 16; ++step) probabilities<Element>(scores, step, weights[step]);
}

#endif

}  // namespace xmsim
