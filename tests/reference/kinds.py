"""NumPy arrays and torch tensors: what a test claims of one kind it claims of the other, on every device there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of array; tests hand NumPy arrays in and get NumPy arrays back."""

    device: str | None  # None: NumPy itself

    def of(self, array: Any) -> Any:
        """`array` in this kind."""
        if self.device is None:
            return array
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def array(self, given: Any) -> np.ndarray:
        """`given`, which must be of this kind, as a NumPy array."""
        if self.device is None:
            assert isinstance(given, np.ndarray)
            return given
        import torch

        assert isinstance(given, torch.Tensor) and given.device.type == self.device
        return given.cpu().numpy()

    def map(self, function: Callable[..., Any], *arrays: np.ndarray, **options: Any) -> np.ndarray:
        """`function` of `arrays` in this kind, as a NumPy array."""
        return self.array(function(*(self.of(array) for array in arrays), **options))


def kinds() -> list[Kind]:
    """Those that can be had here."""
    if find_spec("torch") is None:
        return [Kind(None)]
    import torch

    return [Kind(None), Kind("cpu"), *([Kind("cuda")] if torch.cuda.is_available() else [])]
