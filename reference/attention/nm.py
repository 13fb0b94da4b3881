"""N:M pruning: a fixed number of every M consecutive keys."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.rows import cuts, in_blocks, keep_above, keep_row_by_row, out_of_blocks


def nm_keep(scores: Array, *, kept: int = 16, block: int = 64) -> Array:
    """Keep, in each row, the `kept` largest of every `block` consecutive keys.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        kept: N, entries kept of each block; fewer where fewer are allowed.
        block: M, in keys.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept > block, NaN or +inf in scores.
    Source: coralabo/DynaX, models/utils/sparse_attention.py, method nm.
    """
    if not 0 < kept <= block:
        raise ValueError(f"kept: {kept} must be between 1 and block, {block}")

    def keep_rows(rows: np.ndarray) -> np.ndarray:
        blocks = in_blocks(rows, block)
        (cut,) = cuts(blocks, (kept,))
        return out_of_blocks(keep_above(blocks, cut, kept), rows.shape[-1])

    return keep_row_by_row(scores, keep_rows)
