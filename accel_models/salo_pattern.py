"""Which pattern SALOv2's array takes for a block of a given mask, and which kept pairs that pattern reaches.

The machine chooses patterns by the scores. Where a mask is given instead, each block of 64 × 64 pairs gets a pattern (a window of
diagonals, a global column and row, a few picks in each row) that reaches all it keeps, if there is one: always so for a mask of the
machine's own method. Else the block is matched as the authors match scores, with a kept pair as 1: the fullest column, row and window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.salo_attention import RowPasses

BLOCK = 64
DIAGONALS = 2 * BLOCK - 1  # numbered from the lower left corner: column − row + 63
NONE = -1  # no global row or column

UInt64Array = npt.NDArray[np.uint64]


class BlockPattern(NamedTuple):
    """What the array can reach of a block."""

    window: np.uint64  # bit j·dilation for each of the window's diagonals
    starts: int  # diagonals that a window can begin with
    global_columns: int  # 0 or 1
    global_rows: int  # 0 or 1
    picks: int  # of a row


def block_pattern(window: int, global_lines: int, picks: int, dilation: int) -> BlockPattern:
    """The pattern as compiled code takes it; (window − 1)·dilation is below 64."""
    diagonals = [dilation * place for place in range(window)]
    return BlockPattern(
        np.uint64(sum(1 << diagonal for diagonal in diagonals)), DIAGONALS - diagonals[-1], global_lines, global_lines, picks
    )


class ChosenPattern(NamedTuple):
    """The pattern of one block."""

    start: int  # first diagonal of the window
    column: int  # or NONE
    row: int  # or NONE


@njit(cache=True)
def bit_count(word: np.uint64) -> int:
    """Bits set in a word."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64((bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)))


@njit(cache=True)
def lowest_bit(word: np.uint64) -> int:
    """Place of the lowest bit set; 64 in 0."""
    return bit_count(~word & (word - np.uint64(1)))


@njit(cache=True)
def highest_bit(word: np.uint64) -> int:
    """Place of the highest bit set; −1 in 0."""
    for distance in (1, 2, 4, 8, 16, 32):
        word |= word >> np.uint64(distance)
    return bit_count(word) - 1


@njit(cache=True)
def window_bits(pattern: BlockPattern, start: int, row: int) -> np.uint64:
    """Columns of a row that lie on the window's diagonals."""
    shift = start + row - (BLOCK - 1)
    if shift >= BLOCK:
        return np.uint64(0)
    if shift >= 0:
        return pattern.window << np.uint64(shift)
    return pattern.window >> np.uint64(-shift) if shift > -BLOCK else np.uint64(0)


@njit(cache=True)
def choose_pattern(block: UInt64Array, pattern: BlockPattern) -> ChosenPattern:
    """The pattern of a block, uint64 [64]: one that reaches every kept pair if there is one, the one with the first window of such."""
    for start in range(pattern.starts):
        column, row, complete = _complete_with(block, pattern, start)
        if complete:
            return ChosenPattern(start, column, row)
    return _match(block, pattern)


@njit(cache=True)
def reached(block: UInt64Array, pattern: BlockPattern, chosen: ChosenPattern, row: int) -> np.uint64:
    """The kept columns of a row that the pattern reaches: the picks are the first of those that window and column leave."""
    kept = block[row]
    if row == chosen.row:
        return kept
    by_line = kept & _line_bits(pattern, chosen, row)
    left = kept ^ by_line
    for _ in range(pattern.picks):
        by_line |= left & (~left + np.uint64(1))
        left &= left - np.uint64(1) if left else left
    return by_line


@njit(cache=True)
def _line_bits(pattern: BlockPattern, chosen: ChosenPattern, row: int) -> np.uint64:
    column = np.uint64(1) << np.uint64(chosen.column) if chosen.column != NONE else np.uint64(0)
    return window_bits(pattern, chosen.start, row) | column


@njit(cache=True)
def _complete_with(block: UInt64Array, pattern: BlockPattern, start: int) -> tuple[int, int, bool]:
    """Column and row with which a window reaches every kept pair, and whether there are such.

    A row with one kept pair more than it has picks needs the global column there; with two more it must be the global row.
    """
    global_row = NONE
    columns = ~np.uint64(0)  # that every needy row keeps
    needy = np.uint64(0)  # rows that need the global column
    for row in range(BLOCK):
        left = block[row] & ~window_bits(pattern, start, row)
        missing = bit_count(left) - pattern.picks
        if missing > pattern.global_columns:
            if pattern.global_rows == 0 or global_row != NONE:
                return NONE, NONE, False
            global_row = row
        elif missing == 1:
            needy |= np.uint64(1) << np.uint64(row)
            columns &= left
    if not needy:
        return NONE, global_row, True
    if columns:
        return lowest_bit(columns), global_row, True
    candidates = needy if pattern.global_rows and global_row == NONE else np.uint64(0)  # one of the needy rows may be the global one
    while candidates:
        spared = lowest_bit(candidates)
        candidates &= candidates - np.uint64(1)
        columns = ~np.uint64(0)
        others = needy ^ (np.uint64(1) << np.uint64(spared))
        while others:
            row = lowest_bit(others)
            others &= others - np.uint64(1)
            columns &= block[row] & ~window_bits(pattern, start, row)
        if columns:
            return lowest_bit(columns), spared, True
    return NONE, NONE, False


@njit(cache=True)
def _match(block: UInt64Array, pattern: BlockPattern) -> ChosenPattern:
    """The first of the fullest columns, rows and windows."""
    row_counts, column_counts = np.zeros(BLOCK, np.int64), np.zeros(BLOCK, np.int64)
    diagonal_counts = np.zeros(DIAGONALS, np.int64)
    for row in range(BLOCK):
        left = block[row]
        row_counts[row] = bit_count(left)
        while left:
            column = lowest_bit(left)
            left &= left - np.uint64(1)
            column_counts[column] += 1
            diagonal_counts[column - row + BLOCK - 1] += 1
    best, best_start = -1, 0
    for start in range(pattern.starts):
        inside, offsets = 0, pattern.window
        while offsets:
            inside += diagonal_counts[start + lowest_bit(offsets)]
            offsets &= offsets - np.uint64(1)
        if inside > best:
            best, best_start = inside, start
    column = int(np.argmax(column_counts)) if pattern.global_columns else NONE
    return ChosenPattern(best_start, column, int(np.argmax(row_counts)) if pattern.global_rows else NONE)


@njit(cache=True)
def reached_pairs(words: UInt64Array, query_offset: int, pattern: BlockPattern) -> tuple[UInt64Array, UInt64Array]:
    """The kept pairs of a head that its blocks' patterns reach, and those of them on the windows; both uint64 like `words`.

    Args:
        words: uint64 [queries, words of keys].
        query_offset: position of the first query; blocks begin at multiples of 64 positions.
    """
    queries = len(words)
    all_reached, by_window = np.zeros_like(words), np.zeros_like(words)
    block = np.zeros(BLOCK, np.uint64)
    for tile in range(query_offset // BLOCK, (query_offset + queries - 1) // BLOCK + 1):
        position = tile * BLOCK - query_offset
        first, end = max(0, position), min(queries, position + BLOCK)
        global_rows = min(pattern.global_rows, end - first - 1)  # a lone row is never global, as in the method
        here = BlockPattern(pattern.window, pattern.starts, pattern.global_columns, global_rows, pattern.picks)
        for number in range(words.shape[1]):
            block[:] = 0
            block[first - position : end - position] = words[first:end, number]
            if block.any():
                chosen = choose_pattern(block, here)
                for query in range(first, end):
                    all_reached[query, number] = reached(block, here, chosen, query - position)
                    by_window[query, number] = all_reached[query, number] & window_bits(pattern, chosen.start, query - position)
    return all_reached, by_window


@njit(cache=True)
def block_row_passes(words: UInt64Array, query_offset: int, units: int, pattern: BlockPattern) -> RowPasses:
    """The pairs that `reached_pairs` finds, as passes: a block after the other, `units` pairs of a row at a time.

    Units whose pair the mask drops idle. Window pairs come first, the newest in front, then the others in the order of keys; a global
    row keeps all its pairs and takes several passes.
    """
    all_reached, by_window = reached_pairs(words, query_offset, pattern)
    kept = 0
    for query in range(len(words)):
        for word in all_reached[query]:
            kept += bit_count(word)
    keys, pass_start, row_start = np.zeros(kept, np.int64), np.zeros(kept + 1, np.int64), np.zeros(len(words) + 1, np.int64)
    pairs, passes = 0, 0
    for query in range(len(words)):
        for number in range(words.shape[1]):
            local = by_window[query, number]
            others = all_reached[query, number] ^ local
            while local | others:
                in_block = highest_bit(local) if local else lowest_bit(others)
                if local:
                    local ^= np.uint64(1) << np.uint64(in_block)
                else:
                    others ^= np.uint64(1) << np.uint64(in_block)
                keys[pairs] = number * BLOCK + in_block
                pairs += 1
                if pairs - pass_start[passes] == units or not local | others:
                    passes += 1
                    pass_start[passes] = pairs
        row_start[query + 1] = passes
    return RowPasses(keys, pass_start[: passes + 1], row_start)
