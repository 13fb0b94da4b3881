"""TCA-BME, the format of SpInfer: bitmaps of 8 × 8 weights, in the order of the fragments that tensor cores take.

A matrix is cut into GroupTiles of 64 × 64, row-major; a GroupTile into 4 stripes of 16 rows, top to bottom; a stripe into 4 TCTiles of
16 × 16, left to right; a TCTile into 4 BitmapTiles of 8 × 8: top left, bottom left, top right, bottom right. Bit 8 × row + column of a
BitmapTile is set where the weight is not zero, and values lie in the order of the bits.

Source: HPMLL/SpInfer_EuroSys25 at 2410ef7, csrc/SpMM_API.cu. There, rows and columns beyond a multiple of 64 are dropped; here they are
filled up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange

from xmsim.reference.formats.dense_tiles import check_part
from xmsim.reference.formats.float_matrix import (
    BITS,
    STORED,
    FloatElement,
    check_matrix,
    check_offsets,
    filled_up,
    matrix_as_given,
    read_float_matrix,
    refuse_nan,
)

GROUP = 64  # rows and columns of a GroupTile
BITMAP = 8  # rows and columns of a BitmapTile
STRIPES = 4  # of a GroupTile
GROUP_BITMAPS = (GROUP // BITMAP) ** 2
GROUP_PADDING = 8  # the values of a GroupTile are filled up to a multiple of this: 16 bytes of float16, one cp.async
SHARED_PADDING = 64  # a kernel's buffer for the values of one GroupTile is a multiple of this


@dataclass(frozen=True, slots=True, eq=False)
class TcaBme:
    """A weight matrix [out_features, in_features] in TCA-BME.

    The published kernel looks one GroupTile ahead, at group_offsets[groups + 1]: a copy for it needs two spare entries at the end.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int]
    element: FloatElement
    values: np.ndarray  # float16, uint16 (bits of bfloat16) or float32: the stored weights, and zeros at the end of each GroupTile
    bitmap: np.ndarray  # uint64 [groups × 64]
    group_offsets: np.ndarray  # int32 [groups + 1]: where the values of each GroupTile start; the last is their number
    stripe_offsets: np.ndarray  # int32 [groups × 4]: where those of each stripe start, from the start of its GroupTile
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        check_matrix(self.shape, self.element)
        groups = self.groups
        check_part("bitmap", self.bitmap, (groups * GROUP_BITMAPS,), np.uint64)
        check_part("group_offsets", self.group_offsets, (groups + 1,), np.int32)
        check_part("stripe_offsets", self.stripe_offsets, (groups * STRIPES,), np.int32)
        check_offsets("group_offsets", self.group_offsets)
        check_part("values", self.values, (int(self.group_offsets[-1]),), STORED[self.element])
        # whoever reads follows the bits: a bitmap with more of them than values would lead out of the memory
        counts = self._stripe_counts()
        starts = np.cumsum(counts, axis=1) - counts
        if not (
            np.array_equal(np.diff(self.group_offsets), filled_up(counts.sum(axis=1), GROUP_PADDING))
            and np.array_equal(self.stripe_offsets.reshape(groups, STRIPES), starts)
        ):
            raise ValueError("group_offsets: they do not fit the bits of the bitmap; these weights are damaged, pack them again")

    @classmethod
    def from_dense(cls, array: Any) -> TcaBme:
        """Store the weights that are not zero (0 and -0 are).

        Args:
            array: [out_features, in_features]; kinds and errors are those of read_float_matrix.
        """
        matrix = read_float_matrix(array)
        bits = matrix.padded_bits(GROUP)
        groups = bits.size // GROUP**2
        bitmap, counts, nan = np.empty(groups * GROUP_BITMAPS, np.uint64), np.empty((groups, STRIPES), np.int32), np.zeros(groups, np.bool_)
        _map(bits, matrix.magnitude, matrix.infinity, bitmap, counts, nan)
        refuse_nan(bool(nan.any()))
        offsets = np.concatenate(([0], np.cumsum(filled_up(counts.sum(axis=1, dtype=np.int64), GROUP_PADDING)))).astype(np.int32)
        values = np.empty(offsets[-1], BITS[matrix.element])
        _collect(bits, matrix.magnitude, offsets, values)
        starts = np.cumsum(counts, axis=1, dtype=np.int32) - counts
        return cls(matrix.shape, matrix.element, values.view(STORED[matrix.element]), bitmap, offsets, starts.ravel(), matrix.as_tensor)

    @property
    def groups(self) -> int:
        """How many GroupTiles there are."""
        rows, columns = self.shape
        return -(-rows // GROUP) * -(-columns // GROUP)

    @property
    def nonzeros(self) -> int:
        """How many weights are stored, padding left out."""
        return int(self._stripe_counts().sum())

    @property
    def max_nnz(self) -> int:
        """Values that a kernel's buffer for one GroupTile must hold: those of the fullest with their padding, up to a multiple of 64.

        The published launcher reserves 2304 whatever the matrix, too few below about 44 % sparsity.
        """
        return int(filled_up(np.diff(self.group_offsets).max(), SHARED_PADDING))

    def to_dense(self) -> Any:
        """The matrix that was packed, zeros in place."""
        rows, columns = self.shape
        bits = np.empty((filled_up(rows, GROUP), filled_up(columns, GROUP)), BITS[self.element])
        _spread(self.values.view(BITS[self.element]), self.bitmap, self.group_offsets, bits)
        return matrix_as_given(np.ascontiguousarray(bits[:rows, :columns]), self.element, as_tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return self.values.nbytes + self.bitmap.nbytes + self.group_offsets.nbytes + self.stripe_offsets.nbytes

    def _stripe_counts(self) -> np.ndarray:
        """Weights stored of each stripe, int64 [groups, 4]."""
        return np.bitwise_count(self.bitmap).reshape(self.groups, STRIPES, -1).sum(axis=2, dtype=np.int64)


@njit(cache=True)
def _corner(group: int, index: int, groups_across: int) -> tuple[int, int]:
    """Row and column of the first weight of a BitmapTile: index bits are stripe (2), TCTile (2), right half, bottom half."""
    row = (group // groups_across) * GROUP + (index >> 4) * 2 * BITMAP + (index & 1) * BITMAP
    column = (group % groups_across) * GROUP + (index >> 2 & 3) * 2 * BITMAP + (index >> 1 & 1) * BITMAP
    return row, column


@njit(parallel=True, cache=True)
def _map(bits: np.ndarray, magnitude: int, infinity: int, bitmap: np.ndarray, counts: np.ndarray, nan: np.ndarray) -> None:
    """Bitmaps of all tiles, and how many weights each stripe stores; nan marks the GroupTiles that hold one."""
    across = bits.shape[1] // GROUP
    for group in prange(len(nan)):
        for stripe in range(STRIPES):
            counts[group, stripe] = 0
        for index in range(GROUP_BITMAPS):
            row, column = _corner(group, index, across)
            word, stored, above = np.uint64(0), 0, False
            for r in range(BITMAP):
                for c in range(BITMAP):
                    size = bits[row + r, column + c] & magnitude
                    kept = size != 0
                    word |= np.uint64(kept) << np.uint64(BITMAP * r + c)
                    stored += kept
                    above |= size > infinity
            bitmap[group * GROUP_BITMAPS + index] = word
            counts[group, index >> 4] += stored
            nan[group] |= above


@njit(parallel=True, cache=True)
def _collect(bits: np.ndarray, magnitude: int, offsets: np.ndarray, values: np.ndarray) -> None:
    """The weights that are not zero, in the order of the bits, and zeros up to the next GroupTile."""
    across = bits.shape[1] // GROUP
    for group in prange(len(offsets) - 1):
        buffer = np.empty(GROUP * GROUP + 1, bits.dtype)  # every weight is written, and the next one over it unless it is kept
        place = 0
        for index in range(GROUP_BITMAPS):
            row, column = _corner(group, index, across)
            for r in range(BITMAP):
                for c in range(BITMAP):
                    weight = bits[row + r, column + c]
                    buffer[place] = weight
                    place += (weight & magnitude) != 0
        start, end = offsets[group], offsets[group + 1]
        values[start : start + place] = buffer[:place]
        values[start + place : end] = 0


@njit(parallel=True, cache=True)
def _spread(values: np.ndarray, bitmap: np.ndarray, offsets: np.ndarray, bits: np.ndarray) -> None:
    """Each stored weight back to its place."""
    across = bits.shape[1] // GROUP
    for group in prange(len(offsets) - 1):
        place = offsets[group]
        for index in range(GROUP_BITMAPS):
            row, column = _corner(group, index, across)
            word = bitmap[group * GROUP_BITMAPS + index]
            for r in range(BITMAP):
                for c in range(BITMAP):
                    if word >> np.uint64(BITMAP * r + c) & np.uint64(1):
                        bits[row + r, column + c] = values[place]
                        place += 1
                    else:
                        bits[row + r, column + c] = 0
