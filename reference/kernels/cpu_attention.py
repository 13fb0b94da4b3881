"""Sparse attention on the CPU where the compiled kernels are missing: only kept pairs are computed, rows in parallel (numba).

Imports only numpy and numba.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import get_num_threads, njit, prange

PARTIAL_KEYS = 32  # summed on their own before they join the row's sum: in float32 one long sum loses digits


@dataclass(frozen=True, slots=True, eq=False)
class KeptPairs:
    """The kept keys of every row, rows of all heads after each other.

    Row r = head × queries + query keeps keys[starts[r] : starts[r + 1]], ascending.
    """

    starts: np.ndarray  # int64 [heads × queries + 1]
    keys: np.ndarray  # int32 [kept pairs]


def kept_pairs(keep: np.ndarray) -> KeptPairs:
    """Lists of the kept keys of a mask, bool [heads, queries, keys]."""
    rows = np.ascontiguousarray(keep).reshape(-1, keep.shape[-1])
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.count_nonzero(rows, axis=1), out=starts[1:])
    keys = np.empty(starts[-1], np.int32)
    _list_keys(rows, starts, keys)
    return KeptPairs(starts, keys)


def gather_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, pairs: KeptPairs, *, scale: float, slopes: np.ndarray | None = None
) -> np.ndarray:
    """Softmax over the kept pairs of each row, times v; float32 throughout.

    Args:
        q: float32 [heads, queries, d]
        k, v: float32 [kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        pairs: the kept pairs of these heads and queries.
        scale: factor of q·k.
        slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
    Returns: float32 [heads, queries, d]; a row that keeps nothing gives zeros.
    """
    q, k, v = (np.ascontiguousarray(x, dtype=np.float32) for x in (q, k, v))
    if len(pairs.starts) != q.shape[0] * q.shape[1] + 1:
        raise ValueError(f"pairs: {len(pairs.starts) - 1} rows do not fit {q.shape[0]} heads of {q.shape[1]} queries")
    slopes = np.zeros(len(q), np.float32) if slopes is None else np.asarray(slopes, np.float32)
    out = np.empty_like(q)
    _gather_attention(q, k, v, pairs.starts, pairs.keys, np.float32(scale), slopes, out, get_num_threads())
    return out


@njit(parallel=True, cache=True)
def _list_keys(keep: np.ndarray, starts: np.ndarray, keys: np.ndarray) -> None:
    for row in prange(keep.shape[0]):
        place = starts[row]
        for key in range(keep.shape[1]):
            if keep[row, key]:
                keys[place] = key
                place += 1


# sums may be reordered, which lets them use vector registers; infinities keep their meaning
@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def _gather_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    scale: np.float32,
    slopes: np.ndarray,
    out: np.ndarray,
    parts: int,
) -> None:
    heads, queries, dim = q.shape
    sharing = heads // k.shape[0]
    rows = heads * queries
    longest = 0
    for row in range(rows):
        longest = max(longest, starts[row + 1] - starts[row])
    for part in prange(parts):  # a thread takes every parts-th row, because causal rows grow longer towards the end
        weights = np.empty(longest, np.float32)
        weighted, partial = np.empty(dim, np.float32), np.empty(dim, np.float32)
        for row in range(part, rows, parts):
            head, query = row // queries, row % queries
            row_keys = keys[starts[row] : starts[row + 1]]
            head_q, head_k, head_v = q[head, query], k[head // sharing], v[head // sharing]
            top = np.float32(-np.inf)
            for i in range(len(row_keys)):
                key, dot = row_keys[i], np.float32(0)
                for c in range(dim):
                    dot += head_q[c] * head_k[key, c]
                weights[i] = dot * scale + slopes[head] * np.float32(key)
                top = max(top, weights[i])
            total = np.float32(0)
            weighted[:] = 0
            for first in range(0, len(row_keys), PARTIAL_KEYS):
                partial_total = np.float32(0)
                partial[:] = 0
                for i in range(first, min(first + PARTIAL_KEYS, len(row_keys))):
                    key, weight = row_keys[i], np.exp(weights[i] - top)
                    partial_total += weight
                    for c in range(dim):
                        partial[c] += weight * head_v[key, c]
                total += partial_total
                for c in range(dim):
                    weighted[c] += partial[c]
            for c in range(dim):
                out[head, query, c] = weighted[c] / total if len(row_keys) else np.float32(0)
