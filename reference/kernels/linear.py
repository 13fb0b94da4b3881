"""Linear layers on packed weights: y = x wᵀ + b, dense and sparse, on NumPy arrays and torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int, c_int64, c_void_p
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from xmsim.reference.attention.arrays import is_tensor
from xmsim.reference.formats import DenseTiles, SparseBitmap
from xmsim.reference.formats.tile_order import ELEMENT_CODES, Element, float_values, quantized_rows, rounded_to
from xmsim.reference.kernels.native import address, default_threads, kernel

Packed = DenseTiles | SparseBitmap

Form = Literal["tiles", "bitmap", "tcabme", "spdp", "2:4"]  # in the order of linear_format.h
FORM_CODES: dict[str, int] = {form: code for code, form in enumerate(get_args(Form))}

_INPUTS = ("float32", "bfloat16", "float16")
_ARGUMENTS = (c_int, c_int, *[c_void_p] * 6, c_int64, c_int64, c_void_p, c_int, c_int64, c_void_p, c_void_p, c_int)


class Addresses(NamedTuple):
    """Packed weights as a kernel sees them; 0 stands for a part that there is not."""

    form: int
    element: int
    bitmap: int
    values: int
    offsets: int
    inner_offsets: int
    scales: int
    column_sums: int
    out_features: int
    in_features: int


def dense_linear(x: Any, w: Any, b: Any = None) -> Any:
    """x wᵀ + b with all weights stored.

    Args:
        x: [..., in_features], float32, float16 or bfloat16 (in NumPy its bits, as uint16); array or tensor on the CPU.
        w: DenseTiles, or a matrix [out_features, in_features], which is packed on the way: for more than one call pack it once,
            DenseTiles.from_dense(w). Float weights have x's type; int8 weights take all three, and quantise each token.
        b: [out_features] of x's kind and type, or None.
    Returns: [..., out_features], x's kind and type; sums are float32, or exact for int8. Gradients reach x and b, not w.
    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    return _linear(x, w if isinstance(w, DenseTiles) else _packed_now(w, DenseTiles), b)


def sparse_linear(x: Any, w: Any, b: Any = None) -> Any:
    """x wᵀ + b with weights as bitmap and values: as dense_linear, with a SparseBitmap, or a matrix that is packed on the way."""
    return _linear(x, w if isinstance(w, SparseBitmap) else _packed_now(w, SparseBitmap), b)


def emulated_tiles_linear(x: np.ndarray, w: Packed, b: np.ndarray | None = None) -> np.ndarray:
    """As the AMX kernel computes it, bit for bit, on any processor: bfloat16 and int8 weights, NumPy arrays, slow.

    Raises:
        RuntimeError: no compiled kernels.
    """
    native = kernel("xm_linear_emulated_tiles", c_int, *_ARGUMENTS)
    if native is None:
        raise RuntimeError("emulated tiles need the compiled kernels; install xmsim where a C++ compiler is")
    if w.order.element not in ("bfloat16", "int8"):
        raise TypeError(f"w: tiles multiply bfloat16 and int8, these weights are {w.order.element}")
    return run_packed(native, addresses_of(w), x, b, lambda x, b: plain_linear(x, w, b))


def native_linear() -> Callable[..., int] | None:
    """The C function behind all of this: Addresses, then x, its element code, tokens, bias, y and threads; 0 is out of memory."""
    return kernel("xm_linear", c_int, *_ARGUMENTS)


def plain_linear(x: np.ndarray, w: Packed, b: np.ndarray | None = None) -> np.ndarray:
    """The plain computation in the same precision, in NumPy: where there are no compiled kernels, and what they are compared with."""
    if w.order.element == "int8":
        assert w.scales is not None
        integers, steps = quantized_rows(np.ascontiguousarray(x).reshape(-1, x.shape[-1]), _element_of(x))
        # float64 holds these sums exactly
        sums = integers.astype(np.float64) @ w.elements().T.astype(np.float64)
        return _finished(sums.astype(np.float32) * w.scales * steps[:, None], x, b)
    return plain_product(x, w.elements(), b)


def plain_product(x: np.ndarray, matrix: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """x times a matrix [out_features, in_features] of x's type, transposed, + b, with sums in float32."""
    element = _element_of(x)
    rows = float_values(x.reshape(-1, x.shape[-1]), element, None)
    return _finished(rows @ float_values(matrix, element, None).T, x, b)


def _finished(y: np.ndarray, x: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """Sums [tokens, out_features] with a bias, in the shape and type that x asks for."""
    element = _element_of(x)
    if b is not None:
        y = y + float_values(b, element, None)
    return rounded_to(y, element).reshape(*x.shape[:-1], y.shape[-1])


def check_inputs(
    x_shape: tuple[int, ...], x_type: str, bias: tuple[tuple[int, ...], str] | None, sizes: tuple[int, int], weights: str
) -> None:
    """Refuse what a kernel could not read.

    Args:
        x_shape, x_type: of x, the type by its name.
        bias: its shape and type, or None.
        sizes: (out_features, in_features) of the weights.
        weights: their element type.
    """
    if x_type not in _INPUTS or weights not in (x_type, "int8"):
        wanted = "float32, bfloat16 or float16" if weights == "int8" else weights
        or_pack = f", or pack the weights with dtype={x_type!r}" if x_type in _INPUTS else ""
        raise TypeError(f"x: {x_type} does not fit {weights} weights, which take {wanted}; convert x{or_pack}")
    if not x_shape or x_shape[-1] != sizes[1]:
        raise ValueError(f"x: shape {tuple(x_shape)} does not end with the weights' {sizes[1]} in_features")
    if bias is not None and bias != ((sizes[0],), x_type):
        raise ValueError(f"b: {bias[1]} {tuple(bias[0])} where {x_type} ({sizes[0]},) belongs, the weights' out_features in x's type")


def _packed_now(w: Any, form: type[DenseTiles] | type[SparseBitmap]) -> Packed:
    if isinstance(w, DenseTiles | SparseBitmap):
        raise TypeError(
            f"w: {type(w).__name__} is not what this function reads; call dense_linear with DenseTiles, sparse_linear with SparseBitmap"
        )
    return form.from_dense(w)


def _linear(x: Any, w: Packed, b: Any) -> Any:
    if is_tensor(x):
        from xmsim.reference.kernels.linear_ops import container_linear

        return container_linear(x, w, b)
    return run_packed(native_linear(), addresses_of(w), x, b, lambda x, b: plain_linear(x, w, b))


def run_packed(
    native: Callable[..., int] | None,
    weights: Addresses,
    x: np.ndarray,
    b: np.ndarray | None,
    plain: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
) -> np.ndarray:
    """x wᵀ + b by the kernel; where there is none, what `plain` gives for x and b. Errors are those of dense_linear."""
    x = np.require(x, requirements=["C", "A"])
    b = None if b is None else np.require(b, requirements=["C", "A"])
    bias = None if b is None else (b.shape, _element_of(b))
    check_inputs(x.shape, _element_of(x), bias, (weights.out_features, weights.in_features), get_args(Element)[weights.element])
    if native is None:
        return plain(x, b)
    y = np.empty((*x.shape[:-1], weights.out_features), x.dtype)
    tokens = x.size // weights.in_features
    bias_address = 0 if b is None else address(b)
    if tokens and not native(*weights, address(x), ELEMENT_CODES[_element_of(x)], tokens, bias_address, address(y), default_threads()):
        raise MemoryError(f"x: no memory to lay out {tokens} tokens; pass fewer at a time")
    return y


def addresses_of(w: Packed) -> Addresses:
    """Weights in the kernels' own order as they see them; who calls keeps the weights alive."""
    form, bitmap, values, offsets = (
        ("bitmap", w.bitmap, w.values, w.offsets) if isinstance(w, SparseBitmap) else ("tiles", None, w.tiles, None)
    )

    def at(part: np.ndarray | None) -> int:
        return 0 if part is None else address(part)

    codes = FORM_CODES[form], ELEMENT_CODES[w.order.element]
    return Addresses(
        *codes, at(bitmap), at(values), at(offsets), 0, at(w.scales), at(w.column_sums), w.order.out_features, w.order.in_features
    )


def _element_of(array: np.ndarray) -> Element:
    """A float element; any other type under its own name, for check_inputs to refuse."""
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name  # type: ignore[return-value]
