"""Threshold pruning: every probability above a constant (Sanger)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_rows, torch_rows
from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.walk import keep_row_by_row, recheck


def sanger_keep(scores: Array, *, threshold: float = 2e-3) -> Array:
    """Keep the pairs whose softmax probability is above `threshold`.

    Probabilities are compared in float64, without a division; a row may keep nothing.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        threshold: the probability that a kept pair exceeds.
    Returns: bool [..., queries, keys], True where the score is computed.
    Raises: ValueError naming the argument: threshold outside [0, 1); scores of the wrong rank or number format, with NaN or +inf.
    Source: Sanger (MICRO 2021), 2e-3 for BERT; coralabo/DynaX uses 1e-4 for LLaMA and BLOOM.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: {threshold} must be a probability in [0, 1)")

    def judge(rows: np.ndarray) -> np.ndarray:
        weights = numpy_rows.exponentials(rows)
        return weights > threshold * weights.sum(axis=-1, keepdims=True)

    def fast(rows: Any) -> Any:
        weights = torch_rows.exponentials(rows)
        limit = threshold * weights.sum(dim=-1, keepdim=True)
        doubtful = torch_rows.is_near(weights, limit) & (rows > -math.inf)
        return recheck(weights > limit, doubtful.any(dim=-1), rows, judge)

    return keep_row_by_row(scores, judge, fast)
