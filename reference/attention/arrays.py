"""NumPy arrays or torch tensors in, the same kind out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor


def is_tensor(array: Any) -> bool:
    """Whether `array` is a torch tensor."""
    torch = sys.modules.get("torch")  # a tensor can only come from a torch that is loaded already
    return torch is not None and isinstance(array, torch.Tensor)


def as_numpy(array: Any) -> np.ndarray:
    """The values as a NumPy array; torch's bfloat16, which NumPy lacks, becomes float32."""
    if not is_tensor(array):
        return np.asarray(array)
    tensor = array.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def same_kind(result: np.ndarray, given: Array) -> Array:
    """`result` as a tensor on the device of `given` if that is a tensor, else as it is."""
    if not is_tensor(given):
        return result  # type: ignore[return-value]
    import torch

    return torch.from_numpy(result).to(given.device)  # type: ignore[attr-defined]


def dtype_name(array: Any) -> str:
    """The number format by its name, "float32", which NumPy and torch share."""
    return str(array.dtype).removeprefix("torch.")


@contextmanager
def plain_arithmetic(array: Any) -> Iterator[None]:
    """For a tensor, torch as it is written: no gradients, and no precision lowered by an autocast that the caller is in."""
    if not is_tensor(array):
        yield
        return
    import torch

    with torch.no_grad(), torch.autocast(array.device.type, enabled=False):
        yield
