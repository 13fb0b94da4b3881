"""Query heads that share a key/value head (grouped-query attention)."""

from __future__ import annotations

from typing import Any


def heads_per_kv_head(q: Any, k: Any) -> int:
    """How many neighbouring query heads share one key/value head.

    Args:
        q: array or tensor [..., heads, queries, d]
        k: the same, [..., kv_heads, keys, d]
    Raises: ValueError: the shapes do not belong together.
    """
    if q.ndim < 3 or k.ndim != q.ndim:
        raise ValueError(f"q: [..., heads, queries, d] and k: [..., kv_heads, keys, d] are needed, got {list(q.shape)} and {list(k.shape)}")
    if q.shape[:-3] != k.shape[:-3] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"k: shape {list(k.shape)} does not fit q's {list(q.shape)}")
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if not kv_heads or heads % kv_heads:
        raise ValueError(f"q: {heads} heads are no multiple of the {kv_heads} key/value heads")
    return heads // kv_heads
