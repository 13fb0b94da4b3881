"""Packed weights on the GPU as a matrix again, whole or so many rows: what products of many tokens read."""

from __future__ import annotations

from ctypes import c_int, c_void_p

import torch

from xmsim.reference.kernels.cuda.native import check_device, cuda_kernel
from xmsim.reference.kernels.cuda.weights import GROUP, GpuColumnBitmap, GpuTcaBme

_ROWS = 4096  # that are a matrix at once: 117 MB of Llama-3-8B's longest
_STEP = 8  # numbers of 16 bytes


def unpacked(weights: GpuTcaBme | GpuColumnBitmap, first: int = 0, rows: int | None = None) -> torch.Tensor:
    """Rows of the matrix [out_features, in_features].

    Args:
        first: a multiple of 64.
        rows: how many; None: all from there.
    Raises:
        ValueError: naming the argument.
    """
    outputs, inputs = weights.shape
    count = outputs - first if rows is None else rows
    if first % GROUP or not 0 <= first <= first + count <= outputs:
        raise ValueError(f"first: rows {first} to {first + count} of {outputs}; they must be there, and start on a multiple of {GROUP}")
    if inputs % _STEP:
        raise ValueError(f"weights: {inputs} inputs; a multiple of {_STEP} is needed, fill up with zeros")
    check_device(values=weights.values)
    dense = weights.values.new_empty((count, inputs))
    if dense.numel():
        launch = cuda_kernel("xm_cuda_unpack_rows", c_int, *[c_void_p] * 3, *[c_int] * 3, c_void_p)
        by_columns = int(isinstance(weights, GpuColumnBitmap))
        bitmap = weights.bitmap if isinstance(weights, GpuColumnBitmap) else weights.lane_bitmap
        addresses = (part.data_ptr() for part in (weights.values, bitmap, weights.group_offsets))
        launch(dense, by_columns, *addresses, first // GROUP, count, inputs, dense.data_ptr())
    return dense


def unpacked_linear(x: torch.Tensor, weights: GpuTcaBme | GpuColumnBitmap, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b by torch's dense product, part by part of the outputs; x: [tokens, in_features] of the weights' type."""
    starts = range(0, weights.shape[0], _ROWS)
    parts = [
        torch.nn.functional.linear(
            x, unpacked(weights, first, min(_ROWS, weights.shape[0] - first)), None if bias is None else bias[first : first + _ROWS]
        )
        for first in starts
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
