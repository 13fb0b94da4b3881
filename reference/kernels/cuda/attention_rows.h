// Rows of keys or values in shared memory, as ldmatrix reads them.
#pragma once

#include "simt.h"

namespace xmsim {

// Where 16 bytes of a row lie: neighbouring rows start in different banks, so that eight rows are read at once.
template <int kDim>
XM_DEVICE int place(int row, int chunk) {
  return row * kDim + 8 * (chunk ^ (row % 8));
}

}  // namespace xmsim
