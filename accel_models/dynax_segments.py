"""DynaX's block scheduler: the kept keys of every row and key block, cut into segments, and summed over the rows of a window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.mask_words import bit_count, span
from xmsim.sim.schedule import Int64Array

Words = npt.NDArray[np.uint64]
WORD_BITS = 64


def segments(kept_keys: Int64Array, columns: int) -> Int64Array:
    """Segments of a row and key block: its kept keys cut to the width of an execution row. Any number of keys is served."""
    return -(-kept_keys // columns)


class WindowSegments(NamedTuple):
    """What the scheduler finds in a mask."""

    by_block: Int64Array  # [heads, windows, key blocks]
    overfull_blocks: int  # rows' blocks of which more keys are kept than the cascade ranks


def window_segments(words: Words, *, keys: int, block: int, columns: int, kept: int, window_rows: int) -> WindowSegments:
    """Count in a packed mask, uint64 [heads, queries, words]; bits from `keys` on are 0."""
    heads, queries, _ = words.shape
    by_block = np.zeros((heads, -(-queries // window_rows), -(-keys // block)), np.int64)
    overfull = _count(words, _pieces(block, keys), segments(np.arange(min(block, keys) + 1), columns), kept, window_rows, by_block)
    return WindowSegments(by_block, overfull)


class _Pieces(NamedTuple):
    """Parts of blocks that lie within a word."""

    block: Int64Array
    word: Int64Array
    bits: Words


def _pieces(block: int, keys: int) -> _Pieces:
    cuts = np.union1d(np.arange(0, keys, block), np.arange(0, keys, WORD_BITS))
    ends = np.append(cuts[1:], keys)
    bits = [span(first % WORD_BITS, (end - 1) % WORD_BITS + 1) for first, end in zip(cuts.tolist(), ends.tolist(), strict=True)]
    return _Pieces(cuts // block, cuts // WORD_BITS, np.array(bits, np.uint64))


@njit(cache=True)
def _count(words: Words, pieces: _Pieces, segments_of: Int64Array, kept: int, window_rows: int, by_block: Int64Array) -> int:
    overfull = 0
    counts = np.zeros(by_block.shape[2], np.int64)
    blocks, places, bits = pieces
    for head in range(len(words)):
        for query in range(words.shape[1]):
            counts[:] = 0
            row, sums = words[head, query], by_block[head, query // window_rows]
            for piece in range(len(blocks)):
                counts[blocks[piece]] += bit_count(row[places[piece]] & bits[piece])
            for block in range(len(counts)):
                sums[block] += segments_of[counts[block]]
                overfull += counts[block] > kept
    return overfull
