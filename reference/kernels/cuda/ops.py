"""The CUDA kernels as operators of torch, `torch.ops.xmsim.*`: importing this module registers them, and torch.compile sees through.

Inference kernels, without gradients. Packed weights come as the tensors of GpuTcaBme, GpuMacko and GpuColumnBitmap; they are looked at when
they come for the first time, which waits for the GPU: call an operator once before a CUDA graph is captured. For attention see
`reference.kernels.attention_ops`, whose operators have a CUDA kernel each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmsim.reference.kernels.checked_tensors import check_once
from xmsim.reference.kernels.cuda import linear
from xmsim.reference.kernels.cuda.unpack import unpacked, unpacked_linear
from xmsim.reference.kernels.cuda.weight_checks import check_column_bitmap, check_macko, check_tca_bme
from xmsim.reference.kernels.cuda.weights import GpuColumnBitmap, GpuMacko, GpuTcaBme


@torch.library.custom_op("xmsim::tca_bme_linear", mutates_args=())
def tca_bme_linear(
    x: Tensor,
    values: Tensor,
    bitmap: Tensor,
    group_offsets: Tensor,
    stripe_offsets: Tensor,
    out_features: int,
    in_features: int,
    b: Tensor | None = None,
) -> Tensor:
    """x wᵀ + b, x [..., in_features]: of up to 16 tokens by the kernel, of more by torch's product on rows that are unpacked for it."""
    weights = GpuTcaBme((out_features, in_features), values, bitmap, group_offsets, stripe_offsets)
    check_once((values, bitmap, group_offsets, stripe_offsets), (out_features, in_features), lambda: check_tca_bme(weights))
    return any_tokens(x, weights, b)


@torch.library.custom_op("xmsim::macko_linear", mutates_args=())
def macko_linear(
    x: Tensor,
    values: Tensor,
    deltas: Tensor,
    row_indices: Tensor,
    out_features: int,
    in_features: int,
    equal_values: int,
    b: Tensor | None = None,
) -> Tensor:
    """x wᵀ + b, x [..., in_features], each token on its own."""
    weights = GpuMacko((out_features, in_features), values, deltas, row_indices, equal_values)
    check_once((values, deltas, row_indices), (out_features, in_features, equal_values), lambda: check_macko(weights))
    return linear.macko_linear(_rows(x), weights, b).view(*x.shape[:-1], out_features)


@torch.library.custom_op("xmsim::teal_linear", mutates_args=())
def teal_linear(x: Tensor, columns: Tensor, threshold: float, b: Tensor | None = None) -> Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold; columns [in_features, out_features]."""
    return linear.teal_linear(_rows(x), columns, b, threshold=threshold).view(*x.shape[:-1], columns.shape[1])


@torch.library.custom_op("xmsim::spdp_linear", mutates_args=())
def spdp_linear(
    x: Tensor,
    values: Tensor,
    bitmap: Tensor,
    group_offsets: Tensor,
    column_offsets: Tensor,
    out_features: int,
    in_features: int,
    threshold: float = 0.0,
    b: Tensor | None = None,
) -> Tensor:
    """s(x) wᵀ + b, where s drops inputs with |x| <= threshold, whose weights are not read."""
    weights = _columns(values, bitmap, group_offsets, column_offsets, out_features, in_features)
    return linear.spdp_linear(_rows(x), weights, b, threshold=threshold).view(*x.shape[:-1], out_features)


@torch.library.custom_op("xmsim::unpacked_columns", mutates_args=())
def unpacked_columns(
    values: Tensor, bitmap: Tensor, group_offsets: Tensor, column_offsets: Tensor, out_features: int, in_features: int
) -> Tensor:
    """The matrix [out_features, in_features] of a bitmap by columns."""
    return unpacked(_columns(values, bitmap, group_offsets, column_offsets, out_features, in_features))


@tca_bme_linear.register_fake
def _(x: Tensor, values: Any, bitmap: Any, groups: Any, stripes: Any, out_features: int, in_features: int, b: Any = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@macko_linear.register_fake
def _(
    x: Tensor, values: Any, deltas: Any, row_indices: Any, out_features: int, in_features: int, equal_values: int, b: Any = None
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@teal_linear.register_fake
def _(x: Tensor, columns: Tensor, threshold: float, b: Any = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], columns.shape[1]))


@spdp_linear.register_fake
def _(
    x: Tensor,
    values: Any,
    bitmap: Any,
    groups: Any,
    columns: Any,
    out_features: int,
    in_features: int,
    threshold: float = 0.0,
    b: Any = None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@unpacked_columns.register_fake
def _(values: Tensor, bitmap: Any, groups: Any, columns: Any, out_features: int, in_features: int) -> Tensor:
    return values.new_empty((out_features, in_features))


def any_tokens(x: Tensor, weights: GpuTcaBme | GpuColumnBitmap, b: Tensor | None) -> Tensor:
    """x wᵀ + b, x [..., in_features], of weights that were looked at."""
    rows = _rows(x)
    few = isinstance(weights, GpuTcaBme) and len(rows) <= linear.MOST_TOKENS
    y = linear.tca_bme_linear(rows, weights, b) if few else unpacked_linear(rows, weights, b)  # type: ignore[arg-type]
    return y.view(*x.shape[:-1], weights.shape[0])


def _columns(values: Tensor, bitmap: Tensor, group_offsets: Tensor, column_offsets: Tensor, outputs: int, inputs: int) -> GpuColumnBitmap:
    weights = GpuColumnBitmap((outputs, inputs), values, bitmap, group_offsets, column_offsets)
    check_once((values, bitmap, group_offsets, column_offsets), (outputs, inputs), lambda: check_column_bitmap(weights))
    return weights


def _rows(x: Tensor) -> Tensor:
    """[tokens, in_features], where a kernel can read it."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return rows if rows.data_ptr() % 16 == 0 else rows.clone()
