"""Bitmap by columns, for products with sparse vectors (SPDP's spMspV): an input that is zero leaves the bytes of its column unread.

A matrix is cut into GroupTiles of 64 × 64, row-major. A GroupTile holds its columns one after the other: of each a word, whose bit r is
set where the weight of row r is not zero, and those weights from the top down.

Source: the Tiled Column-wise Bitmap Compressed format of SPDP (arXiv 2607.21985), which is described there and not public; tile size,
arrays and paddings are our choice, in the manner of TCA-BME.
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

GROUP = 64  # rows and columns of a GroupTile; a column of it is one word of the bitmap
GROUP_PADDING = 8  # the values of a GroupTile are filled up to a multiple of this, so that each starts on a multiple of 16 bytes


@dataclass(frozen=True, slots=True, eq=False)
class ColumnBitmap:
    """A weight matrix [out_features, in_features] as bitmap and values, column by column of each GroupTile.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int]
    element: FloatElement
    values: np.ndarray  # float16, uint16 (bits of bfloat16) or float32: the stored weights, and zeros at the end of each GroupTile
    bitmap: np.ndarray  # uint64 [groups × 64]
    group_offsets: np.ndarray  # int32 [groups + 1]: where the values of each GroupTile start; the last is their number
    column_offsets: np.ndarray  # uint16 [groups × 64]: where those of each column start, from the start of its GroupTile
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        check_matrix(self.shape, self.element)
        groups = self.groups
        check_part("bitmap", self.bitmap, (groups * GROUP,), np.uint64)
        check_part("group_offsets", self.group_offsets, (groups + 1,), np.int32)
        check_part("column_offsets", self.column_offsets, (groups * GROUP,), np.uint16)
        check_offsets("group_offsets", self.group_offsets)
        check_part("values", self.values, (int(self.group_offsets[-1]),), STORED[self.element])
        # whoever reads follows the bits: a bitmap with more of them than values would lead out of the memory
        counts = np.bitwise_count(self.bitmap).reshape(groups, GROUP).astype(np.int64)
        if not (
            np.array_equal(np.diff(self.group_offsets), filled_up(counts.sum(axis=1), GROUP_PADDING))
            and np.array_equal(self.column_offsets.reshape(groups, GROUP), np.cumsum(counts, axis=1) - counts)
        ):
            raise ValueError("group_offsets: they do not fit the bits of the bitmap; these weights are damaged, pack them again")

    @classmethod
    def from_dense(cls, array: Any) -> ColumnBitmap:
        """Store the weights that are not zero (0 and -0 are).

        Args:
            array: [out_features, in_features]; kinds and errors are those of read_float_matrix.
        """
        matrix = read_float_matrix(array)
        bits = matrix.padded_bits(GROUP)
        groups = bits.size // GROUP**2
        bitmap, nan = np.empty((groups, GROUP), np.uint64), np.zeros(groups, np.bool_)
        _map(bits, matrix.magnitude, matrix.infinity, bitmap, nan)
        refuse_nan(bool(nan.any()))
        counts = np.bitwise_count(bitmap).astype(np.int64)
        offsets = np.concatenate(([0], np.cumsum(filled_up(counts.sum(axis=1), GROUP_PADDING)))).astype(np.int32)
        values = np.empty(offsets[-1], BITS[matrix.element])
        _collect(bits, matrix.magnitude, offsets, values)
        columns = (np.cumsum(counts, axis=1) - counts).astype(np.uint16)
        stored = values.view(STORED[matrix.element])
        return cls(matrix.shape, matrix.element, stored, bitmap.ravel(), offsets, columns.ravel(), matrix.as_tensor)

    @property
    def groups(self) -> int:
        """How many GroupTiles there are."""
        rows, columns = self.shape
        return -(-rows // GROUP) * -(-columns // GROUP)

    @property
    def nonzeros(self) -> int:
        """How many weights are stored, padding left out."""
        return int(np.bitwise_count(self.bitmap).sum(dtype=np.int64))

    def to_dense(self) -> Any:
        """The matrix that was packed, zeros in place."""
        rows, columns = self.shape
        bits = np.empty((filled_up(rows, GROUP), filled_up(columns, GROUP)), BITS[self.element])
        _spread(self.values.view(BITS[self.element]), self.bitmap, self.group_offsets, bits)
        return matrix_as_given(np.ascontiguousarray(bits[:rows, :columns]), self.element, as_tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return self.values.nbytes + self.bitmap.nbytes + self.group_offsets.nbytes + self.column_offsets.nbytes


@njit(parallel=True, cache=True)
def _map(bits: np.ndarray, magnitude: int, infinity: int, bitmap: np.ndarray, nan: np.ndarray) -> None:
    """The word of each column; nan marks the GroupTiles that hold one."""
    across = bits.shape[1] // GROUP
    for group in prange(len(nan)):
        top, left = group // across * GROUP, group % across * GROUP
        words, above = np.zeros(GROUP, np.uint64), False
        for r in range(GROUP):  # rows outside, so that memory is read in its order
            for c in range(GROUP):
                size = bits[top + r, left + c] & magnitude
                words[c] |= np.uint64(size != 0) << np.uint64(r)
                above |= size > infinity
        bitmap[group] = words
        nan[group] = above


@njit(parallel=True, cache=True)
def _collect(bits: np.ndarray, magnitude: int, offsets: np.ndarray, values: np.ndarray) -> None:
    """The weights that are not zero, column by column, and zeros up to the next GroupTile."""
    across = bits.shape[1] // GROUP
    for group in prange(len(offsets) - 1):
        top, left = group // across * GROUP, group % across * GROUP
        buffer = np.empty(GROUP * GROUP + 1, bits.dtype)  # every weight is written, and the next one over it unless it is kept
        place = 0
        for c in range(GROUP):
            for r in range(GROUP):
                weight = bits[top + r, left + c]
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
        top, left = group // across * GROUP, group % across * GROUP
        place = offsets[group]
        for c in range(GROUP):
            word = bitmap[group * GROUP + c]
            for r in range(GROUP):
                if word >> np.uint64(r) & np.uint64(1):
                    bits[top + r, left + c] = values[place]
                    place += 1
                else:
                    bits[top + r, left + c] = 0
