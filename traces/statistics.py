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


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _tiles(mask: Mask, rows: int, block: int) -> Mask:
    """Tiles that hold a True; [..., ceil(queries / rows), ceil(keys / block)]."""
    in_blocks = np.logical_or.reduceat(mask, np.arange(0, mask.shape[-1], block), axis=-1)
    return np.logical_or.reduceat(in_blocks, np.arange(0, mask.shape[-2], rows), axis=-2)
