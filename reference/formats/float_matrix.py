"""A weight matrix of 16 or 32 bit floats as its bits: what the formats that only move values work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from xmsim.reference.attention.arrays import dtype_name, is_tensor

FloatElement = Literal["float16", "bfloat16", "float32"]
STORED: dict[FloatElement, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
}  # NumPy has no bfloat16: its bits
BITS: dict[FloatElement, type[np.unsignedinteger[Any]]] = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32}
MAGNITUDE: dict[FloatElement, int] = {"float16": 0x7FFF, "bfloat16": 0x7FFF, "float32": 0x7FFFFFFF}  # all bits but the sign; 0 is zero
INFINITY: dict[FloatElement, int] = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}  # a greater magnitude is a NaN

MOST_VALUES = 2**31 - 1  # the published formats have int32 offsets


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """A matrix [out_features, in_features] that holds no NaN."""

    bits: np.ndarray  # uint16 or uint32, contiguous
    element: FloatElement
    as_tensor: bool  # it was a torch tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.bits.shape[0], self.bits.shape[1]

    @property
    def magnitude(self) -> np.unsignedinteger[Any]:
        """What masks the sign of the bits out, in their type."""
        mask: np.unsignedinteger[Any] = BITS[self.element](MAGNITUDE[self.element])
        return mask

    @property
    def infinity(self) -> np.unsignedinteger[Any]:
        """The magnitude of infinity, in the type of the bits; a greater one is a NaN."""
        bits: np.unsignedinteger[Any] = BITS[self.element](INFINITY[self.element])
        return bits

    def padded_bits(self, multiple: int) -> np.ndarray:
        """The bits with zeros below and to the right, until both sizes are a multiple."""
        rows, columns = (filled_up(size, multiple) for size in self.shape)
        if (rows, columns) == self.shape:
            return self.bits
        padded = np.zeros((rows, columns), self.bits.dtype)
        padded[: self.shape[0], : self.shape[1]] = self.bits
        return padded


def read_float_matrix(array: Any) -> FloatMatrix:
    """Look at a weight matrix.

    Args:
        array: [out_features, in_features], any sizes from 1: a NumPy array of float16, float32 or uint16, which is taken for the bits of
            bfloat16, or a torch tensor of float16, bfloat16 or float32 on the CPU.
    Raises:
        TypeError: another number format.
        ValueError: another shape or device, a NaN, or more elements than int32 counts.
    """
    tensor = is_tensor(array)
    if tensor and (array.device.type != "cpu" or str(array.layout) != "torch.strided"):
        raise ValueError(
            f"weights: a dense tensor on the CPU is needed, this one is {array.layout} on {array.device}; use .to_dense().cpu()"
        )
    name = "bfloat16" if not tensor and np.asarray(array).dtype == np.uint16 else dtype_name(array if tensor else np.asarray(array))
    element = next((known for known in get_args(FloatElement) if known == name), None)
    if element is None:
        raise TypeError(f"weights: {name} is not stored; convert to float16, float32 or bfloat16 (in NumPy its bits, as uint16)")
    bits = _tensor_bits(array, element) if tensor else np.require(array, requirements=["C", "A"]).view(BITS[element])
    if bits.ndim != 2 or 0 in bits.shape:
        raise ValueError(f"weights: shape {bits.shape} is not [out_features, in_features] with both at least 1")
    if bits.size > MOST_VALUES:
        raise ValueError(f"weights: {bits.size} elements are more than int32 offsets reach ({MOST_VALUES}); split the matrix")
    return FloatMatrix(bits, element, tensor)


def refuse_nan(found: bool) -> None:
    """Stop at a NaN; the packers look for it on their way through the matrix."""
    if found:
        raise ValueError("weights: there is a NaN among them; a model with NaN weights computes nothing, find where it comes from")


def matrix_as_given(bits: np.ndarray, element: FloatElement, *, as_tensor: bool) -> Any:
    """Bits as the matrix its user knows: NumPy (bfloat16 as uint16) or a torch tensor."""
    values = bits.view(STORED[element])
    if not as_tensor:
        return values
    import torch

    made = torch.from_numpy(values)
    return made.view(torch.bfloat16) if element == "bfloat16" else made


def filled_up(count: Any, multiple: int) -> Any:
    """The next multiple at or above a count, or above each of an array of counts."""
    return -(-count // multiple) * multiple


def check_offsets(name: str, offsets: np.ndarray) -> None:
    """Refuse offsets that do not start at 0 or go back."""
    if offsets[0] != 0 or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise ValueError(f"{name}: they do not rise from 0; these weights are damaged, pack them again")


def check_matrix(shape: tuple[int, int], element: str) -> None:
    """Refuse a shape or an element type that no matrix has."""
    if len(shape) != 2 or min(shape) < 1 or element not in STORED:
        raise ValueError(f"shape: {element} {tuple(shape)} is no weight matrix; these weights are damaged, pack them again")


def _tensor_bits(tensor: Any, element: FloatElement) -> np.ndarray:
    import torch

    plain = tensor.detach().contiguous()
    bits: np.ndarray = (plain.view(torch.uint16) if element == "bfloat16" else plain).numpy().view(BITS[element])
    return bits
