"""Linear layers of few tokens on the GPU: dense, TCA-BME, MACKO, and those that skip inactive inputs (TEAL, SPDP).

All take x [tokens, in_features] of bfloat16 or float16 as the weights have it, add up in float32 and give y [tokens, out_features] like x.
Each is one launch: a block has all inputs of its outputs. Sums are added in an order that does not depend on timing: results are the same
in every run.
"""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p
from functools import cache

import torch

from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel
from xmsim.reference.kernels.cuda.weights import ELEMENTS, MACKO_STEP, GpuColumnBitmap, GpuMacko, GpuTcaBme

MOST_TOKENS = 16  # of the tensor-core kernel: two of mma's widths
_MOST_ROWS = 65535  # tokens of the other kernels: blocks of a launch in this direction
_MOST_MACKO_INPUTS = 116208  # that fit into shared memory, where a block may have 227 KiB of it
_STEP = 8  # numbers of 16 bytes
_PIECE = 16  # rows that SPDP's kernel takes at least


def dense_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b, each token on its own: our baseline for one vector. weight: [out_features, in_features]; in_features a multiple of 8."""
    check_tensor("weight", weight, dtypes=(x.dtype,), axes=2)
    _check_inputs(x, tuple(weight.shape), bias, weight=weight)
    tokens, (outputs, inputs) = len(x), weight.shape
    y = x.new_empty((tokens, outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_dense_rows", c_int, c_void_p, c_void_p, *[c_int] * 3, c_void_p, c_void_p)
        launch(x, _is_half(x), weight.data_ptr(), x.data_ptr(), tokens, outputs, inputs, _place(bias), y.data_ptr())
    return y


def tca_bme_linear(x: torch.Tensor, weights: GpuTcaBme, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b for up to 16 tokens, on tensor cores. in_features must be a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    tokens, (outputs, inputs) = len(x), weights.shape
    if tokens > MOST_TOKENS:
        raise ValueError(f"x: {tokens} tokens; at most {MOST_TOKENS} are multiplied at once, cut x or unpack the weights")
    y = x.new_empty((tokens, outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_tca_bme_rows", c_int, *[c_void_p] * 5, *[c_int] * 3, c_void_p, c_void_p)
        addresses = (part.data_ptr() for part in (weights.values, weights.lane_bitmap, weights.group_offsets, weights.stripe_offsets, x))
        launch(x, _is_half(x), *addresses, tokens, outputs, inputs, _place(bias), y.data_ptr())
    return y


def macko_linear(x: torch.Tensor, weights: GpuMacko, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b, each token on its own, from one stored weight to the next. in_features must be a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    tokens, (outputs, inputs) = len(x), weights.shape
    if inputs > _MOST_MACKO_INPUTS:
        raise ValueError(f"x: {inputs} inputs; at most {_MOST_MACKO_INPUTS} are served, cut the matrix or take another format")
    y = x.new_empty((tokens, outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_macko_rows", c_int, *[c_void_p] * 4, *[c_int] * 4, c_void_p, c_void_p)
        addresses = (part.data_ptr() for part in (weights.values, weights.deltas, weights.row_indices, x))
        steps = weights.equal_values // MACKO_STEP
        launch(x, _is_half(x), *addresses, steps, tokens, outputs, inputs, _place(bias), y.data_ptr())
    return y


def teal_linear(x: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None, *, threshold: float) -> torch.Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold, not NaN; columns of those are not read.

    Args:
        columns: w transposed, [in_features, out_features]; both multiples of 8.
    """
    check_tensor("columns", columns, dtypes=(x.dtype,), axes=2)
    inputs, outputs = columns.shape
    _check_inputs(x, (outputs, inputs), bias, columns=columns)
    _check_threshold(threshold)
    if outputs % _STEP:
        raise ValueError(f"columns: {outputs} outputs; a multiple of {_STEP} is needed, fill up with zeros")
    y = x.new_empty((len(x), outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_teal_columns", c_int, c_void_p, c_void_p, c_float, *[c_int] * 3, c_void_p, c_void_p)
        launch(x, _is_half(x), columns.data_ptr(), x.data_ptr(), threshold, len(x), outputs, inputs, _place(bias), y.data_ptr())
    return y


def spdp_linear(x: torch.Tensor, weights: GpuColumnBitmap, bias: torch.Tensor | None = None, *, threshold: float = 0.0) -> torch.Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold, not NaN, whose weights are not read. in_features: a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    _check_threshold(threshold)
    tokens, (outputs, inputs) = len(x), weights.shape
    y = x.new_empty((tokens, outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_spdp_columns", c_int, *[c_void_p] * 5, c_float, *[c_int] * 4, c_void_p, c_void_p)
        addresses = (part.data_ptr() for part in (weights.values, weights.bitmap, weights.group_offsets, weights.column_offsets, x))
        pieces = -(-outputs // _PIECE)
        of_a_block = -(-pieces // max(1, _multiprocessors(x.device) // tokens))  # a block for each multiprocessor
        launch(x, _is_half(x), *addresses, threshold, of_a_block, tokens, outputs, inputs, _place(bias), y.data_ptr())
    return y


@cache
def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; as many as an H200 has where it is emulated."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def _check_inputs(x: torch.Tensor, shape: tuple[int, int], bias: torch.Tensor | None, **weights: torch.Tensor) -> None:
    """Refuse what the kernels cannot read: x [tokens, in_features] and a bias [out_features] of the weights' type, on their device."""
    check_tensor("x", x, dtypes=ELEMENTS, axes=2)
    check_device(x=x, **weights, **({} if bias is None else {"bias": bias}))
    for name, tensor in weights.items():
        if tensor.dtype != x.dtype:
            raise ValueError(f"x: {x.dtype} does not fit the {tensor.dtype} of {name}; convert one of them")
    outputs, inputs = shape
    if len(x) > _MOST_ROWS:
        raise ValueError(f"x: {len(x)} tokens; at most {_MOST_ROWS} are multiplied at once, cut x or unpack the weights")
    if x.shape[1] != inputs:
        raise ValueError(f"x: {x.shape[1]} inputs do not fit the {inputs} of the weights")
    if inputs % _STEP:
        raise ValueError(f"x: {inputs} inputs; a multiple of {_STEP} is needed, fill up with zeros")
    if bias is not None:
        check_tensor("bias", bias, dtypes=(x.dtype,), axes=1, alignment=2)
        if len(bias) != outputs:
            raise ValueError(f"bias: {len(bias)} outputs do not fit the {outputs} of the weights")


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold: {threshold} must be a number of at least 0")


def _place(bias: torch.Tensor | None) -> int | None:
    return None if bias is None else bias.data_ptr()


def _is_half(x: torch.Tensor) -> int:
    return int(x.dtype == torch.float16)
