"""What the row-wise methods share: walking over rows with bounded memory, and the largest entries with a tie rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xmsim.reference.attention.arrays import Array, as_numpy, same_kind

_CHUNK_ENTRIES = 1 << 18  # scores looked at together: their float64 copies stay in a second-level cache


def keep_row_by_row(scores: Array, keep_rows: Callable[[np.ndarray], np.ndarray]) -> Array:
    """Apply `keep_rows`, float [rows, keys] -> bool [rows, keys], to all rows of `scores`, a few at a time.

    Every row is decided on its own, so a part of the scores gives that part of the mask.

    Raises:
        ValueError: scores with fewer than two dimensions, with NaN or with +inf.
    """
    values = as_numpy(scores)
    if values.ndim < 2:
        raise ValueError(f"scores: [..., queries, keys] is needed, got shape {list(values.shape)}")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    keep = np.zeros(values.shape, dtype=bool)
    if values.size:
        keys = values.shape[-1]
        rows, keep_2d = values.reshape(-1, keys), keep.reshape(-1, keys)
        step = max(1, _CHUNK_ENTRIES // keys)
        for first in range(0, len(rows), step):
            chunk = np.ascontiguousarray(rows[first : first + step])
            if not (chunk.max(axis=-1) < np.inf).all():  # NaN fails every comparison
                raise ValueError("scores: NaN or +inf; a pair that is not allowed is -inf, every other score is finite")
            keep_2d[first : first + step] = keep_rows(chunk)
    return same_kind(keep, scores)


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
    return np.exp(rows.astype(np.float64) - np.where(top == -np.inf, 0.0, top))
