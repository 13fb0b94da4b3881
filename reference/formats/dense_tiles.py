"""Dense weights in the order of the kernels: the baseline of every sparse format, read with the same care."""

from __future__ import annotations

from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.reference.formats.tile_order import (
    ELEMENT_CODES,
    STORED,
    Element,
    TileOrder,
    nonzeros_of_blocks,
    read_matrix,
    weights_like,
)
from xmsim.reference.kernels.native import address, default_threads, huge_empty, kernel

_ARGUMENTS = (c_int, c_void_p, c_int64, c_int64, c_void_p, c_int)


@dataclass(frozen=True, slots=True, eq=False)
class DenseTiles:
    """All elements of a weight matrix [out_features, in_features], tile by tile (tile_order.py).

    Raises:
        ValueError: the parts do not fit each other.
    """

    order: TileOrder
    tiles: np.ndarray  # float32, float16, uint16 (bits of bfloat16) or int8, [blocks, k_tiles, 2, 16, elements of a row]
    scales: np.ndarray | None = None  # int8: float32 [out_features]
    column_sums: np.ndarray | None = None  # int8: int32 [out_features], sums of the integers
    as_tensor: bool = False  # to_dense gives a torch tensor, as from_dense got one

    def __post_init__(self) -> None:
        check_part("tiles", self.tiles, self.order.shape, STORED[self.order.element])
        check_int8_parts(self.order, self.scales, self.column_sums)

    @classmethod
    def from_dense(cls, array: Any, *, dtype: Element | None = None, scales: Any = None) -> DenseTiles:
        """Pack a matrix; arguments and errors are those of SparseBitmap.from_dense."""
        matrix = read_matrix(array, dtype=dtype, scales=scales)
        nonzeros_of_blocks(matrix)  # for the NaN that it refuses
        order = matrix.order
        pack = kernel("xm_tiles_pack", None, *_ARGUMENTS)
        tiles = huge_empty(order.shape, STORED[order.element])
        if pack is None:
            tiles[...] = order.tiles(matrix.elements)
        else:
            sizes = order.out_features, order.in_features
            pack(ELEMENT_CODES[order.element], address(matrix.elements), *sizes, address(tiles), default_threads())
        return cls(order, tiles, matrix.scales, matrix.column_sums, not isinstance(array, np.ndarray))

    def elements(self) -> np.ndarray:
        """The stored numbers as a matrix [out_features, in_features]: float32, float16, bits of bfloat16, or int8 before scaling."""
        unpack = kernel("xm_tiles_unpack", None, *_ARGUMENTS)
        if unpack is None:
            return self.order.matrix(self.tiles)
        sizes = self.order.out_features, self.order.in_features
        matrix = np.empty(sizes, STORED[self.order.element])
        unpack(ELEMENT_CODES[self.order.element], address(self.tiles), *sizes, address(matrix), default_threads())
        return matrix

    def to_dense(self) -> Any:
        """The matrix that was packed; int8 comes back as float32, times its scales."""
        return weights_like(self.elements(), self.order.element, self.scales, tensor=self.as_tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return sum(part.nbytes for part in (self.tiles, self.scales, self.column_sums) if part is not None)


def check_part(name: str, part: np.ndarray, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
    """Refuse an array that a kernel could not read."""
    if part.shape != shape or part.dtype != dtype:
        raise ValueError(
            f"{name}: {part.dtype} {part.shape} where {np.dtype(dtype)} {shape} belongs; these weights are damaged, pack them again"
        )
    if not part.flags.c_contiguous or not part.flags.aligned:
        raise ValueError(f"{name}: contiguous, aligned memory is needed; pass numpy.require(part, requirements='CA')")


def check_int8_parts(order: TileOrder, scales: np.ndarray | None, column_sums: np.ndarray | None) -> None:
    """Refuse scales where there are none, or int8 weights without."""
    if order.element != "int8":
        if scales is not None or column_sums is not None:
            raise ValueError(f"scales: {order.element} weights have none")
        return
    if scales is None or column_sums is None:
        raise ValueError("scales: int8 weights need scales and column_sums; pack them with from_dense")
    check_part("scales", scales, (order.out_features,), np.float32)
    check_part("column_sums", column_sums, (order.out_features,), np.int32)
