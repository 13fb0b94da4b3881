"""Sparse weights as a bitmap and the values that are not zero: 1 bit for each weight, and its bytes only if it is kept.

Source: SparAMX (arXiv 2502.12444), with an offset for each block of 32 outputs where SparAMX has one for each thread: any number of threads
reads the same container, and every kernel does.
"""

from __future__ import annotations

from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.reference.formats.bfloat16 import bfloat16_values
from xmsim.reference.formats.dense_tiles import check_int8_parts, check_part
from xmsim.reference.formats.tile_order import (
    ELEMENT_CODES,
    STORED,
    Element,
    Matrix,
    TileOrder,
    nonzeros_of_blocks,
    read_matrix,
    weights_like,
)
from xmsim.reference.kernels.native import address, default_threads, huge_empty, kernel

MASKS = {"float32": np.uint16, "bfloat16": np.uint32, "int8": np.uint64, "float16": np.uint32}  # one word for each row of a tile
PADDING_BYTES = 64  # after the last value, so that a whole register may be loaded there


@dataclass(frozen=True, slots=True, eq=False)
class SparseBitmap:
    """A weight matrix [out_features, in_features] as bitmap and values, tile by tile (tile_order.py).

    Raises:
        ValueError: the parts do not fit each other.
    """

    order: TileOrder
    bitmap: np.ndarray  # uint16, uint32 or uint64 [blocks, k_tiles, 2, 16]: bit i is set where element i of the row is stored
    values: (
        np.ndarray
    )  # float32, float16, uint16 (bits of bfloat16) or int8: stored elements in the order of the bits, then 64 bytes of padding
    offsets: np.ndarray  # int64 [blocks + 1]: where the values of each block of 32 outputs start; the last is their number
    scales: np.ndarray | None = None  # int8: float32 [out_features], what one step of an output's integers is worth
    column_sums: np.ndarray | None = None  # int8: int32 [out_features], sums of the integers, for unsigned dot products
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        order = self.order
        check_part("bitmap", self.bitmap, order.shape[:-1], MASKS[order.element])
        check_part("offsets", self.offsets, (order.blocks + 1,), np.int64)
        check_int8_parts(order, self.scales, self.column_sums)
        # a kernel trusts these sums: it would follow a bitmap with more bits than values out of its memory
        counts = np.bitwise_count(self.bitmap).reshape(order.blocks, -1).sum(axis=1, dtype=np.int64)
        if self.offsets[0] != 0 or not np.array_equal(np.diff(self.offsets), counts):
            raise ValueError("offsets: they do not fit the bits of the bitmap; these weights are damaged, pack them again")
        check_part("values", self.values, (self.nonzeros + PADDING_BYTES // order.element_bytes,), STORED[order.element])

    @classmethod
    def from_dense(cls, array: Any, *, dtype: Element | None = None, scales: Any = None) -> SparseBitmap:
        """Store the elements of a matrix that are not zero (0 and -0 are).

        Args:
            array: [out_features, in_features], any sizes from 1; a NumPy array of float32, float16, int8 or uint16, which is taken for the
                bits of bfloat16, or a torch tensor of float32, bfloat16, float16 or int8 on the CPU.
            dtype: "float32", "bfloat16", "float16" or "int8": convert first. int8 has a scale for each output, absmax / 127, rounds to the
                nearest and drops what rounds to 0.
            scales: float32 [out_features], with an int8 array only: what its steps are worth; None: 1.
        Raises:
            TypeError: another number format.
            ValueError: another shape or device, a NaN, or, for int8, an infinite element.
        """
        matrix = read_matrix(array, dtype=dtype, scales=scales)
        bitmap, values, offsets = _packed(matrix)
        return cls(matrix.order, bitmap, values, offsets, matrix.scales, matrix.column_sums, not isinstance(array, np.ndarray))

    @property
    def nonzeros(self) -> int:
        """How many elements are stored."""
        return int(self.offsets[-1])

    @property
    def sparsity(self) -> float:
        """Share of the elements that is zero."""
        return 1 - self.nonzeros / (self.order.out_features * self.order.in_features)

    def elements(self) -> np.ndarray:
        """The stored numbers as a matrix [out_features, in_features]: float32, float16, bits of bfloat16, or int8 before scaling."""
        order = self.order
        unpack = kernel("xm_bitmap_unpack", None, c_int, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int)
        if unpack is None:
            kept = np.unpackbits(self.bitmap.view(np.uint8), bitorder="little").view(bool)
            tiles = np.zeros(kept.shape, STORED[order.element])
            tiles[kept] = self.values[: self.nonzeros]
            return order.matrix(tiles)
        matrix = np.empty((order.out_features, order.in_features), STORED[order.element])
        parts = address(self.bitmap), address(self.values), address(self.offsets)
        unpack(ELEMENT_CODES[order.element], *parts, *matrix.shape, address(matrix), default_threads())
        return matrix

    def to_dense(self) -> Any:
        """The matrix that was packed, zeros in place; int8 comes back as float32, times its scales."""
        return weights_like(self.elements(), self.order.element, self.scales, tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        parts = self.bitmap, self.values, self.offsets, self.scales, self.column_sums
        return sum(part.nbytes for part in parts if part is not None)


def _packed(matrix: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bitmap, values and offsets."""
    order = matrix.order
    offsets = np.concatenate(([0], np.cumsum(nonzeros_of_blocks(matrix))))
    bitmap = huge_empty(order.shape[:-1], MASKS[order.element])
    values = huge_empty((int(offsets[-1]) + PADDING_BYTES // order.element_bytes,), STORED[order.element])
    pack = kernel("xm_bitmap_pack", None, c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_int)
    if pack is None:
        tiles = order.tiles(matrix.elements)
        kept = (bfloat16_values(tiles) if order.element == "bfloat16" else tiles) != 0
        bitmap[...] = np.packbits(kept, axis=-1, bitorder="little").view(bitmap.dtype)[..., 0]
        values[: offsets[-1]] = tiles[kept]
    else:
        places = address(offsets), address(bitmap), address(values)
        pack(ELEMENT_CODES[order.element], address(matrix.elements), *matrix.elements.shape, *places, default_threads())
    return bitmap, values, offsets
