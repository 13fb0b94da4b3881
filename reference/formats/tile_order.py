"""The order in which packed weights lie in memory, and how matrices are read for packing.

A weight matrix [out_features, in_features] is cut into tiles of 16 outputs. A tile has 16 rows of 64 bytes, and a row holds 4 bytes of
each of its outputs, neighbours along in_features: 1 float32, 2 bfloat16 or float16, 4 int8. Tiles lie in the order
[out / 32][in / tile][2], so a block of 32 outputs is read from its first byte to its last. Edges are filled with zeros.

Source: SparAMX (arXiv 2502.12444), its order of column tiles in pairs; the filling and the offset for each block are ours.
"""

from __future__ import annotations

from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from xmsim.reference.attention.arrays import dtype_name, is_tensor
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels.native import address, default_threads, kernel

Element = Literal["float32", "bfloat16", "int8", "float16"]  # in the order of linear_format.h
ELEMENT_CODES: dict[str, int] = {element: code for code, element in enumerate(get_args(Element))}  # as linear_format.h numbers them
STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8, "float16": np.float16}

TILE_ROWS = TILE_COLUMNS = 16
WORD_BYTES = 4
BLOCK_COLUMNS = 2 * TILE_COLUMNS
MOST_INT8_INPUTS = (2**31 - 1) // (128 * 127)  # a longer sum of products could leave int32


@dataclass(frozen=True, slots=True)
class TileOrder:
    """How a matrix of this shape and element type is cut."""

    out_features: int
    in_features: int
    element: Element

    @property
    def element_bytes(self) -> int:
        return np.dtype(STORED[self.element]).itemsize

    @property
    def per_word(self) -> int:
        """Neighbours along in_features that lie side by side."""
        return WORD_BYTES // self.element_bytes

    @property
    def row_elements(self) -> int:
        return TILE_COLUMNS * self.per_word

    @property
    def blocks(self) -> int:
        return -(-self.out_features // BLOCK_COLUMNS)

    @property
    def k_tiles(self) -> int:
        return -(-self.in_features // (TILE_ROWS * self.per_word))

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the tiles: [blocks, k_tiles, 2, 16 rows, elements of a row]."""
        return self.blocks, self.k_tiles, 2, TILE_ROWS, self.row_elements

    def tiles(self, matrix: np.ndarray) -> np.ndarray:
        """The tiles of a matrix, in NumPy."""
        padded = np.zeros((self.blocks * BLOCK_COLUMNS, self.k_tiles * TILE_ROWS * self.per_word), matrix.dtype)
        padded[: self.out_features, : self.in_features] = matrix
        cut = padded.reshape(self.blocks, 2, TILE_COLUMNS, self.k_tiles, TILE_ROWS, self.per_word)
        return np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 2, 5)).reshape(self.shape)

    def matrix(self, tiles: np.ndarray) -> np.ndarray:
        """The matrix of such tiles, in NumPy."""
        cut = tiles.reshape(self.blocks, self.k_tiles, 2, TILE_ROWS, TILE_COLUMNS, self.per_word).transpose(0, 2, 4, 1, 3, 5)
        padded = cut.reshape(self.blocks * BLOCK_COLUMNS, self.k_tiles * TILE_ROWS * self.per_word)
        return np.ascontiguousarray(padded[: self.out_features, : self.in_features])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, ready to be packed."""

    elements: np.ndarray  # STORED[element] [out_features, in_features], contiguous
    element: Element
    scales: np.ndarray | None  # int8: float32 [out_features], what one step of an output's integers is worth
    column_sums: np.ndarray | None  # int8: int32 [out_features], the sum of an output's integers

    @property
    def order(self) -> TileOrder:
        out_features, in_features = self.elements.shape
        return TileOrder(out_features, in_features, self.element)


def read_matrix(array: Any, *, dtype: Element | None, scales: Any = None) -> Matrix:
    """Look at a weight matrix and bring it to the wanted element type.

    Args:
        array: [out_features, in_features]: float32, float16, int8, or bfloat16 (torch.bfloat16, or its bits as NumPy uint16).
        dtype: None keeps the type. Floats become each other, rounded, or int8 with a scale for each output: absmax / 127.
        scales: float32 [out_features], with an int8 array only; None: 1.
    Raises:
        TypeError, ValueError: naming what is wrong with the array.
    """
    elements, element = _elements(array)
    if elements.ndim != 2 or 0 in elements.shape:
        raise ValueError(f"weights: shape {elements.shape} is not [out_features, in_features] with both at least 1")
    if scales is not None and element != "int8":
        raise TypeError(f"scales: only int8 weights have them, these are {element}; pass dtype='int8' to quantise")
    wanted = element if dtype is None else dtype
    if wanted not in get_args(Element):
        raise TypeError(f"dtype: {wanted!r} is not one of {', '.join(get_args(Element))}")
    if element == "int8":
        if wanted != "int8":
            raise TypeError(f"dtype: int8 weights cannot become {wanted}; multiply them by their scales first")
        scales = np.ones(len(elements)) if scales is None else scales
        steps = np.ascontiguousarray(scales.detach().cpu().numpy() if is_tensor(scales) else scales, np.float32)
        return _int8_matrix(elements, steps)
    if wanted == "int8":
        integers, steps = quantized_rows(elements, element)
        if np.isnan(steps).any():
            raise ValueError(f"weights: output {np.flatnonzero(np.isnan(steps))[0]} has NaN or infinite elements, which int8 cannot hold")
        return _int8_matrix(integers, steps)
    if wanted != element:
        elements = rounded_to(float_values(elements, element, None), wanted)
    return Matrix(elements, wanted, None, None)


def quantized_rows(elements: np.ndarray, element: Element) -> tuple[np.ndarray, np.ndarray]:
    """Each row to int8 with its own step, absmax / 127, ties to even; the steps are float32 [rows], NaN where a row is not finite.

    Args:
        elements: [rows, columns], float32, float16 or bfloat16 bits.
    """
    native = kernel("xm_quantize_rows", None, c_void_p, c_int, c_int64, c_int64, c_void_p, c_void_p, c_int)
    if native is not None:
        integers, steps = np.empty(elements.shape, np.int8), np.empty(len(elements), np.float32)
        native(address(elements), ELEMENT_CODES[element], *elements.shape, address(integers), address(steps), default_threads())
        return integers, steps
    values = float_values(elements, element, None)
    largest = np.abs(values).max(axis=1)
    finite = np.isfinite(largest)
    step = np.where(finite, largest / np.float32(127), np.float32(np.nan)).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        steps_per_unit = np.where(finite & (step >= np.finfo(np.float32).tiny), np.float32(127) / largest, np.float32(0))
    with np.errstate(invalid="ignore"):
        integers = np.rint(np.where(finite[:, None], values, 0) * steps_per_unit[:, None]).astype(np.int8)
    return integers, step


def nonzeros_of_blocks(matrix: Matrix) -> np.ndarray:
    """How many elements of each block of 32 outputs are not zero; int64 [blocks].

    Raises:
        ValueError: an element is NaN.
    """
    native = kernel("xm_bitmap_count", None, c_int, c_void_p, c_int64, c_int64, c_void_p, c_int)
    counts = np.empty(matrix.order.blocks, np.int64)
    if native is not None:
        native(ELEMENT_CODES[matrix.element], address(matrix.elements), *matrix.elements.shape, address(counts), default_threads())
    else:
        values = bfloat16_values(matrix.elements) if matrix.element == "bfloat16" else matrix.elements
        rows = np.arange(0, len(values), BLOCK_COLUMNS)
        counts[:] = np.where(np.isnan(values).any(), -1, np.add.reduceat(np.count_nonzero(values, axis=1), rows))
    if (counts < 0).any():
        raise ValueError("weights: there is a NaN among them, and a model with NaN weights computes nothing; find where it comes from")
    return counts


def float_values(elements: np.ndarray, element: Element, scales: np.ndarray | None) -> np.ndarray:
    """What elements stand for, as float32 [out_features, in_features]."""
    if element == "int8":
        assert scales is not None
        return elements * scales[:, None]
    return bfloat16_values(elements) if element == "bfloat16" else elements.astype(np.float32, copy=False)


def rounded_to(values: np.ndarray, element: Element) -> np.ndarray:
    """float32 as the nearest numbers of a float element, ties to even, as STORED has them."""
    if element == "bfloat16":
        return bfloat16_bits(values)
    with np.errstate(over="ignore"):  # too large for float16: infinite, as torch has it
        return values.astype(STORED[element], copy=False)


def weights_like(elements: np.ndarray, element: Element, scales: np.ndarray | None, *, tensor: bool) -> Any:
    """A matrix as its user knows it: floats as they were, int8 times its scales as float32; a torch tensor if wanted."""
    values = float_values(elements, element, scales) if element == "int8" else elements
    if not tensor:
        return values
    import torch

    made = torch.from_numpy(values)
    return made.view(torch.bfloat16) if element == "bfloat16" else made


def _elements(array: Any) -> tuple[np.ndarray, Element]:
    if is_tensor(array):
        import torch

        if array.device.type != "cpu" or array.layout != torch.strided:
            raise ValueError(f"weights: {array.layout} on {array.device}, packing reads dense tensors on the CPU; use .to_dense().cpu()")
        name = dtype_name(array)
        plain = array.detach().contiguous()
        elements = (plain.view(torch.uint16) if name == "bfloat16" else plain).numpy() if name in STORED else np.empty(0)
    else:
        elements = np.asarray(array)
        name = "bfloat16" if elements.dtype == np.uint16 else elements.dtype.name
    if name not in STORED:
        raise TypeError(f"weights: {name} is not packed; convert to float32, float16, bfloat16 (in NumPy its bits, as uint16) or int8")
    return np.require(elements, requirements=["C", "A"]), name  # type: ignore[return-value]


def _int8_matrix(integers: np.ndarray, scales: np.ndarray) -> Matrix:
    if scales.shape != (len(integers),) or not np.isfinite(scales).all():
        raise ValueError(f"scales: one finite number for each of {len(integers)} outputs is needed, got shape {scales.shape}")
    if integers.shape[1] > MOST_INT8_INPUTS:
        raise ValueError(f"weights: int8 sums over {integers.shape[1]} inputs could overflow; split the matrix at {MOST_INT8_INPUTS}")
    return Matrix(integers, "int8", scales, integers.sum(axis=1, dtype=np.int32))
