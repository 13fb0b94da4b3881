"""Linear layers on packed weights as torch operations: torch.ops.xmsim.dense_linear, sparse_linear and what their gradients need.

Packed weights are tensors here, so that modules, torch.compile and state dicts can hold them: bitmaps as bytes, bfloat16 as torch.bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from xmsim.reference.attention.arrays import dtype_name
from xmsim.reference.formats import DenseTiles, SparseBitmap
from xmsim.reference.formats.sparse_bitmap import MASKS
from xmsim.reference.formats.tile_order import ELEMENT_CODES, STORED, TileOrder
from xmsim.reference.kernels.checked_tensors import check_once
from xmsim.reference.kernels.linear import FORM_CODES, Addresses, Packed, check_inputs, native_linear, plain_linear
from xmsim.reference.kernels.native import default_threads

_REST = "Tensor? scales, Tensor? column_sums, SymInt out_features, SymInt in_features"


class PackedTensors(NamedTuple):
    """A DenseTiles or SparseBitmap as tensors, in the order of the operations' arguments."""

    bitmap: torch.Tensor | None  # uint8, one dimension; None: all elements are stored
    values: torch.Tensor  # float32, bfloat16, float16 or int8, one dimension
    offsets: torch.Tensor | None  # int64 [blocks + 1], with a bitmap
    scales: torch.Tensor | None  # float32 [out_features], with int8
    column_sums: torch.Tensor | None  # int32 [out_features], with int8
    out_features: int
    in_features: int


def tensors_of(packed: Packed) -> PackedTensors:
    """The parts of packed weights as tensors that share their memory."""
    order = packed.order
    bitmap = offsets = None
    if isinstance(packed, SparseBitmap):
        values = torch.from_numpy(packed.values)
        bitmap, offsets = torch.from_numpy(packed.bitmap.reshape(-1).view(np.uint8)), torch.from_numpy(packed.offsets)
    else:
        values = torch.from_numpy(packed.tiles.reshape(-1))
    return PackedTensors(
        bitmap,
        values.view(torch.bfloat16) if order.element == "bfloat16" else values,
        offsets,
        None if packed.scales is None else torch.from_numpy(packed.scales),
        None if packed.column_sums is None else torch.from_numpy(packed.column_sums),
        order.out_features,
        order.in_features,
    )


def packed_of(tensors: PackedTensors) -> Packed:
    """Packed weights that share the tensors' memory.

    Raises:
        TypeError, ValueError: the tensors do not fit each other, or are not on the CPU.
    """
    if any(part is not None and part.device.type != "cpu" for part in tensors[:5]):
        raise ValueError("weights: packed weights are read on the CPU; leave the layer there")
    element = dtype_name(tensors.values)
    if element not in STORED:
        raise TypeError(f"values: {element} is not a packed type; packed are {', '.join(STORED)}")
    order = TileOrder(tensors.out_features, tensors.in_features, element)  # type: ignore[arg-type]
    values = (tensors.values.view(torch.uint16) if element == "bfloat16" else tensors.values).numpy()
    scales = None if tensors.scales is None else tensors.scales.numpy()
    column_sums = None if tensors.column_sums is None else tensors.column_sums.numpy()
    if tensors.bitmap is None or tensors.offsets is None:
        return DenseTiles(order, _shaped("values", values, order.shape), scales, column_sums, as_tensor=True)
    mask, rows = np.dtype(MASKS[order.element]), order.shape[:-1]
    bytes_ = _shaped("bitmap", tensors.bitmap.numpy(), (*rows, mask.itemsize))
    return SparseBitmap(order, bytes_.view(mask)[..., 0], values, tensors.offsets.numpy(), scales, column_sums, as_tensor=True)


def _shaped(name: str, flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if flat.size != np.prod(shape):
        raise ValueError(f"{name}: {flat.size} elements where {shape} belong; these weights are damaged, pack them again")
    return flat.reshape(shape)


def packed_linear(x: torch.Tensor, weights: PackedTensors, bias: torch.Tensor | None) -> torch.Tensor:
    """x wᵀ + b: straight to the kernel where nobody watches, through the operation for gradients and for torch.compile."""
    if _watched(x, bias):
        return _operation(x, weights, bias)
    return _checked_run(x, weights, bias)


def container_linear(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """The same with weights that were looked at when they were made."""
    return (_operation if _watched(x, bias) else _run)(x, tensors_of(packed), bias)


def _watched(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether somebody has to see an operation: a tracer, the profiler, or autograd."""
    if type(x) is not torch.Tensor or torch.compiler.is_compiling() or torch.autograd._profiler_enabled():
        return True
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _operation(x: torch.Tensor, weights: PackedTensors, bias: torch.Tensor | None) -> torch.Tensor:
    bitmap, values, offsets, *rest = weights
    if bitmap is None:
        return torch.ops.xmsim.dense_linear(x, values, *rest, bias)
    return torch.ops.xmsim.sparse_linear(x, bitmap, values, offsets, *rest, bias)


def _checked_run(x: torch.Tensor, weights: PackedTensors, bias: torch.Tensor | None) -> torch.Tensor:
    _check_weights(weights)
    return _run(x, weights, bias)


def _run(x: torch.Tensor, weights: PackedTensors, bias: torch.Tensor | None) -> torch.Tensor:
    bitmap, packed_values, offsets, scales, column_sums = (0 if part is None else part.data_ptr() for part in weights[:5])
    codes = FORM_CODES["tiles" if weights.bitmap is None else "bitmap"], ELEMENT_CODES[_name(weights.values)]
    addresses = Addresses(*codes, bitmap, packed_values, offsets, 0, scales, column_sums, weights.out_features, weights.in_features)
    return run_tensors(x, addresses, bias, lambda: _run_in_numpy(x, weights, bias))


def run_tensors(x: torch.Tensor, weights: Addresses, bias: torch.Tensor | None, plain: Callable[[], torch.Tensor]) -> torch.Tensor:
    """x wᵀ + b by the kernel; where there is none, what `plain` gives. Who calls keeps the weights alive.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    out_features, in_features = weights.out_features, weights.in_features
    x_type, weight_type = _name(x), _ELEMENTS[weights.element]
    check_inputs(x.shape, x_type, None if bias is None else (bias.shape, _name(bias)), (out_features, in_features), weight_type)
    for name, tensor in (("x", x), ("b", bias)):
        if tensor is not None and not (tensor.is_cpu and tensor.layout is torch.strided):
            raise ValueError(f"{name}: {tensor.layout} on {tensor.device}, kernels read dense tensors on the CPU; use .to_dense().cpu()")
    native = native_linear()
    if native is None:
        return plain()
    x, b = _readable(x), None if bias is None else _readable(bias)
    y = x.new_empty((*x.shape[:-1], out_features))
    tokens = x.numel() // in_features
    bias_address = 0 if b is None else b.data_ptr()
    x_code = ELEMENT_CODES[x_type]
    if tokens and not native(*weights, x.data_ptr(), x_code, tokens, bias_address, y.data_ptr(), default_threads()):
        raise MemoryError(f"x: no memory to lay out {tokens} tokens; pass fewer at a time")
    return y


_ELEMENTS = {code: element for element, code in ELEMENT_CODES.items()}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.int8: "int8"}


def _name(tensor: torch.Tensor) -> str:
    return _NAMES.get(tensor.dtype) or dtype_name(tensor)


def _readable(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers one after the other, from an address that fits their type."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def _run_in_numpy(x: torch.Tensor, weights: PackedTensors, bias: torch.Tensor | None) -> torch.Tensor:
    def array(tensor: torch.Tensor) -> np.ndarray:
        plain = tensor.detach().contiguous()
        return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()

    y = torch.from_numpy(plain_linear(array(x), packed_of(weights), None if bias is None else array(bias)))
    return y.view(torch.bfloat16) if x.dtype == torch.bfloat16 else y


def _check_weights(weights: PackedTensors) -> None:
    parts = tuple(part for part in weights[:5] if part is not None)
    check_once(parts, (weights.out_features, weights.in_features), lambda: packed_of(weights))


@torch.library.custom_op("xmsim::dense_linear", mutates_args=(), schema=f"(Tensor x, Tensor values, {_REST}, Tensor? b) -> Tensor")
def _dense_linear(
    x: torch.Tensor,
    values: torch.Tensor,
    scales: torch.Tensor | None,
    column_sums: torch.Tensor | None,
    out_features: int,
    in_features: int,
    b: torch.Tensor | None,
) -> torch.Tensor:
    return _checked_run(x, PackedTensors(None, values, None, scales, column_sums, out_features, in_features), b)


@torch.library.custom_op(
    "xmsim::sparse_linear",
    mutates_args=(),
    schema=f"(Tensor x, Tensor bitmap, Tensor values, Tensor offsets, {_REST}, Tensor? b) -> Tensor",
)
def _sparse_linear(
    x: torch.Tensor,
    bitmap: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    scales: torch.Tensor | None,
    column_sums: torch.Tensor | None,
    out_features: int,
    in_features: int,
    b: torch.Tensor | None,
) -> torch.Tensor:
    return _checked_run(x, PackedTensors(bitmap, values, offsets, scales, column_sums, out_features, in_features), b)


@torch.library.custom_op(
    "xmsim::unpacked_weights", mutates_args=(), schema=f"(Tensor? bitmap, Tensor values, Tensor? offsets, {_REST}) -> Tensor"
)
def _unpacked_weights(
    bitmap: torch.Tensor | None,
    values: torch.Tensor,
    offsets: torch.Tensor | None,
    scales: torch.Tensor | None,
    column_sums: torch.Tensor | None,
    out_features: int,
    in_features: int,
) -> torch.Tensor:
    """The matrix [out_features, in_features], in the values' type, int8 as float32."""
    return packed_of(PackedTensors(bitmap, values, offsets, scales, column_sums, out_features, in_features)).to_dense()


@_dense_linear.register_fake
@_sparse_linear.register_fake
def _fake_linear(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    out_features = arguments[-3]
    return x.new_empty((*x.shape[:-1], out_features))


@_unpacked_weights.register_fake
def _fake_unpacked_weights(
    bitmap: Any, values: torch.Tensor, offsets: Any, scales: Any, sums: Any, out_features: int, in_features: int
) -> Any:
    return values.new_empty((out_features, in_features), dtype=torch.float32 if values.dtype == torch.int8 else values.dtype)


def _save_dense(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, values, *rest, _ = inputs
    _save(ctx, x, (None, values, None, *rest), len(inputs))


def _save_sparse(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, *weights, _ = inputs
    _save(ctx, x, tuple(weights), len(inputs))


def _save(ctx: Any, x: torch.Tensor, weights: tuple[Any, ...], arguments: int) -> None:
    ctx.save_for_backward(*weights[:5])
    ctx.sizes, ctx.x_dtype, ctx.arguments = weights[5:], x.dtype, arguments


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """To x through the whole matrix, made for the occasion; to b; never to the packed weights."""
    grad_x = grad_b = None
    if ctx.needs_input_grad[0]:
        weight = torch.ops.xmsim.unpacked_weights(*ctx.saved_tensors, *ctx.sizes)
        grad_x = (grad.to(weight.dtype) @ weight).to(ctx.x_dtype)
    if ctx.needs_input_grad[-1]:
        grad_b = grad.reshape(-1, grad.shape[-1]).sum(dim=0)
    return grad_x, *[None] * (ctx.arguments - 2), grad_b


_dense_linear.register_autograd(_backward, setup_context=_save_dense)
_sparse_linear.register_autograd(_backward, setup_context=_save_sparse)
