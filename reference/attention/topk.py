"""Top-k pruning: a fixed number of keys in each row."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_rows, torch_rows
from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.walk import keep_row_by_row


def topk_keep(scores: Array, *, kept: int) -> Array:
    """Keep the `kept` largest scores of each row; all allowed ones where there are fewer.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        kept: k, entries kept of each row.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept < 1; scores of the wrong rank or number format, with NaN or +inf.
    Source: coralabo/DynaX, models/utils/sparse_attention.py, method topk.
    """
    if kept < 1:
        raise ValueError(f"kept: {kept} must be at least 1")

    def judge(rows: np.ndarray) -> np.ndarray:
        count = min(kept, rows.shape[-1])
        (cut,) = numpy_rows.cuts(rows, (count,))
        return numpy_rows.keep_above(rows, cut, count)

    def fast(rows: Any) -> Any:
        return torch_rows.keep_largest(rows, min(kept, rows.shape[-1]), torch_rows.has_allowed(rows))

    return keep_row_by_row(scores, judge, fast)
