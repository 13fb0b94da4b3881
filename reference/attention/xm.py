"""X:M pruning: a variable number X of every M consecutive keys (DynaX), with thresholds on the whole row or on what a row sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_rows, torch_rows
from xmsim.reference.attention.arrays import Array, is_tensor
from xmsim.reference.attention.walk import keep_row_by_row, recheck


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
    Of a row with fewer keys than threshold_low × block nothing is kept: even its only block has too small a share.

    Args:
        scores: float [..., queries, keys], scaled and biased, -inf where a pair is not allowed; any length.
        block: M, in keys.
        kept_high, kept_low: X of a block whose share is above threshold_high, or not below threshold_low.
        threshold_high, threshold_low: shares relative to uniform, where 1.0 is a block's even part of the whole row;
            threshold_high may be infinite.
    Returns: bool [..., queries, keys], True where the score is computed; of equal scores the lowest index is kept first.
    Raises: ValueError naming the argument: kept_low > kept_high, kept_high > block, threshold_low > threshold_high;
        scores of the wrong rank or number format, with NaN or +inf.
    Source: DynaX (ASPLOS 2025), X:M pruning; coralabo/DynaX, models/utils/sparse_attention.py. There keys is a multiple of
        block; here a short last block is filled up with -inf and `keys` stays the true length.
    """
    return _keep(scores, _all_keys, block, kept_high, kept_low, threshold_high, threshold_low)


def xm_causal_keep(
    scores: Array,
    *,
    block: int = 64,
    kept_high: int = 16,
    kept_low: int = 8,
    threshold_high: float = 1.0,
    threshold_low: float = 0.1,
) -> Array:
    """`xm_keep` with shares relative to what a row may see: block probability × allowed keys of the row / block.

    An early row of a causal mask has its probability in few of the row's blocks, so that `xm_keep` keeps kept_high of each.
    Here 1.0 is a block's even part of the allowed keys, and early rows are pruned like late ones; less than a block of
    allowed keys counts as one block.

    Arguments, result and errors are those of `xm_keep`.
    Source: ours; the artifact's thresholds are those of `xm_keep`.
    """
    return _keep(scores, _allowed_keys, block, kept_high, kept_low, threshold_high, threshold_low)


def _all_keys(rows: Any, block: int) -> Any:
    return rows.shape[-1]


def _allowed_keys(rows: Any, block: int) -> Any:
    count: Callable[[Any], Any] = torch_rows.count if is_tensor(rows) else partial(np.count_nonzero, axis=-1)
    return count(rows > -math.inf)[:, None].clip(block)


def _keep(
    scores: Array,
    counted_keys: Callable[[Any, int], Any],
    block: int,
    kept_high: int,
    kept_low: int,
    threshold_high: float,
    threshold_low: float,
) -> Array:
    """Both rules; `counted_keys` gives the length of each row that shares are relative to, of arrays and tensors alike."""
    if not 0 <= kept_low <= kept_high:
        raise ValueError(f"kept_low: {kept_low} must be between 0 and kept_high, {kept_high}")
    if not 0 < kept_high <= block:
        raise ValueError(f"kept_high: {kept_high} must be between 1 and block, {block}")
    if not 0 <= threshold_low <= threshold_high:
        raise ValueError(f"threshold_low: {threshold_low} must be between 0 and threshold_high, {threshold_high}")

    def thresholds(keys: int) -> tuple[float, float]:
        beyond = 2 * max(keys / block, 1)  # no share is that high: it stands for every threshold above, infinity among them
        return min(threshold_high, beyond), min(threshold_low, beyond)

    def judge(rows: np.ndarray) -> np.ndarray:
        blocks = numpy_rows.in_blocks(rows, block)
        block_mass = numpy_rows.exponentials(blocks.reshape(len(rows), -1)).reshape(blocks.shape).sum(axis=-1)
        row_mass = block_mass.sum(axis=-1, keepdims=True)
        share = block_mass * (counted_keys(rows, block) / block)
        high, low = thresholds(rows.shape[-1])
        is_high = share > high * row_mass
        is_empty = ~is_high & (share < low * row_mass)
        cut_high, cut_low = numpy_rows.cuts(blocks, (kept_high, kept_low))
        kept = np.select([is_high, is_empty], [kept_high, 0], kept_low)
        cut = np.select([is_high, is_empty], [cut_high, np.inf], cut_low)
        return numpy_rows.out_of_blocks(numpy_rows.keep_above(blocks, cut, kept), rows.shape[-1])

    def fast(rows: Any) -> Any:
        blocks = torch_rows.in_blocks(rows, block)
        block_mass = torch_rows.exponentials(blocks.flatten(1)).view_as(blocks).sum(dim=-1)
        row_mass = block_mass.sum(dim=-1, keepdim=True)
        share = block_mass * counted_keys(rows, block) / block
        high, low = thresholds(rows.shape[-1])
        limit_high, limit_low = high * row_mass, low * row_mass
        is_high, is_empty = share > limit_high, share < limit_low
        allowed = torch_rows.has_allowed(blocks)  # the others keep nothing, whatever their class
        keep = torch_rows.keep_largest(blocks, kept_high, is_high & allowed)
        keep |= torch_rows.keep_largest(blocks, kept_low, ~is_high & ~is_empty & allowed)
        doubtful = torch_rows.is_near(share, limit_high)
        if low > 0:  # no share lies below 0
            doubtful |= torch_rows.is_near(share, limit_low)
        doubtful = (doubtful & allowed).any(dim=-1)
        return recheck(torch_rows.out_of_blocks(keep, rows.shape[-1]), doubtful, rows, judge)

    return keep_row_by_row(scores, judge, fast)
