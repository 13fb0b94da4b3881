"""Threshold pruning: every probability above a constant (Sanger)."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.rows import exponentials, keep_row_by_row


def sanger_keep(scores: Array, *, threshold: float = 2e-3) -> Array:
    """Keep the pairs whose softmax probability is above `threshold`.

    Probabilities are compared in float64, without a division; a row may keep nothing.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        threshold: the probability that a kept pair exceeds.
    Returns: bool [..., queries, keys], True where the score is computed.
    Raises: ValueError naming the argument: threshold outside [0, 1), NaN or +inf in scores.
    Source: Sanger (MICRO 2021), 2e-3 for BERT; coralabo/DynaX uses 1e-4 for LLaMA and BLOOM.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: {threshold} must be a probability in [0, 1)")

    def keep_rows(rows: np.ndarray) -> np.ndarray:
        weights = exponentials(rows)
        return weights > threshold * weights.sum(axis=-1, keepdims=True)

    return keep_row_by_row(scores, keep_rows)
