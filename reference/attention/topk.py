"""Top-k pruning: a fixed number of keys in each row."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.rows import cuts, keep_above, keep_row_by_row


def topk_keep(scores: Array, *, kept: int) -> Array:
    """Keep the `kept` largest scores of each row; all allowed ones where there are fewer.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        kept: k, entries kept of each row.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept < 1, NaN or +inf in scores.
    Source: coralabo/DynaX, models/utils/sparse_attention.py, method topk.
    """
    if kept < 1:
        raise ValueError(f"kept: {kept} must be at least 1")

    def keep_rows(rows: np.ndarray) -> np.ndarray:
        count = min(kept, rows.shape[-1])
        (cut,) = cuts(rows, (count,))
        return keep_above(rows, cut, count)

    return keep_row_by_row(scores, keep_rows)
