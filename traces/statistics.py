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


def group_keep(keep: Mask, kv_heads: int) -> Mask:
    """What any query head of a KV head keeps; [kv_heads, queries, keys].

    `keep` is [heads, queries, keys], and neighbouring heads share a KV head. The functions of this module say of it what the heads of a
    KV head need together.
    """
    together: Mask = np.logical_or.reduce(keep.reshape(kv_heads, -1, *keep.shape[1:]), axis=1)
    return together


def gather_turns(keep: Mask, *, banks: int = 8) -> float:
    """Mean number of turns in which as many kept keys of a row as there are banks are read at once, key j from bank j mod `banks`.

    The keys of a row are taken in ascending order; a last read of fewer keys does not count. 1 where no two keys of a read meet in a bank,
    `banks` where all do; 0 where no row keeps so many.
    """
    turns, reads = 0, 0
    for head in keep.reshape(-1, *keep.shape[-2:]):
        row, key = np.nonzero(head)
        kept = np.bincount(row, minlength=len(head))
        place = np.arange(len(row)) - (np.cumsum(kept) - kept)[row]  # of a key among those of its row
        key = key[place < kept[row] // banks * banks]  # reads follow each other, `banks` keys each
        read = np.arange(len(key)) // banks
        in_bank = np.bincount(read * banks + key % banks, minlength=len(key)).reshape(-1, banks)
        turns, reads = turns + int(in_bank.max(axis=1, initial=0).sum()), reads + len(in_bank)
    return turns / max(1, reads)


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
