"""MACKO: rows of values, each with 4 bits that say how many zeros lie before it.

Source: vlejd/macko_spmv (arXiv 2511.13061), src/macko_spmv/cuda/cpu_compressor.cuh, of the versions that end a row with its last non-zero.
After 15 zeros the next weight is stored whatever it is.
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

LONGEST_GAP = 15  # zeros between two stored values
WIDEST = 2**20  # columns
PADDING = 8  # values and deltas are filled up to a multiple of this


@dataclass(frozen=True, slots=True, eq=False)
class Macko:
    """A weight matrix [out_features, in_features] as values and distances.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int]
    element: FloatElement
    values: np.ndarray  # float16, uint16 (bits of bfloat16) or float32: stored weights, and zeros up to a multiple of 8
    deltas: np.ndarray  # uint8 [values / 2]: zeros before each value since the one before it in its row; the first value in the low 4 bits
    row_indices: np.ndarray  # int32 [out_features + 1]: where the values of each row start
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        check_matrix(self.shape, self.element)
        if self.shape[1] > WIDEST:  # rows that store nothing have no bytes that would bound them
            raise ValueError(f"shape: {self.shape[1]} columns are more than the {WIDEST} that a layer may have")
        check_part("row_indices", self.row_indices, (self.shape[0] + 1,), np.int32)
        check_offsets("row_indices", self.row_indices)
        padded = filled_up(int(self.row_indices[-1]), PADDING)
        check_part("values", self.values, (padded,), STORED[self.element])
        check_part("deltas", self.deltas, (padded // 2,), np.uint8)
        if not _rows_fit(self.deltas, self.row_indices, self.shape[1]):
            raise ValueError("deltas: a row leads beyond its last column; these weights are damaged, pack them again")

    @classmethod
    def from_dense(cls, array: Any) -> Macko:
        """Store the weights that are not zero (0 and -0 are), and zeros where gaps are too long.

        Args:
            array: [out_features, in_features]; kinds and errors are those of read_float_matrix.
        """
        matrix = read_float_matrix(array)
        counts, nan = np.empty(len(matrix.bits), np.int64), np.zeros(len(matrix.bits), np.bool_)
        _count(matrix.bits, matrix.magnitude, matrix.infinity, counts, nan)
        refuse_nan(bool(nan.any()))
        rows = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        padded = filled_up(int(rows[-1]), PADDING)
        values, gaps = np.zeros(padded, BITS[matrix.element]), np.zeros(padded, np.uint8)
        _compress(matrix.bits, matrix.magnitude, rows, values, gaps)
        deltas = gaps[0::2] | gaps[1::2] << 4
        return cls(matrix.shape, matrix.element, values.view(STORED[matrix.element]), deltas, rows, matrix.as_tensor)

    def to_dense(self) -> Any:
        """The matrix that was packed, zeros in place."""
        bits = np.zeros(self.shape, BITS[self.element])
        _spread(self.values.view(BITS[self.element]), self.deltas, self.row_indices, bits)
        return matrix_as_given(bits, self.element, as_tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return self.values.nbytes + self.deltas.nbytes + self.row_indices.nbytes


@njit(parallel=True, cache=True)
def _count(bits: np.ndarray, magnitude: int, infinity: int, counts: np.ndarray, nan: np.ndarray) -> None:
    """Values that each row stores; nan marks the rows that hold one."""
    for row in prange(bits.shape[0]):
        stored, gap, above = 0, 0, False
        counts[row] = 0
        for column in range(bits.shape[1]):
            size = bits[row, column] & magnitude
            above |= size > infinity
            keeps = (size != 0) | (gap == LONGEST_GAP)
            stored += keeps
            gap = 0 if keeps else gap + 1
            if size != 0:  # zeros after the last weight are not stored
                counts[row] = stored
        nan[row] = above


@njit(parallel=True, cache=True)
def _compress(bits: np.ndarray, magnitude: int, rows: np.ndarray, values: np.ndarray, gaps: np.ndarray) -> None:
    """Values of each row, and the zeros before each."""
    for row in prange(bits.shape[0]):
        place, gap = rows[row], 0
        for column in range(bits.shape[1]):
            if place == rows[row + 1]:
                break
            weight = bits[row, column]
            size = weight & magnitude
            if size != 0 or gap == LONGEST_GAP:
                values[place] = weight if size != 0 else 0
                gaps[place] = gap
                place += 1
                gap = 0
            else:
                gap += 1


@njit(parallel=True, cache=True)
def _spread(values: np.ndarray, deltas: np.ndarray, rows: np.ndarray, bits: np.ndarray) -> None:
    """Each value back to its column."""
    for row in prange(bits.shape[0]):
        column = -1
        for place in range(rows[row], rows[row + 1]):
            column += 1 + (deltas[place >> 1] >> 4 * (place & 1) & 15)
            bits[row, column] = values[place]


@njit(cache=True)
def _rows_fit(deltas: np.ndarray, rows: np.ndarray, columns: int) -> bool:
    """Whether every value of every row lies inside the matrix."""
    for row in range(len(rows) - 1):
        column = -1
        for place in range(rows[row], rows[row + 1]):
            column += 1 + (deltas[place >> 1] >> 4 * (place & 1) & 15)
        if column >= columns:
            return False
    return True
