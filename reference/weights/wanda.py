"""Wanda: a weight's score is its magnitude times the norm of its input; the smallest scores of each output row go."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor, plain_arithmetic
from xmsim.reference.weights.calibration import InputSquares, beside, gathered, working_copy
from xmsim.reference.weights.checks import check_pattern, check_sparsity, check_weight
from xmsim.reference.weights.selection import keep_of_blocks, keep_of_rows

_NEAR = 1e-3  # of the sparsity and of the bracket at which the search for alpha ends, as published
_ALPHA_LIMIT = 0.8


def wanda_scores(weight: Any, inputs: Any) -> Any:
    """|weight| times the root of the input's mean over sequences of its sum of squares over tokens.

    Args and errors: those of `wanda_keep`.
    Returns: float [out, in], float64 for a NumPy weight and float32 for a tensor, on its device.
    """
    check_weight(weight)
    with plain_arithmetic(weight):
        sums = gathered(inputs, InputSquares)
        return abs(working_copy(weight)) * (beside(sums.squares, weight) / sums.sequences) ** 0.5


def wanda_keep(weight: Any, inputs: Any, *, sparsity: float | None = None, kept: int | None = None, block: int | None = None) -> Any:
    """Keep the largest Wanda scores of each row, or of each block of consecutive inputs.

    Exactly int(in × sparsity) weights of each row go, or block − kept of each block; of equal scores the lowest index goes first.
    Weights that are zero already score 0 and go first.

    Args:
        weight: float [out, in]; NumPy array (the judge, in float64) or torch tensor (float32, on its device).
        inputs: what the layer was fed in calibration: float [tokens, in], a list of such, one for each calibration sequence, or an
            InputSquares or InputProducts that has gathered them.
        sparsity: share of each row that is pruned, at least 0 and below 1.
        kept, block: instead of sparsity: how many of every `block` consecutive inputs stay in each row.
    Returns: bool like weight, of the same kind, True where the weight stays.
    Raises: ValueError naming the argument: not exactly one of sparsity and (kept, block), or out of range; block that does not divide the
        inputs; weight all zero, not finite or not a matrix; inputs none, not finite or not as wide as the weight.
    Source: Wanda (arXiv 2306.11695), lib/prune.py and lib/layerwrapper.py of locuslab/wanda.
    """
    check_weight(weight)
    check_pattern(sparsity, kept, block, weight.shape[1])
    scores = wanda_scores(weight, inputs)
    if kept is not None and block is not None:
        return keep_of_blocks(scores, kept, block)
    return keep_of_rows(scores, sparsity or 0)


def wanda_alpha_keep(weight: Any, inputs: Any, *, sparsity: float) -> Any:
    """Wanda's variant: every row loses the same share alpha of its summed scores, and rows come out unlike in sparsity.

    In each row the smallest scores whose running sum stays within alpha × the row's sum go. Alpha is found by bisection in [0, 0.8], until
    the mean sparsity is within 0.001 of the one asked for or the bracket is under 0.001, as published; it can therefore miss it by more.

    Args, result and errors: those of `wanda_keep`.
    Source: locuslab/wanda, lib/prune.py, use_variant.
    """
    check_sparsity(sparsity)
    scores = wanda_scores(weight, inputs)
    ascending = scores.sort(dim=-1).values if is_tensor(scores) else np.sort(scores, axis=-1)
    running = ascending.cumsum(-1)
    low, high = 0.0, _ALPHA_LIMIT
    while True:
        alpha = (low + high) / 2
        within = running <= alpha * running[:, -1:]  # a prefix of each row
        reached = float(within.sum()) / (within.shape[0] * within.shape[1])
        if abs(reached - sparsity) <= _NEAR or high - low < _NEAR:
            break
        low, high = (low, alpha) if reached > sparsity else (alpha, high)
    last = (ascending * within).max(-1)  # NumPy's maxima are values, torch's come with their places
    threshold = last.values if is_tensor(scores) else last
    return scores > threshold[:, None]
