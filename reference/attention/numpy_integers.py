"""The arithmetic of low-bit prediction in NumPy: float32 up to the integers, then exact."""

from __future__ import annotations

import numpy as np


def as_float32(values: np.ndarray) -> np.ndarray:
    """The values in float32, nearest ones."""
    return values.astype(np.float32)


def largest_magnitude(values: np.ndarray) -> np.float32:
    """The largest magnitude, 0 of no values; NaN or infinity where a value is."""
    return np.abs(values).max(initial=0.0)


def prune(q: np.ndarray, group: int) -> np.ndarray:
    """Of each `group` consecutive channels the one of largest magnitude, the lowest among equals; the others become 0."""
    groups = q.reshape(*q.shape[:-1], q.shape[-1] // group, group)
    largest = np.abs(groups).argmax(axis=-1, keepdims=True)  # the first of equals
    return np.where(np.arange(group) == largest, groups, np.float32(0)).reshape(q.shape)


def quantise(values: np.ndarray, magnitude: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """int8 like `values`, halves to even.

    Args:
        values: float32 [..., heads, rows, d].
        magnitude: float32 [] or [heads], where values are clamped.
        steps: float32 likewise, per unit.
    """
    magnitude, steps = magnitude[..., None, None], steps[..., None, None]
    return np.rint(np.clip(values, -magnitude, magnitude) * steps).astype(np.int8)


def multiply(q: np.ndarray, k: np.ndarray, sharing: int, *, wide: bool) -> np.ndarray:
    """int32 [..., heads, queries, keys] from int8 [..., heads, queries, d] and [..., kv_heads, keys, d].

    Sums of integer products are exact in float32 below 2^24 and in float64 (`wide`) below 2^53, and far faster there than
    in integers.
    """
    exact: type[np.floating] = np.float64 if wide else np.float32
    queries, dim = q.shape[-2:]
    q_shared = q.reshape(*k.shape[:-2], sharing * queries, dim)  # the queries of all heads that share a key head
    products = q_shared.astype(exact) @ k.astype(exact).swapaxes(-1, -2)
    return products.astype(np.int32).reshape(*q.shape[:-1], k.shape[-2])
