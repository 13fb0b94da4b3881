"""The arithmetic of low-bit prediction in torch, equal to that of `numpy_integers` bit for bit on any device.

Nothing here can differ: maxima, comparisons, single float32 products and halves to even are what they are, and sums are
of integers that their format holds, in whatever order and by whatever unit they are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def as_float32(values: Any) -> Any:
    """The values in float32, nearest ones."""
    return values.float()


def largest_magnitude(values: Any) -> np.float32:
    """The largest magnitude, 0 of no values; NaN or infinity where a value is."""
    return np.float32(values.abs().max().item() if values.numel() else 0.0)


def prune(q: Any, group: int) -> Any:
    """Of each `group` consecutive channels the one of largest magnitude, the lowest among equals; the others become 0."""
    import torch

    groups = q.reshape(*q.shape[:-1], q.shape[-1] // group, group)
    largest = groups.abs().argmax(dim=-1, keepdim=True)  # the first of equals
    return groups.masked_fill(torch.arange(group, device=q.device) != largest, 0).reshape(q.shape)


def quantise(values: Any, magnitude: np.ndarray, steps: np.ndarray) -> Any:
    """int8 like `values`, halves to even.

    Args:
        values: float32 [..., heads, rows, d].
        magnitude: float32 [] or [heads], where values are clamped.
        steps: float32 likewise, per unit.
    """
    import torch

    # a number by itself needs no copy to a GPU, for which it would have to stop
    top, per_unit = (float(x) if not x.ndim else torch.from_numpy(x[..., None, None]).to(values.device) for x in (magnitude, steps))
    return (values.clamp(-top, top) * per_unit).round().to(torch.int8)


def multiply(q: Any, k: Any, sharing: int, *, wide: bool) -> Any:
    """int32 [..., heads, queries, keys] from int8 [..., heads, queries, d] and [..., kv_heads, keys, d].

    Sums of integer products are exact in float32 below 2^24 and in float64 (`wide`) below 2^53.
    """
    import torch

    exact = torch.float64 if wide else torch.float32
    queries, dim = q.shape[-2:]
    q_shared = q.reshape(*k.shape[:-2], sharing * queries, dim)  # the queries of all heads that share a key head
    products = q_shared.to(exact) @ k.to(exact).transpose(-1, -2)
    return products.to(torch.int32).reshape(*q.shape[:-1], k.shape[-2])
