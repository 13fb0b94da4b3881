"""One list of keys for all query heads that share a key/value head: scores of the group, for any method to rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xmsim.reference.attention import numpy_rows
from xmsim.reference.attention.arrays import Array, as_numpy, same_kind
from xmsim.reference.attention.walk import check_largest, check_scores

_CHUNK_ENTRIES = 1 << 18  # scores of one group looked at together


def group_sum_scores(scores: Array, *, kv_heads: int) -> Array:
    """The logarithm of the summed probabilities of each group of query heads.

    A method that is given these instead of the heads' own scores decides once for each key/value head.

    Args:
        scores: float [..., heads, queries, keys], scaled and biased, -inf where a pair is not allowed; neighbouring heads
            share a key/value head.
        kv_heads: how many key/value heads there are; divides heads.
    Returns: float64 [..., kv_heads, queries, keys]; -inf where no head of the group may look. Computed in NumPy for tensors
        too, so that both kinds are equal.
    Raises: ValueError naming the argument: kv_heads; scores of the wrong rank or number format, with NaN or +inf.
    Source: ours (one gather for a group: a GPU or CPU reads the keys that any of its heads keeps).
    """
    return _by_group(scores, kv_heads, np.logaddexp.reduce)


def group_max_scores(scores: Array, *, kv_heads: int) -> Array:
    """The logarithm of the largest probability that any query head of a group gives to a pair.

    Arguments, result and errors are those of `group_sum_scores`.
    """
    return _by_group(scores, kv_heads, np.maximum.reduce)


def _by_group(scores: Array, kv_heads: int, combine: Callable[..., np.ndarray]) -> Array:
    check_scores(scores)
    values = as_numpy(scores)
    if values.ndim < 3:
        raise ValueError(f"scores: [..., heads, queries, keys] is needed, got shape {list(values.shape)}")
    *windows, heads, queries, keys = values.shape
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv_heads: {kv_heads} must divide the {heads} heads of scores")
    shared = np.empty((*windows, kv_heads, queries, keys))
    groups = values.reshape(*windows, kv_heads, heads // kv_heads, queries, keys)
    step = max(1, _CHUNK_ENTRIES // max(1, heads // kv_heads * keys))
    for group in np.ndindex(*windows, kv_heads):
        for first in range(0, queries if keys else 0, step):
            rows = slice(first, first + step)
            shared[(*group, rows)] = combine(_log_probabilities(groups[group][:, rows]), axis=0)
    return same_kind(shared, scores)


def _log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax along the last axis, float64; a row without an allowed pair is -inf throughout."""
    top = scores.max(axis=-1, keepdims=True).astype(np.float64)
    check_largest(top)
    total = numpy_rows.exponentials(scores).sum(axis=-1, keepdims=True)
    dead = total == 0
    return scores - np.where(dead, 0.0, top) - np.log(np.where(dead, 1.0, total))
