"""Which scores are the smallest of their row or block; the one tie rule of all pruning methods."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor


def is_smallest(scores: Any, count: int) -> Any:
    """Mark the `count` smallest scores along the last axis, of equal ones the lowest index first: a stable ascending sort.

    Args:
        scores: float [..., n], NumPy array or torch tensor; no NaN.
        count: 0 to n.
    Returns: bool like scores, of the same kind, `count` True in each slice.
    """
    if count == 0:
        return scores != scores
    if not is_tensor(scores):
        smallest = np.zeros(scores.shape, bool)
        np.put_along_axis(smallest, np.argsort(scores, axis=-1, kind="stable")[..., :count], True, axis=-1)
        return smallest
    import torch

    cut = scores.kthvalue(count, dim=-1, keepdim=True).values
    smallest = scores <= cut
    if smallest.sum() > smallest.numel() // smallest.shape[-1] * count:  # equal scores straddle a cut: rare, so mended apart
        below = scores < cut
        equal = smallest & ~below
        smallest = below | (equal & (equal.cumsum(dim=-1, dtype=torch.int32) <= count - below.sum(dim=-1, keepdim=True)))
    return smallest


def keep_of_rows(scores: Any, sparsity: float) -> Any:
    """Keep all but the int(inputs × sparsity) smallest scores of each row."""
    return ~is_smallest(scores, int(scores.shape[-1] * sparsity))


def keep_of_blocks(scores: Any, kept: int, block: int) -> Any:
    """Keep the `kept` largest scores of every `block` consecutive ones of a row."""
    return ~is_smallest(scores.reshape(-1, block), block - kept).reshape(scores.shape)


def keep_of_all(scores: Any, pruned: int) -> Any:
    """Keep all but the `pruned` smallest scores of the whole matrix."""
    return ~is_smallest(scores.reshape(-1), pruned).reshape(scores.shape)
