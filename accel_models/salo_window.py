"""How SALO v1 cuts a static pattern into passes of its array: groups of query rows, and pieces of their sliding window.

A dilated window becomes an ordinary one when tokens are taken in the order of their position modulo the dilation: `residue` is that
class, `place` the position within it. The mapping is inferred from the array's wiring and the authors' count of passes,
ceil(n / rows)·ceil(w / columns); their scheduler is in no released code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.salo_attention import RowPasses
from xmsim.accel_models.salo_pattern import UInt64Array, bit_count
from xmsim.sim.schedule import Int64Array

ANY_KEYS = -1  # residue of a pass whose keys serve the global rows alone


class WindowPattern(NamedTuple):
    """The static pattern of a layer, and the array that it is cut for."""

    queries: int
    keys: int
    query_offset: int  # position of the first query
    first_offset: int  # places from a query to the oldest key of its window
    last_offset: int  # and to the newest
    dilation: int
    global_tokens: int
    global_queries: int  # queries that see every key, served by the global rows
    rows: int
    columns: int
    global_rows: int
    global_columns: int
    skip_empty: bool  # leave out passes of which no key lies in the sequence


def without_far_pieces(pattern: WindowPattern) -> WindowPattern:
    """The same pattern without pieces of its window that have no key in any group, of which a window far beyond the sequence has many."""
    places = -(-pattern.keys // pattern.dilation)
    surplus = max(0, -pattern.first_offset - places - pattern.rows)
    first_offset = pattern.first_offset + surplus // pattern.columns * pattern.columns
    return pattern._replace(first_offset=first_offset, last_offset=min(pattern.last_offset, places))


class WindowPasses(NamedTuple):
    """The passes of one head; all heads have the same. The last group is that of the global queries, and may have none."""

    group_start: Int64Array  # [groups + 1], in passes
    group_rows: Int64Array  # [groups], queries that enter
    group_outputs: Int64Array  # [groups], rows of output that leave
    residue: Int64Array  # [passes], or ANY_KEYS
    first_key: Int64Array  # [passes], keys that enter: places of the residue
    end_key: Int64Array  # [passes]


@njit(cache=True)
def window_pieces(pattern: WindowPattern) -> int:
    """Pieces of the window, each as wide as the array has columns."""
    return -(-(pattern.last_offset - pattern.first_offset + 1) // pattern.columns)


@njit(cache=True)
def window_passes(pattern: WindowPattern) -> WindowPasses:
    """The passes of a head, in order: residue after residue, group after group, the oldest piece of the window first.

    A pass brings `global_columns` global keys besides its piece of the window; a group has as many passes as either asks for. The
    global rows see the keys of each pass's last local row. Keys that no pass shows them, and all keys where there are more global
    queries than global rows, take passes of their own, `columns` keys each.
    """
    slots = max(window_pieces(pattern), _global_slots(pattern))
    sweeps = -(-pattern.global_queries // max(1, pattern.global_rows))
    sweep_passes = -(-pattern.keys // pattern.columns)
    most_groups = pattern.queries // pattern.rows + pattern.dilation + 1
    most_passes = most_groups * slots + sweeps * sweep_passes
    groups = np.zeros((most_groups, 3), np.int64)  # end in passes, rows, outputs
    passes = np.zeros((most_passes, 3), np.int64)  # residue, first and end key
    group, number, shown = 0, 0, 0
    for residue in range(pattern.dilation):
        covered = 0
        first_place = -(-(pattern.query_offset - residue) // pattern.dilation)
        end_place = -(-(pattern.query_offset + pattern.queries - residue) // pattern.dilation)
        for place in range(first_place, end_place, pattern.rows):
            start = number
            for piece in range(window_pieces(pattern)):
                first, end = _piece_keys(pattern, residue, place, piece)
                if end > first or not pattern.skip_empty:
                    passes[number] = residue, first, end
                    number += 1
                    last_row = place + pattern.rows - 1 + pattern.first_offset + piece * pattern.columns
                    shown += max(0, end - max(covered, first, last_row))
                    covered = max(covered, end)
            number = max(number, start + _global_slots(pattern))
            rows = min(pattern.rows, end_place - place)
            global_end = -(-(pattern.query_offset + pattern.global_queries - residue) // pattern.dilation)
            groups[group] = number, rows, rows - min(rows, max(0, global_end - place))
            group += 1
    if pattern.global_queries:
        own = -(-(pattern.keys - shown) // pattern.columns) + (sweeps - 1) * sweep_passes
        passes[number : number + own, 0] = ANY_KEYS
        passes[number : number + own, 2] = pattern.columns
        number += own
    groups[group] = number, pattern.global_queries, pattern.global_queries
    ends, taken = groups[: group + 1], passes[:number]
    starts = np.zeros(group + 2, np.int64)
    starts[1:] = ends[:, 0]
    return WindowPasses(starts, ends[:, 1].copy(), ends[:, 2].copy(), taken[:, 0].copy(), taken[:, 1].copy(), taken[:, 2].copy())


@njit(cache=True)
def _global_slots(pattern: WindowPattern) -> int:
    """Passes that it takes to bring all global keys past a group."""
    return -(-pattern.global_tokens // max(1, pattern.global_columns))


@njit(cache=True)
def _piece_keys(pattern: WindowPattern, residue: int, place: int, piece: int) -> tuple[int, int]:
    """Places of the keys that enter for a group's piece of the window: from the first, up to the end. The group begins at `place`."""
    oldest = place + pattern.first_offset + piece * pattern.columns
    newest = place + pattern.rows - 1 + _newest_offset(pattern, piece)
    first, end = max(0, oldest), min(-(-(pattern.keys - residue) // pattern.dilation), newest + 1)
    return (first, end) if end > first else (0, 0)


@njit(cache=True)
def _newest_offset(pattern: WindowPattern, piece: int) -> int:
    return min(pattern.first_offset + (piece + 1) * pattern.columns - 1, pattern.last_offset)


@njit(cache=True)
def window_row_passes(words: UInt64Array, pattern: WindowPattern) -> RowPasses:
    """The kept pairs that the passes of a head compute; words uint64 [queries, words of keys].

    A unit whose pair the mask drops idles. A key that is both global and in a row's window is computed in the window.
    """
    kept = 0
    for query in range(pattern.queries):
        for word in words[query]:
            kept += bit_count(word)
    keys, pass_start, row_start = np.zeros(kept, np.int64), np.zeros(kept + 1, np.int64), np.zeros(pattern.queries + 1, np.int64)
    pairs, passes = 0, 0
    for query in range(pattern.queries):
        slots = max(window_pieces(pattern), _global_slots(pattern))
        if query < pattern.global_queries:
            slots = -(-pattern.keys // pattern.columns)
        for slot in range(slots):
            if query < pattern.global_queries:
                candidates = np.arange(slot * pattern.columns, min((slot + 1) * pattern.columns, pattern.keys))
            else:
                candidates = _slot_keys(pattern, pattern.query_offset + query, slot)
            for key in candidates:
                if (words[query, key >> 6] >> np.uint64(key & 63)) & np.uint64(1):
                    keys[pairs] = key
                    pairs += 1
            if pairs > pass_start[passes]:  # a row that keeps nothing of a pass adds nothing to its sum
                passes += 1
                pass_start[passes] = pairs
        row_start[query + 1] = passes
    return RowPasses(keys[:pairs], pass_start[: passes + 1], row_start)


@njit(cache=True)
def _slot_keys(pattern: WindowPattern, position: int, slot: int) -> Int64Array:
    """Keys that a pass brings to the query at a position, in the order of the units: the newest of the window first, global ones last."""
    keys, count = np.zeros(pattern.columns + pattern.global_columns, np.int64), 0
    if slot < window_pieces(pattern):
        for offset in range(_newest_offset(pattern, slot), pattern.first_offset + slot * pattern.columns - 1, -1):
            key = position + offset * pattern.dilation
            if 0 <= key < pattern.keys:
                keys[count] = key
                count += 1
    for token in range(slot * pattern.global_columns, min((slot + 1) * pattern.global_columns, pattern.global_tokens, pattern.keys)):
        offset, between = (token - position) // pattern.dilation, (token - position) % pattern.dilation
        if between or not pattern.first_offset <= offset <= pattern.last_offset:
            keys[count] = token
            count += 1
    return keys[:count]
