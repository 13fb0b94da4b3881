"""Static patterns of whole blocks: Longformer's and BigBird's band, global and random blocks, and fixed local squares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.positions import keep_pattern

Layout = Callable[[np.ndarray, np.ndarray], np.ndarray]  # numbers of block rows [rows, 1] and of block columns -> bool [rows, columns]


def block_pattern_keep(
    scores: Array,
    *,
    block: int = 16,
    band_blocks: int = 3,
    global_blocks: int = 1,
    random_blocks: int = 0,
    seed: int = 0,
    query_offset: int | None = None,
) -> Array:
    """Keep the allowed pairs of a band of blocks, of the global block rows and columns, and of random blocks of each block row.

    Without random blocks this is Longformer's pattern, with them BigBird's. The random blocks of a block row are drawn from
    those that band and global blocks leave out, or are all of these where there are no more. The draw depends on seed,
    block row and number of keys alone, so a chunk of queries has the blocks of the whole. Blocks that a causal model does
    not allow are drawn like any other and then cut: its rows have fewer random blocks, the earlier the fewer.

    Args:
        scores: float [..., queries, keys], -inf where a pair is not allowed; any length.
        block: edge of a block, in positions.
        band_blocks: width of the band around the diagonal, an odd number of blocks.
        global_blocks: leading blocks whose tokens are seen by every query and see every key.
        random_blocks: further blocks of each block row.
        seed: of the random blocks.
        query_offset: position of the first query; None means that the last query sees the last key.
    Returns: bool [..., queries, keys], True where the score is computed; the same for all heads.
    Raises: ValueError naming the argument: block < 1, band_blocks not odd, any other < 0, NaN or +inf in scores.
    Source: hatsu3/Sanger, modeling_static_spattn.py (longformer, bigbird), after DeepSpeed; there the random blocks are
        unseeded and may fall on the band.
    """
    if band_blocks < 1 or not band_blocks % 2:
        raise ValueError(f"band_blocks: {band_blocks} must be odd: as many blocks before the diagonal's as after it")
    for name, value in (("global_blocks", global_blocks), ("random_blocks", random_blocks), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name}: {value} must not be negative")

    def layout(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        kept = (np.abs(row - column) <= band_blocks // 2) | (column < global_blocks) | (row < global_blocks)
        if random_blocks:
            for number, kept_row in zip(row[:, 0], kept, strict=True):
                draws = np.random.default_rng((seed, max(number, 0))).random(len(column))  # one a block: more keys only add draws
                order = draws.argsort()
                kept_row[order[~kept_row[order]][:random_blocks]] = True
        return kept

    return _keep_blocks(scores, block, layout, query_offset)


def fixed_pattern_keep(scores: Array, *, block: int = 16, local_blocks: int = 4, query_offset: int | None = None) -> Array:
    """Keep the allowed pairs of local squares of `local_blocks` blocks along the diagonal, and the last block column of each.

    Args:
        scores: float [..., queries, keys], -inf where a pair is not allowed; any length.
        block: edge of a block, in positions.
        local_blocks: edge of a square, in blocks; the last square may be shorter.
        query_offset: position of the first query; None means that the last query sees the last key.
    Returns: bool [..., queries, keys], True where the score is computed; the same for all heads.
    Raises: ValueError naming the argument: block or local_blocks < 1, query_offset < 0, NaN or +inf in scores.
    Source: hatsu3/Sanger, modeling_static_spattn.py (fixed, bidirectional), after DeepSpeed and the Sparse Transformer.
    """
    if local_blocks < 1:
        raise ValueError(f"local_blocks: {local_blocks} must be at least 1")

    def layout(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        is_last = (column % local_blocks == local_blocks - 1) | (column == len(column) - 1)
        return (row // local_blocks == column // local_blocks) | is_last

    return _keep_blocks(scores, block, layout, query_offset)


def _keep_blocks(scores: Array, block: int, layout: Layout, query_offset: int | None) -> Array:
    """The allowed pairs of the blocks that `layout` keeps."""
    if block < 1:
        raise ValueError(f"block: {block} must be at least 1")

    def pattern(query: np.ndarray, key: np.ndarray) -> np.ndarray:
        rows, row_of = np.unique(query // block, return_inverse=True)
        columns, column_of = np.unique(key // block, return_inverse=True)
        return layout(rows[:, None], columns)[row_of.reshape(-1, 1), column_of]

    return keep_pattern(scores, pattern, query_offset)
