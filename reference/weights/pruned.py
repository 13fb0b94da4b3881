"""A matrix under its mask, and the result of methods that also mend the weights that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A pruned matrix.

    weight is like the one given, in kind and number format, zero where pruned; keep is bool [out, in], True where a weight stays.
    """

    weight: Any
    keep: Any


def apply_keep(weight: Any, keep: Any) -> Any:
    """`weight` with plain zeros where `keep`, bool of the same shape and kind, is False; a copy, without gradient."""
    if is_tensor(weight):
        return weight.detach().masked_fill(~keep, 0)
    return np.where(keep, weight, weight.dtype.type(0))


def pruned_like(given: Any, weight: Any, keep: Any) -> Pruned:
    """The result in the number format of the weight that was given."""
    weight = apply_keep(weight, keep)
    return Pruned(weight.to(given.dtype) if is_tensor(weight) else weight.astype(given.dtype), keep)
