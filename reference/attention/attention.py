"""Attention on the kept pairs only, in float64: the judge of every kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_rows, torch_rows
from xmsim.reference.attention.arrays import Array, as_numpy, dtype_name, is_tensor, plain_arithmetic
from xmsim.reference.attention.heads import heads_per_kv_head

_CHUNK_ENTRIES = 1 << 18  # scores computed together: in float64 they stay in a second-level cache


def sparse_attention(q: Array, k: Array, v: Array, keep: Any, *, scale: float | None = None, bias: Any | None = None) -> Array:
    """Softmax over the kept pairs of each row, times v; computed in float64, one head and a block of queries at a time.

    Tensors are computed on the device of q, without gradients; the result is that of arrays to the rounding of float64.

    Args:
        q: float [..., heads, queries, d], after rotary embedding, before scaling.
        k, v: float [..., kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        keep: bool, broadcastable to [..., heads, queries, keys]; True where the pair takes part.
        scale: factor of q·k; None means d**-0.5.
        bias: added to the scaled scores, broadcastable likewise; -inf takes a pair out.
    Returns: like q; a row that keeps nothing gives zeros.
    Raises: ValueError naming the argument: a shape that does not fit, a keep that is not bool.
    """
    added: Any = 0.0 if bias is None else bias
    if not is_tensor(q):
        return _by_head(_attend_array, scale, *(as_numpy(x) for x in (q, k, v, keep, added)))
    import torch

    device = q.device  # type: ignore[attr-defined]
    with plain_arithmetic(q):
        return _by_head(_attend_tensor, scale, *(torch.as_tensor(x, device=device) for x in (q, k, v, keep, added)))


def _by_head(attend: Callable[..., Any], scale: float | None, q: Any, k: Any, v: Any, keep: Any, bias: Any) -> Any:
    """Checks, and the walk over heads and queries; arrays and tensors alike."""
    sharing = heads_per_kv_head(q, k)
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v: shape {list(v.shape)} does not fit k's {list(k.shape)}")
    if dtype_name(keep) != "bool":
        raise ValueError(f"keep: bool is needed, got {dtype_name(keep)}")
    pairs = (*q.shape[:-1], k.shape[-2])
    keep, bias = _broadcast("keep", keep, pairs), _broadcast("bias", bias, pairs)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    shape = (*q.shape[:-1], v.shape[-1])
    out = q.new_zeros(shape) if is_tensor(q) else np.zeros(shape, q.dtype)
    step = max(1, _CHUNK_ENTRIES // max(1, pairs[-1]))
    for head in np.ndindex(pairs[:-2]):
        kv_head = (*head[:-1], head[-1] // sharing)
        for first in range(0, pairs[-2] if pairs[-1] else 0, step):
            rows = (*head, slice(first, first + step))
            out[rows] = attend(q[rows], k[kv_head], v[kv_head], keep[rows], bias[rows], factor)
    return out


def _attend_array(q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, bias: np.ndarray, factor: float) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    weights = numpy_rows.exponentials(np.where(keep, q @ k.T * factor + bias, -np.inf))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0) @ v


def _attend_tensor(q: Any, k: Any, v: Any, keep: Any, bias: Any, factor: float) -> Any:
    q, k, v = q.double(), k.double(), v.double()
    weights = torch_rows.exponentials((q @ k.T * factor + bias).masked_fill(~keep, -math.inf))
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1) @ v


def _broadcast(name: str, values: Any, shape: tuple[int, ...]) -> Any:
    try:
        fits = np.broadcast_shapes(tuple(values.shape), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: shape {list(values.shape)} does not broadcast to {list(shape)}")
    return values.expand(shape) if is_tensor(values) else np.broadcast_to(values, shape)
