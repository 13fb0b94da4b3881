"""What a keep mask says about blocks and tiles. True = computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BlockClasses:
    """Shares of the blocks that the dense model computes at least one pair of; they add up to 1."""

    empty: float  # no key kept
    low: float  # 1 to kept_low keys kept
    high: float  # more


def block_counts(keep: Mask, block: int) -> npt.NDArray[np.int32]:
    """Kept keys of each block of `block` consecutive keys of a row; [..., queries, ceil(keys / block)]."""
    return np.add.reduceat(keep, np.arange(0, keep.shape[-1], block), axis=-1, dtype=np.int32)


def block_classes(keep: Mask, allowed: Mask, *, block: int, kept_low: int) -> BlockClasses:
    """Shares of blocks by the keys they keep: none, up to kept_low (the lower X of X:M pruning), or more.

    A block at the causal edge that was given the higher X may hold no more than kept_low keys; it counts as low.
    """
    counts = block_counts(keep, block)[:, block_counts(allowed, block) > 0]
    empty, high = _count(counts == 0) / counts.size, _count(counts > kept_low) / counts.size
    return BlockClasses(empty, 1 - empty - high, high)


def live_tile_share(keep: Mask, allowed: Mask, *, rows: int, block: int) -> float:
    """Share of the tiles of `rows` queries × `block` keys with an allowed pair in which any pair is kept.

    A machine that works on such tiles skips the others.
    """
    return _count(_tiles(keep, rows, block)) / (len(keep) * _count(_tiles(allowed, rows, block)))


def union_size(keep: Mask, *, rows: int, block: int) -> float:
    """U(R): mean number of different keys of `block` that `rows` consecutive queries of a head keep together.

    The mean is over the tiles of `rows` queries × `block` keys in which any pair is kept (of these a machine loads the
    union of the keys); 0 where there is none. With one row it is the mean length of the lists that are not empty.
    """
    return _mean_live_count(_any_of_rows(keep, rows), block)


def group_union_size(keep: Mask, *, kv_heads: int, block: int) -> float:
    """Mean number of different keys of `block` that the query heads of a KV head keep together for one query.

    The mean is over the blocks of a query of which any of these heads keeps a key; 0 where there is none. `keep` is
    [heads, queries, keys], and neighbouring heads share a KV head.
    """
    groups = keep.reshape(kv_heads, -1, *keep.shape[1:])
    return _mean_live_count(np.logical_or.reduce(groups, axis=1), block)


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _mean_live_count(keep: Mask, block: int) -> float:
    counts = block_counts(keep, block)
    return int(counts.sum()) / max(1, _count(counts > 0))


def _any_of_rows(mask: Mask, rows: int) -> Mask:
    """Whether any of `rows` consecutive queries has a True; [..., ceil(queries / rows), keys]."""
    return np.logical_or.reduceat(mask, np.arange(0, mask.shape[-2], rows), axis=-2)


def _tiles(mask: Mask, rows: int, block: int) -> Mask:
    """Tiles that hold a True; [..., ceil(queries / rows), ceil(keys / block)]."""
    return _any_of_rows(np.logical_or.reduceat(mask, np.arange(0, mask.shape[-1], block), axis=-1), rows)
