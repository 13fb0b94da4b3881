"""Magnitude pruning: the smallest weights of a matrix go, whatever is multiplied with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.weights.checks import check_pattern, check_weight
from xmsim.reference.weights.selection import keep_of_blocks


def magnitude_keep(weight: Any, *, sparsity: float | None = None, kept: int | None = None, block: int | None = None) -> Any:
    """Keep the weights of a matrix that are larger in magnitude than its `sparsity` quantile, or the largest of each block.

    The cut is the value at place int(size × sparsity) of the sorted magnitudes, and what equals it goes too, so that one weight more than
    asked for is pruned, or several where they tie. In a block exactly `kept` stay; of equal magnitudes the lowest index goes first.

    Args:
        weight: float [out, in]; NumPy array or torch tensor.
        sparsity: share of the weights that is pruned, at least 0 and below 1; 0 keeps everything.
        kept, block: instead of sparsity: how many of every `block` consecutive inputs stay in each row.
    Returns: bool like weight, of the same kind, True where the weight stays.
    Raises: ValueError naming the argument: sparsity out of its range; not exactly one of sparsity and (kept, block); block that does not
        divide the inputs; weight all zero, not finite, not a matrix or without elements.
    Source: the magnitude baseline of Wanda (arXiv 2306.11695), lib/prune.py of locuslab/wanda.
    """
    check_weight(weight)
    check_pattern(sparsity, kept, block, weight.shape[1])
    magnitude = abs(weight)
    if kept is not None and block is not None:
        return keep_of_blocks(magnitude, kept, block)
    if not sparsity:
        return magnitude >= 0
    place = int(sparsity * np.prod(weight.shape, dtype=np.int64))
    if isinstance(weight, np.ndarray):
        return magnitude > np.partition(magnitude.ravel(), place)[place]
    return magnitude > magnitude.flatten().float().kthvalue(place + 1).values
