"""Linear layers of few tokens on the GPU: dense, TCA-BME, MACKO, and those that skip inactive inputs (TEAL, SPDP).

All take x [tokens, in_features] of bfloat16 or float16 as the weights have it, add up in float32 and give y [tokens, out_features] like x.
Work is cut into parts that do not depend on timing, and parts are added in their order: results are the same in every run.
"""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p
from typing import NamedTuple

import torch

from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel, is_emulated
from xmsim.reference.kernels.cuda.weights import ELEMENTS, GROUP, GpuColumnBitmap, GpuMacko, GpuTcaBme

MOST_TOKENS = 16  # of the tensor-core kernel: two of mma's widths
_BLOCKS = 1056  # 8 on each of an H200's 132 multiprocessors
_STEP = 8  # numbers of 16 bytes


class ActiveInputs(NamedTuple):
    """Inputs above a threshold in magnitude, in ascending order; the first counts[t] of each token t."""

    indices: torch.Tensor  # int32 [tokens, in_features]
    values: torch.Tensor  # float32 [tokens, in_features]
    counts: torch.Tensor  # int32 [tokens]


def active_inputs(x: torch.Tensor, threshold: float) -> ActiveInputs:
    """The inputs that are not at or below the threshold in magnitude: NaN counts, and shows.

    Args:
        x: [tokens, in_features], which are a multiple of 8.
    Raises:
        ValueError: naming the argument.
    """
    check_device(x=x)
    check_tensor("x", x, dtypes=ELEMENTS, axes=2)
    if not threshold >= 0:
        raise ValueError(f"threshold: {threshold} must be a number of at least 0")
    tokens, inputs = x.shape
    _check_steps(inputs)
    indices = torch.empty((tokens, inputs), dtype=torch.int32, device=x.device)
    found = ActiveInputs(indices, torch.empty_like(indices, dtype=torch.float32), torch.zeros(tokens, dtype=torch.int32, device=x.device))
    if x.numel():
        launch = cuda_kernel("xm_cuda_list_active", c_int, c_void_p, c_int, c_int, c_float, *[c_void_p] * 3)
        launch(x, _is_half(x), x.data_ptr(), tokens, inputs, threshold, *(part.data_ptr() for part in found))
    return found


def dense_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b, each token on its own: our baseline for one vector. weight: [out_features, in_features]; in_features a multiple of 8."""
    check_tensor("weight", weight, dtypes=(x.dtype,), axes=2)
    _check_inputs(x, tuple(weight.shape), bias, weight=weight)
    tokens, (outputs, inputs) = len(x), weight.shape
    parts = x.new_empty((1, tokens, outputs), dtype=torch.float32)
    if parts.numel():
        launch = cuda_kernel("xm_cuda_dense_rows", c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_void_p)
        launch(x, _is_half(x), weight.data_ptr(), x.data_ptr(), tokens, outputs, inputs, parts.data_ptr())
    return _sum_of(parts, x, bias)


def tca_bme_linear(x: torch.Tensor, weights: GpuTcaBme, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b for up to 16 tokens, on tensor cores. in_features must be a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    tokens, (outputs, inputs) = len(x), weights.shape
    if tokens > MOST_TOKENS:
        raise ValueError(f"x: {tokens} tokens; at most {MOST_TOKENS} are multiplied at once, cut x or unpack the weights")
    count = _parts_count(-(-outputs // GROUP), -(-inputs // GROUP))
    parts = x.new_empty((count, tokens, outputs), dtype=torch.float32)
    if parts.numel():
        launch = cuda_kernel("xm_cuda_tca_bme_rows", c_int, *[c_void_p] * 5, *[c_int] * 5, c_void_p)
        addresses = (part.data_ptr() for part in (weights.values, weights.bitmap, weights.group_offsets, weights.stripe_offsets, x))
        launch(x, _is_half(x), *addresses, tokens, outputs, inputs, weights.most_values, count, parts.data_ptr())
    return _sum_of(parts, x, bias)


def macko_linear(x: torch.Tensor, weights: GpuMacko, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x wᵀ + b, each token on its own, from one stored weight to the next. in_features must be a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    tokens, (outputs, inputs) = len(x), weights.shape
    parts = x.new_empty((1, tokens, outputs), dtype=torch.float32)
    if parts.numel():
        launch = cuda_kernel("xm_cuda_macko_rows", c_int, *[c_void_p] * 4, *[c_int] * 4, c_void_p)
        addresses = (part.data_ptr() for part in (weights.values, weights.deltas, weights.row_indices, x))
        launch(x, _is_half(x), *addresses, tokens, outputs, inputs, _BLOCKS, parts.data_ptr())
    return _sum_of(parts, x, bias)


def teal_linear(x: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None, *, threshold: float) -> torch.Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold; columns of those are not read.

    Args:
        columns: w transposed, [in_features, out_features]; both multiples of 8.
    """
    check_tensor("columns", columns, dtypes=(x.dtype,), axes=2)
    inputs, outputs = columns.shape
    _check_inputs(x, (outputs, inputs), bias, columns=columns)
    if outputs % _STEP:
        raise ValueError(f"columns: {outputs} outputs; a multiple of {_STEP} is needed, fill up with zeros")
    tokens, active = len(x), active_inputs(x, threshold)
    count = _parts_count(-(-outputs // 512) * tokens, -(-inputs // GROUP))
    parts = x.new_empty((count, tokens, outputs), dtype=torch.float32)
    if parts.numel():
        launch = cuda_kernel("xm_cuda_teal_columns", c_int, *[c_void_p] * 4, *[c_int] * 4, c_void_p)
        addresses = (part.data_ptr() for part in (columns, *active))
        launch(x, _is_half(x), *addresses, tokens, outputs, inputs, count, parts.data_ptr())
    return _sum_of(parts, x, bias)


def spdp_linear(x: torch.Tensor, weights: GpuColumnBitmap, bias: torch.Tensor | None = None, *, threshold: float = 0.0) -> torch.Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold; the stored weights of those are not read. in_features: a multiple of 8."""
    _check_inputs(x, weights.shape, bias, values=weights.values)
    tokens, (outputs, inputs), active = len(x), weights.shape, active_inputs(x, threshold)
    count = _parts_count(-(-outputs // GROUP) * tokens, -(-inputs // GROUP))
    parts = x.new_empty((count, tokens, outputs), dtype=torch.float32)
    if parts.numel():
        launch = cuda_kernel("xm_cuda_spdp_columns", c_int, *[c_void_p] * 7, *[c_int] * 4, c_void_p)
        packed = (weights.values, weights.bitmap, weights.group_offsets, weights.column_offsets)
        launch(x, _is_half(x), *(part.data_ptr() for part in (*packed, *active)), tokens, outputs, inputs, count, parts.data_ptr())
    return _sum_of(parts, x, bias)


def _check_inputs(x: torch.Tensor, shape: tuple[int, int], bias: torch.Tensor | None, **weights: torch.Tensor) -> None:
    """Refuse what the kernels cannot read: x [tokens, in_features] and a bias [out_features] of the weights' type, on their device."""
    check_tensor("x", x, dtypes=ELEMENTS, axes=2)
    check_device(x=x, **weights, **({} if bias is None else {"bias": bias}))
    for name, tensor in weights.items():
        if tensor.dtype != x.dtype:
            raise ValueError(f"x: {x.dtype} does not fit the {tensor.dtype} of {name}; convert one of them")
    outputs, inputs = shape
    if x.shape[1] != inputs:
        raise ValueError(f"x: {x.shape[1]} inputs do not fit the {inputs} of the weights")
    _check_steps(inputs)
    if bias is not None:
        check_tensor("bias", bias, dtypes=(x.dtype,), axes=1, alignment=2)
        if len(bias) != outputs:
            raise ValueError(f"bias: {len(bias)} outputs do not fit the {outputs} of the weights")


def _check_steps(inputs: int) -> None:
    if inputs % _STEP:
        raise ValueError(f"x: {inputs} inputs; a multiple of {_STEP} is needed, fill up with zeros")


def _sum_of(parts: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    count, tokens, outputs = parts.shape
    y = x.new_empty((tokens, outputs))
    if y.numel():
        launch = cuda_kernel("xm_cuda_sum_parts", c_int, c_void_p, c_int, c_int, c_int, c_void_p, c_void_p)
        launch(x, _is_half(x), parts.data_ptr(), count, tokens, outputs, None if bias is None else bias.data_ptr(), y.data_ptr())
    return y


def _parts_count(blocks: int, most: int) -> int:
    """Parts of the inputs that make enough blocks for the GPU; the emulator takes few, of which each has something to do."""
    wanted = 4 * blocks if is_emulated() else _BLOCKS
    return max(1, min(most, -(-wanted // max(blocks, 1))))


def _is_half(x: torch.Tensor) -> int:
    return int(x.dtype == torch.float16)
