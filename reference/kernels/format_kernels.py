"""Linear layers on weights in published formats, read as they are stored: TCA-BME (SpInfer), bitmaps by columns (SPDP), 2:4."""

from __future__ import annotations

from ctypes import c_float, c_int, c_int64, c_void_p
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from xmsim.reference.activations.keep import sparsified, threshold_keep
from xmsim.reference.activations.spmspv import spmspv
from xmsim.reference.attention.arrays import is_tensor
from xmsim.reference.formats.column_bitmap import ColumnBitmap
from xmsim.reference.formats.tca_bme import TcaBme
from xmsim.reference.formats.tile_order import ELEMENT_CODES, Element, float_values, rounded_to
from xmsim.reference.formats.two_four import TwoFour
from xmsim.reference.kernels.linear import FORM_CODES, Addresses, check_inputs, native_linear, plain_product, run_packed
from xmsim.reference.kernels.native import address, default_threads, huge_empty, kernel

PublishedFormat = TcaBme | ColumnBitmap | TwoFour

_VECTOR_ARGUMENTS = (c_int, *[c_void_p] * 4, c_int64, c_int64, c_void_p, c_int, c_int64, c_float, c_void_p, c_void_p, c_int)


def format_linear(x: Any, w: PublishedFormat, b: Any = None) -> Any:
    """x wᵀ + b, any number of tokens.

    Args:
        x: [..., in_features], of w's element type (in NumPy bfloat16 is its bits, as uint16); array or tensor on the CPU.
        w: packed weights; the kernel turns them into its own tiles on the way to the registers, without unpacking the matrix.
        b: [out_features] of x's kind and type, or None.
    Returns: [..., out_features], x's kind and type; sums are float32. No gradients.
    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """

    def plain(x: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        return plain_product(x, _bits(w.to_dense()), b)

    return _like(x, run_packed(native_linear(), addresses_of(w), _bits(x), None if b is None else _bits(b), plain))


def sparse_vector_linear(x: Any, w: ColumnBitmap, b: Any = None, *, threshold: float = 0.0) -> Any:
    """w times each vector of x without its small inputs (spMspV), + b: the values of a column whose input is small are not read.

    Args:
        x: [..., in_features], float32, float16 or bfloat16 whatever w has; array or tensor on the CPU.
        b: [out_features] of x's kind and type, or None.
        threshold: inputs of a magnitude at or below it count as zero; NaN counts, and shows.
    Returns: [..., out_features], x's kind and type; sums are float32, over the 64 columns of a GroupTile and then over GroupTiles.
    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    Source: SPDP (arXiv 2607.21985).
    """
    vectors, bias = np.require(_bits(x), requirements=["C", "A"]), None if b is None else np.require(_bits(b), requirements=["C", "A"])
    name = _element(vectors)
    check_inputs(vectors.shape, name, None if bias is None else (bias.shape, _element(bias)), w.shape, name)
    threshold = _rounded(threshold, name)
    native = kernel("xm_sparse_vectors", c_int, *_VECTOR_ARGUMENTS)
    if native is None:
        values = float_values(vectors, name, None)
        sums = spmspv(w, sparsified(values, threshold_keep(values, threshold=threshold)))
        return _like(x, rounded_to(sums if bias is None else sums + float_values(bias, name, None), name))
    y = np.empty((*vectors.shape[:-1], w.shape[0]), vectors.dtype)
    parts = (address(part) for part in (w.bitmap, w.values, w.group_offsets, w.column_offsets))
    bias_address = 0 if bias is None else address(bias)
    count = vectors.size // w.shape[1]
    calls = address(vectors), ELEMENT_CODES[name], count, threshold, bias_address, address(y), default_threads()
    if count and not native(ELEMENT_CODES[w.element], *parts, *w.shape, *calls):
        raise MemoryError(f"x: no memory to list the inputs of {count} vectors; pass fewer at a time")
    return _like(x, y)


@lru_cache
def _rounded(threshold: float, element: Element) -> float:
    """In the type that it is compared in: torch and NumPy round it first."""
    return float(float_values(rounded_to(np.array([threshold], np.float32), element), element, None)[0])


def in_huge_pages(packed: PublishedFormat) -> PublishedFormat:
    """The same weights, copied to where kernels read them best."""

    def copied(part: np.ndarray) -> np.ndarray:
        copy = huge_empty(part.shape, part.dtype)
        copy[...] = part
        return copy

    parts = {field.name: getattr(packed, field.name) for field in fields(packed)}
    changes: Any = {name: copied(part) for name, part in parts.items() if isinstance(part, np.ndarray)}
    return replace(packed, **changes)


def addresses_of(w: PublishedFormat) -> Addresses:
    """Packed weights as a kernel sees them; who calls keeps them alive."""
    form, bitmap, offsets, inner_offsets = _parts(w)
    first, second = (0 if part is None else address(part) for part in (offsets, inner_offsets))
    return Addresses(FORM_CODES[form], ELEMENT_CODES[w.element], address(bitmap), address(w.values), first, second, 0, 0, *w.shape)


def _parts(w: PublishedFormat) -> tuple[str, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Name of the form, then what stands in for its bitmap and its offsets."""
    if isinstance(w, TcaBme):
        return "tcabme", w.bitmap, w.group_offsets, w.stripe_offsets
    if isinstance(w, ColumnBitmap):
        return "spdp", w.bitmap, w.group_offsets, w.column_offsets
    return "2:4", w.places, None, None


def _bits(x: Any) -> np.ndarray:
    """An array, or the memory of a tensor; bfloat16 as its bits."""
    if not is_tensor(x):
        return np.asarray(x)
    import torch

    if x.device.type != "cpu" or x.layout != torch.strided:
        raise ValueError(f"x: {x.layout} on {x.device}, kernels read dense tensors on the CPU; use .to_dense().cpu()")
    plain = x.detach().contiguous()
    array: np.ndarray = (plain.view(torch.uint16) if x.dtype == torch.bfloat16 else plain).numpy()
    return array


def _like(given: Any, y: np.ndarray) -> Any:
    if not is_tensor(given):
        return y
    import torch

    made = torch.from_numpy(y)
    return made.view(torch.bfloat16) if given.dtype == torch.bfloat16 else made


def _element(array: np.ndarray) -> Element:
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name  # type: ignore[return-value]  # check_inputs refuses others
