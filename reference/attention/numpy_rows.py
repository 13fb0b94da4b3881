"""What the judges of the row-wise methods share: blocks of a row, the largest entries with a tie rule, exponentials; NumPy."""

from __future__ import annotations

import numpy as np


def in_blocks(rows: np.ndarray, block: int) -> np.ndarray:
    """Rows cut into blocks, [rows, ceil(keys / block), block]; a short last block is filled up with -inf."""
    missing = -rows.shape[-1] % block
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-np.inf)
    return rows.reshape(len(rows), -1, block)


def out_of_blocks(blocks: np.ndarray, keys: int) -> np.ndarray:
    """The inverse of `in_blocks`."""
    return blocks.reshape(len(blocks), -1)[:, :keys]


def cuts(values: np.ndarray, counts: tuple[int, ...]) -> list[np.ndarray]:
    """For each count c, the c-th largest value along the last axis; +inf for c = 0."""
    size = values.shape[-1]
    ordered = np.partition(values, [size - count for count in counts if count], axis=-1)
    return [ordered[..., size - count] if count else np.full(values.shape[:-1], np.inf, values.dtype) for count in counts]


def keep_above(values: np.ndarray, cut: np.ndarray, kept: np.ndarray | int) -> np.ndarray:
    """The `kept` largest finite entries along the last axis, the lowest index first among equals.

    `cut` is the kept-th largest value, as `cuts` gives it; `kept` may differ from one slice to the next.
    """
    keep = (values >= cut[..., None]) & (values > -np.inf)
    tied = np.count_nonzero(keep, axis=-1) > kept  # equal values straddle the cut: rare, so mended apart
    if tied.any():
        values, cut, kept = values[tied], cut[tied][:, None], np.broadcast_to(kept, tied.shape)[tied]
        above, equal = values > cut, values == cut
        places = kept - np.count_nonzero(above, axis=-1)
        keep[tied] = above | (equal & (np.cumsum(equal, axis=-1) <= places[:, None]))
    return keep


def exponentials(rows: np.ndarray) -> np.ndarray:
    """e to the power of (score - row maximum) in float64 along the last axis; 0 where the score is -inf."""
    top = rows.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # two scores may lie further apart than float64 reaches: -inf, whose exponential is right
        return np.exp(rows.astype(np.float64) - np.where(top == -np.inf, 0.0, top))
