"""NumPy arrays or torch tensors in, the same kind out; the arithmetic between is NumPy's."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor


def as_numpy(array: Any) -> np.ndarray:
    """The values as a NumPy array; torch's bfloat16, which NumPy lacks, becomes float32."""
    torch = sys.modules.get("torch")  # a tensor can only come from a torch that is loaded already
    if torch is None or not isinstance(array, torch.Tensor):
        return np.asarray(array)
    tensor = array.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def same_kind(result: np.ndarray, given: Array) -> Array:
    """`result` as a tensor on the device of `given` if that is a tensor, else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(given, torch.Tensor):
        return result  # type: ignore[return-value]
    return torch.from_numpy(result).to(given.device)


def like(result: np.ndarray, given: Array) -> Array:
    """`result` in the kind and the number format of `given`."""
    converted: Any = same_kind(result, given)
    return converted.astype(given.dtype) if isinstance(given, np.ndarray) else converted.to(given.dtype)  # type: ignore[attr-defined]
