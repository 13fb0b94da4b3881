"""X:M pruning: a variable number X of every M consecutive keys (DynaX)."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.rows import cuts, exponentials, in_blocks, keep_above, keep_row_by_row, out_of_blocks


def xm_keep(
    scores: Array,
    *,
    block: int = 64,
    kept_high: int = 16,
    kept_low: int = 8,
    threshold_high: float = 1.0,
    threshold_low: float = 0.1,
) -> Array:
    """Keep, in each row, the X largest of every M consecutive keys; X grows with the block's share of the row.

    The share is relative to uniform: block probability × keys / block. X is kept_high above threshold_high, 0 below
    threshold_low, kept_low otherwise and on equality. Shares are compared in float64, without a division.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        block: M, in keys.
        kept_high, kept_low: X of a block whose share is above threshold_high, or not below threshold_low.
        threshold_high, threshold_low: shares relative to uniform, where 1.0 is a block's even part of the whole row.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept_low > kept_high, kept_high > block, threshold_low > threshold_high,
        NaN or +inf in scores.
    Source: DynaX (ASPLOS 2025), X:M pruning; coralabo/DynaX, models/utils/sparse_attention.py. There keys is a multiple of
        block; here a short last block is filled up with -inf and `keys` stays the true length.
    """
    if not 0 <= kept_low <= kept_high:
        raise ValueError(f"kept_low: {kept_low} must be between 0 and kept_high, {kept_high}")
    if not 0 < kept_high <= block:
        raise ValueError(f"kept_high: {kept_high} must be between 1 and block, {block}")
    if not 0 <= threshold_low <= threshold_high < np.inf:
        raise ValueError(f"threshold_low: {threshold_low} must be between 0 and threshold_high, {threshold_high}, and both finite")

    def keep_rows(rows: np.ndarray) -> np.ndarray:
        keys = rows.shape[-1]
        blocks = in_blocks(rows, block)
        block_mass = exponentials(blocks.reshape(len(rows), -1)).reshape(blocks.shape).sum(axis=-1)
        row_mass = block_mass.sum(axis=-1, keepdims=True)
        share = block_mass * (keys / block)
        is_high = share > threshold_high * row_mass
        is_empty = ~is_high & (share < threshold_low * row_mass)
        cut_high, cut_low = cuts(blocks, (kept_high, kept_low))
        kept = np.select([is_high, is_empty], [kept_high, 0], kept_low)
        cut = np.select([is_high, is_empty], [cut_high, np.inf], cut_low)
        return out_of_blocks(keep_above(blocks, cut, kept), keys)

    return keep_row_by_row(scores, keep_rows)
