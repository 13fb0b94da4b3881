"""N:M pruning: a fixed number of every M consecutive keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_rows, torch_rows
from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.walk import keep_row_by_row


def nm_keep(scores: Array, *, kept: int = 16, block: int = 64) -> Array:
    """Keep, in each row, the `kept` largest of every `block` consecutive keys.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        kept: N, entries kept of each block; fewer where fewer are allowed.
        block: M, in keys.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept > block; scores of the wrong rank or number format, with NaN or +inf.
    Source: coralabo/DynaX, models/utils/sparse_attention.py, method nm.
    """
    if not 0 < kept <= block:
        raise ValueError(f"kept: {kept} must be between 1 and block, {block}")

    def judge(rows: np.ndarray) -> np.ndarray:
        blocks = numpy_rows.in_blocks(rows, block)
        (cut,) = numpy_rows.cuts(blocks, (kept,))
        return numpy_rows.out_of_blocks(numpy_rows.keep_above(blocks, cut, kept), rows.shape[-1])

    def fast(rows: Any) -> Any:
        blocks = torch_rows.in_blocks(rows, block)
        keep = torch_rows.keep_largest(blocks, kept, torch_rows.has_allowed(blocks))
        return torch_rows.out_of_blocks(keep, rows.shape[-1])

    return keep_row_by_row(scores, judge, fast)
