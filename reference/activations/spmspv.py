"""Sparse matrix times sparse vector: the columns whose input is zero are not read. Portable: numba, on any CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange

from xmsim.reference.attention.arrays import as_numpy, dtype_name, is_tensor, same_kind
from xmsim.reference.formats.column_bitmap import GROUP, ColumnBitmap
from xmsim.reference.formats.float_matrix import BITS, STORED, FloatElement

_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # its 64 windows of 6 bits differ, so a product with 1 << n tells n by its upper 6 bits
_BIT_PLACES = np.zeros(64, np.int64)
_BIT_PLACES[(_DE_BRUIJN << np.arange(64, dtype=np.uint64)) >> np.uint64(58)] = np.arange(64)


def spmspv(weights: ColumnBitmap, x: Any) -> Any:
    """weights · x for each vector, with sums in float32; the same numbers whatever the number of threads.

    Args:
        weights: [out_features, in_features].
        x: float [..., in_features], zero where an input is skipped; NumPy array of float16 or float32, or torch tensor of float16, bfloat16
            or float32 on the CPU. A skipped input counts as 0, against an infinite weight too.
    Returns: [..., out_features], of the kind and number format of x.
    Raises:
        ValueError: naming the argument: x has another number of inputs, another number format, or is on another device.
    Source: SPDP (arXiv 2607.21985), spMspV; order of the sums ours: over the 64 columns of a GroupTile, then over GroupTiles.
    """
    rows, columns = weights.shape
    if is_tensor(x) and x.device.type != "cpu":
        raise ValueError(f"x: a tensor on the CPU is needed, this one is on {x.device}; pass x.cpu()")
    if dtype_name(x) not in STORED:
        raise ValueError(f"x: {dtype_name(x)} is not multiplied; convert to {', '.join(STORED)}")
    if x.ndim == 0 or x.shape[-1] != columns:
        raise ValueError(f"x: shape {tuple(x.shape)} does not end with the {columns} inputs of the weights")
    vectors = np.ascontiguousarray(as_numpy(x), np.float32).reshape(-1, columns)
    y = np.empty((len(vectors), rows), np.float32)
    bits = weights.values.view(BITS[weights.element])
    _multiply(bits, _float32_bits(weights.element), weights.bitmap, weights.group_offsets, weights.column_offsets, _BIT_PLACES, vectors, y)
    product = same_kind(y.reshape(*x.shape[:-1], rows), x)
    return product.to(x.dtype) if is_tensor(x) else product.astype(x.dtype)


@cache
def _float32_bits(element: FloatElement) -> np.ndarray:
    """The bits of a float32 for each pattern of 16 bits; empty where the elements are float32 already."""
    patterns = np.arange(0 if element == "float32" else 1 << 16, dtype=np.uint32)
    if element == "bfloat16":
        return patterns << 16
    with np.errstate(invalid="ignore"):  # patterns of NaN, which no format stores
        return patterns.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)


@njit(parallel=True, cache=True, fastmath={"contract"})
def _multiply(
    bits: np.ndarray,
    float32_bits: np.ndarray,
    bitmap: np.ndarray,
    group_offsets: np.ndarray,
    column_offsets: np.ndarray,
    bit_places: np.ndarray,
    vectors: np.ndarray,
    y: np.ndarray,
) -> None:
    rows, columns = y.shape[1], vectors.shape[1]
    across = -(-columns // GROUP)
    for tile in prange(-(-rows // GROUP)):  # one thread computes a row of GroupTiles whole
        stored = np.empty(GROUP, np.uint32)
        column_weights = stored.view(np.float32)
        total, partial = np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
        for index in range(len(vectors)):
            total[:] = 0
            for group_column in range(across):
                group = tile * across + group_column
                first = GROUP * group_column
                partial[:] = 0
                for column in range(first, min(first + GROUP, columns)):
                    factor = vectors[index, column]
                    if factor == 0:
                        continue
                    record = GROUP * group + column - first
                    start = group_offsets[group] + np.int64(column_offsets[record])
                    end = (
                        group_offsets[group + 1]
                        if column - first == GROUP - 1
                        else group_offsets[group] + np.int64(column_offsets[record + 1])
                    )
                    count = min(end - start, GROUP)  # the last column ends before the padding
                    column_bits = bits[start : start + count]
                    if len(float32_bits):
                        for i in range(count):
                            stored[i] = float32_bits[column_bits[i]]
                    else:
                        for i in range(count):
                            stored[i] = column_bits[i]
                    word, i = bitmap[record], 0
                    while word:
                        lowest = word & (~word + np.uint64(1))
                        partial[bit_places[lowest * _DE_BRUIJN >> np.uint64(58)]] += column_weights[i] * factor
                        i += 1
                        word ^= lowest
                for r in range(GROUP):
                    total[r] += partial[r]
            for r in range(min(GROUP, rows - GROUP * tile)):
                y[index, GROUP * tile + r] = total[r]
