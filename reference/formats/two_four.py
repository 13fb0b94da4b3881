"""2:4 weights, compressed: of each four neighbours along in_features the two that may differ from zero, and where they are.

Source: the operand of sparse tensor cores (PTX mma.sp, 16 bit elements): values at half the width, and 4 bits of metadata for four
weights: two ascending places of 2 bits, the first in the low bits. Rows of the metadata stay in their order; libraries shuffle them.
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
    matrix_as_given,
    read_float_matrix,
    refuse_nan,
)

KEPT, BLOCK = 2, 4


@dataclass(frozen=True, slots=True, eq=False)
class TwoFour:
    """A weight matrix [out_features, in_features] with at most two non-zeros in each aligned four of a row.

    Raises:
        ValueError: the parts do not fit each other.
    """

    shape: tuple[int, int]
    element: FloatElement
    values: np.ndarray  # float16, uint16 (bits of bfloat16) or float32 [out_features, in_features / 2]
    places: np.ndarray  # uint8 [out_features, ceil(in_features / 8)]: 4 bits for each four weights, the first four in the low bits
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        check_matrix(self.shape, self.element)
        rows, columns = self.shape
        _check_width(columns)
        check_part("values", self.values, (rows, columns // BLOCK * KEPT), STORED[self.element])
        check_part("places", self.places, (rows, _place_bytes(columns)), np.uint8)
        nibbles = np.stack((self.places & 15, self.places >> 4), axis=-1).reshape(rows, -1)[:, : columns // BLOCK]
        if (nibbles & 3 >= nibbles >> 2).any():
            raise ValueError("places: they do not ascend; these weights are damaged, pack them again")

    @classmethod
    def from_dense(cls, array: Any) -> TwoFour:
        """Store a matrix that is 2:4 already; a four with fewer than two non-zeros takes its first zeros along.

        Args:
            array: [out_features, in_features]; kinds and errors are those of read_float_matrix.
        Raises:
            ValueError: in_features is not a multiple of 4, or the matrix is not 2:4; the text names the first four that is not.
        """
        matrix = read_float_matrix(array)
        rows, columns = matrix.shape
        _check_width(columns)
        values = np.empty((rows, columns // BLOCK * KEPT), BITS[matrix.element])
        places = np.empty((rows, _place_bytes(columns)), np.uint8)
        overfull, nan = np.empty(rows, np.int64), np.zeros(rows, np.bool_)
        _compress(matrix.bits, matrix.magnitude, matrix.infinity, values, places, overfull, nan)
        refuse_nan(bool(nan.any()))
        if (overfull >= 0).any():
            row = int(np.argmax(overfull >= 0))
            first = BLOCK * int(overfull[row])
            raise ValueError(
                f"weights: row {row} has more than {KEPT} non-zeros in columns {first} to {first + BLOCK - 1}; "
                "prune the matrix to 2:4 first"
            )
        return cls(matrix.shape, matrix.element, values.view(STORED[matrix.element]), places, matrix.as_tensor)

    def to_dense(self) -> Any:
        """The matrix that was packed, zeros in place."""
        bits = np.zeros(self.shape, BITS[self.element])
        _spread(self.values.view(BITS[self.element]), self.places, bits)
        return matrix_as_given(bits, self.element, as_tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return self.values.nbytes + self.places.nbytes


def _check_width(columns: int) -> None:
    if columns % BLOCK:
        raise ValueError(f"weights: {columns} in_features are not a multiple of {BLOCK}, which 2:4 needs; leave this layer dense")


def _place_bytes(columns: int) -> int:
    return -(-columns // (2 * BLOCK))


@njit(parallel=True, cache=True)
def _compress(
    bits: np.ndarray, magnitude: int, infinity: int, values: np.ndarray, places: np.ndarray, overfull: np.ndarray, nan: np.ndarray
) -> None:
    """Values and places of each row; overfull is the first four with more than two non-zeros, or -1; nan marks rows that hold one."""
    for row in prange(bits.shape[0]):
        places[row] = 0
        overfull[row] = -1
        for block in range(bits.shape[1] // BLOCK):
            stored, chosen = 0, 0
            for place in range(BLOCK):
                size = bits[row, BLOCK * block + place] & magnitude
                nan[row] |= size > infinity
                stored += size != 0
                chosen |= (size != 0) << place
            if stored > KEPT and overfull[row] < 0:
                overfull[row] = block
            for place in range(BLOCK):
                if stored < KEPT and not chosen >> place & 1:
                    stored += 1
                    chosen |= 1 << place
            kept, nibble = 0, 0
            for place in range(BLOCK):
                if chosen >> place & 1 and kept < KEPT:
                    weight = bits[row, BLOCK * block + place]
                    values[row, KEPT * block + kept] = weight if weight & magnitude else 0
                    nibble |= place << 2 * kept
                    kept += 1
            places[row, block >> 1] |= np.uint8(nibble << 4 * (block & 1))


@njit(parallel=True, cache=True)
def _spread(values: np.ndarray, places: np.ndarray, bits: np.ndarray) -> None:
    """Each value back to its place."""
    for row in prange(bits.shape[0]):
        for block in range(bits.shape[1] // BLOCK):
            nibble = places[row, block >> 1] >> 4 * (block & 1) & 15
            for kept in range(KEPT):
                bits[row, BLOCK * block + (nibble >> 2 * kept & 3)] = values[row, KEPT * block + kept]
