"""Attention on the kept pairs only, in float64: the judge of every kernel."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array, as_numpy, like
from xmsim.reference.attention.heads import heads_per_kv_head
from xmsim.reference.attention.rows import exponentials


def sparse_attention(q: Array, k: Array, v: Array, keep: Array, *, scale: float | None = None, bias: Array | None = None) -> Array:
    """Softmax over the kept pairs of each row, times v; computed in float64, one head at a time.

    Args:
        q: float [..., heads, queries, d], after rotary embedding, before scaling.
        k, v: float [..., kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        keep: bool, broadcastable to [..., heads, queries, keys]; True where the pair takes part.
        scale: factor of q·k; None means d**-0.5.
        bias: added to the scaled scores, broadcastable likewise; -inf takes a pair out.
    Returns: like q; a row that keeps nothing gives zeros.
    Raises: ValueError naming the argument whose shape does not fit.
    """
    q_values, k_values, v_values = as_numpy(q), as_numpy(k), as_numpy(v)
    sharing = heads_per_kv_head(q_values, k_values)
    if v_values.shape[:-1] != k_values.shape[:-1]:
        raise ValueError(f"v: shape {list(v_values.shape)} does not fit k's {list(k_values.shape)}")
    pairs = (*q_values.shape[:-1], k_values.shape[-2])
    keep_values = _broadcast("keep", as_numpy(keep), pairs)
    bias_values = np.broadcast_to(0.0, pairs) if bias is None else _broadcast("bias", as_numpy(bias), pairs)
    factor = q_values.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((*q_values.shape[:-1], v_values.shape[-1]), q_values.dtype)
    for head in np.ndindex(pairs[:-2]):
        kv_head = (*head[:-1], head[-1] // sharing)
        scores = q_values[head].astype(np.float64) @ k_values[kv_head].astype(np.float64).T * factor + bias_values[head]
        weights = exponentials(np.where(keep_values[head], scores, -np.inf))
        total = weights.sum(axis=-1, keepdims=True)
        out[head] = weights / np.where(total > 0, total, 1.0) @ v_values[kv_head].astype(np.float64)
    return like(out, q)


def _broadcast(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(f"{name}: shape {list(values.shape)} does not broadcast to {list(shape)}") from error
