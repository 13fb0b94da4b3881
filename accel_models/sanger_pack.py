"""Sanger's pack & split: from a head's mask to the sub-rows of each array pass.

A stripe is `ports` neighbouring keys, a vector the part of a query's mask row that lies in one. Vectors of the queries of a window that
share a stripe are cut so that no sub-row keeps more than `pes` keys, and sub-rows fill passes of `rows`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.mask_words import lowest_bit, lowest_bits, span
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array

Words = npt.NDArray[np.uint64]

_NONE = np.uint64(0)


class PackConfig(Config):
    """How masks become passes.

    `split` cuts each vector that keeps too much by itself, as the paper's load balances do (row), or all vectors of a pass at the column
    where the first of them is full, as the released RTL does (column). `empty_rows`: vectors that keep nothing take no row of the array
    (skipped, the paper's), or one each (kept, as the released RTL).
    """

    window_rows: PositiveInt  # queries whose sub-rows may share a pass
    split: Literal["row", "column"]
    empty_rows: Literal["skipped", "kept"]


class ColumnTrace(NamedTuple):
    """What the Pack module does with each column of a mask that it reads."""

    write: npt.NDArray[np.bool_]  # [columns], after the edge: some row keeps the column
    emit: npt.NDArray[np.bool_]  # [columns], in the same cycle: a row that keeps it is full already
    codes: Int64Array  # [columns, rows], after the edge: the column's number in its tile where a row keeps it, else the idle code


@njit(cache=True)
def trace_pack(keep: npt.NDArray[np.bool_], pes: int, idle_code: int) -> ColumnTrace:
    """Read a mask, [rows, columns], column by column, one an edge.

    A column that finds a row full ends the tile: counters and column number start again, without that column's own kept places, though
    they are written. The controller must show it once more, as column 0. Source: released RTL of Sanger, hardware/pack.
    """
    rows, columns = keep.shape
    trace = ColumnTrace(np.zeros(columns, np.bool_), np.zeros(columns, np.bool_), np.full((columns, rows), idle_code))
    filled = np.zeros(rows, np.int64)
    number = 0
    for column in range(columns):
        for row in range(rows):
            if keep[row, column]:
                trace.write[column] = True
                trace.codes[column, row] = number
                trace.emit[column] |= filled[row] == pes
        if trace.emit[column]:
            filled[:] = 0
            number = 0
        else:
            filled += keep[:, column]
            number += 1
    return trace


class HeadPasses(NamedTuple):
    """The passes of one head, in the order in which the array runs them."""

    window: Int64Array  # [passes]
    stripe: Int64Array  # [passes]
    tile: Int64Array  # [passes], the query tile whose mask completes the pass
    first_column: Int64Array  # [passes], of the stripe
    end_column: Int64Array  # [passes]
    sub_row_start: Int64Array  # [passes + 1]
    query: Int64Array  # [sub-rows]
    columns: Words  # [sub-rows], bit c: column c of the stripe is kept


class PackShape(NamedTuple):
    """What packing depends on besides the mask."""

    window_rows: int
    tile_rows: int
    rows: int
    pes: int
    ports: int
    fewest_kept: int  # a vector with fewer takes no row: 1 where empty ones are skipped, else 0


class _Writer(NamedTuple):
    used: Int64Array  # [2]: passes, sub-rows
    passes: HeadPasses


@njit(cache=True)
def pack_by_row(words: Words, seen: Int64Array, shape: PackShape) -> HeadPasses:
    """Cut each vector by itself: sub-rows of `pes` kept keys in column order, and one of the rest.

    Args:
        words: mask of a head, uint64 [queries, words].
        seen: first stripe and one past the last in which a query may keep anything, [queries, 2].
    """
    writer = _writer(words, seen, shape)
    vectors, owners = np.empty(shape.window_rows, np.uint64), np.empty(shape.window_rows, np.int64)
    for window in range(-(-len(words) // shape.window_rows)):
        first, end, last_tile = _window(window, len(words), shape)
        for stripe in range(seen[first, 0], seen[end - 1, 1]):
            count = _vectors(words, seen, shape, first, end, stripe, vectors, owners)
            for number in range(count):
                rest = vectors[number]
                while True:
                    head = lowest_bits(rest, shape.pes)
                    rest &= ~head
                    _add_sub_row(writer, owners[number], head)
                    if _open_rows(writer) == shape.rows:
                        _end_pass(writer, window, stripe, owners[number] // shape.tile_rows, 0, shape.ports)
                    if rest == _NONE:
                        break
            if _open_rows(writer):
                _end_pass(writer, window, stripe, last_tile, 0, shape.ports)
    return _finish(writer)


@njit(cache=True)
def pack_by_column(words: Words, seen: Int64Array, shape: PackShape) -> HeadPasses:
    """Cut as many vectors as the array has rows at the same column: where the first of them keeps more than `pes`.

    Stripes begin at multiples of `ports` all the same (inferred: the released RTL leaves the end of a stripe to its controller).
    Arguments as `pack_by_row`.
    """
    writer = _writer(words, seen, shape)
    vectors, owners = np.empty(shape.window_rows, np.uint64), np.empty(shape.window_rows, np.int64)
    for window in range(-(-len(words) // shape.window_rows)):
        first, end, last_tile = _window(window, len(words), shape)
        for stripe in range(seen[first, 0], seen[end - 1, 1]):
            count = _vectors(words, seen, shape, first, end, stripe, vectors, owners)
            for group in range(0, count, shape.rows):
                group_end = min(group + shape.rows, count)
                tile = owners[group_end - 1] // shape.tile_rows if group_end - group == shape.rows else last_tile
                column = 0
                while column < shape.ports:
                    cut = shape.ports
                    for number in range(group, group_end):
                        cut = min(cut, _overflow(vectors[number], column, shape.pes, shape.ports))
                    for number in range(group, group_end):
                        _add_sub_row(writer, owners[number], vectors[number] & span(column, cut))
                    _end_pass(writer, window, stripe, tile, column, cut)
                    column = cut
    return _finish(writer)


@njit(cache=True)
def _writer(words: Words, seen: Int64Array, shape: PackShape) -> _Writer:
    """Room for the most passes and sub-rows there can be; pages that are never written cost nothing."""
    pieces = -(-shape.ports // shape.pes)
    stripes = 0
    for query in range(len(words)):
        stripes = max(stripes, seen[query, 1])
    windows = -(-len(words) // shape.window_rows)
    passes = windows * stripes * -(-shape.window_rows // shape.rows) * pieces
    sub_rows = len(words) * stripes * pieces
    return _Writer(
        np.zeros(2, np.int64),
        HeadPasses(
            np.empty(passes, np.int64),
            np.empty(passes, np.int64),
            np.empty(passes, np.int64),
            np.empty(passes, np.int64),
            np.empty(passes, np.int64),
            np.zeros(passes + 1, np.int64),
            np.empty(sub_rows, np.int64),
            np.empty(sub_rows, np.uint64),
        ),
    )


@njit(cache=True)
def _finish(writer: _Writer) -> HeadPasses:
    """The part of the tables that is filled."""
    used, sub_rows = writer.used
    table = writer.passes
    return HeadPasses(
        table.window[:used].copy(),
        table.stripe[:used].copy(),
        table.tile[:used].copy(),
        table.first_column[:used].copy(),
        table.end_column[:used].copy(),
        table.sub_row_start[: used + 1].copy(),
        table.query[:sub_rows].copy(),
        table.columns[:sub_rows].copy(),
    )


@njit(cache=True)
def _window(window: int, queries: int, shape: PackShape) -> tuple[int, int, int]:
    """First query of a window, one past its last, and its last tile."""
    first = window * shape.window_rows
    end = min(first + shape.window_rows, queries)
    return first, end, (end - 1) // shape.tile_rows


@njit(cache=True)
def _vectors(
    words: Words, seen: Int64Array, shape: PackShape, first: int, end: int, stripe: int, vectors: Words, owners: Int64Array
) -> int:
    """Collect the vectors of a stripe that take rows of the array, and their queries; how many there are."""
    bit = stripe * shape.ports
    word, shift = bit // 64, np.uint64(bit % 64)
    whole = span(0, shape.ports)
    count = 0
    for query in range(first, end):
        vector = (words[query, word] >> shift) & whole
        if vector != _NONE or (shape.fewest_kept == 0 and seen[query, 0] <= stripe < seen[query, 1]):
            vectors[count] = vector
            owners[count] = query
            count += 1
    return count


@njit(cache=True)
def _overflow(vector: np.uint64, column: int, pes: int, ports: int) -> int:
    """The column from `column` on at which a vector keeps one more than `pes`; `ports` if it never does."""
    rest = vector & span(column, ports)
    beyond = rest & ~lowest_bits(rest, pes)
    return lowest_bit(beyond) if beyond != _NONE else ports


@njit(cache=True)
def _open_rows(writer: _Writer) -> int:
    """Sub-rows of the pass that is being filled."""
    return writer.used[1] - writer.passes.sub_row_start[writer.used[0]]


@njit(cache=True)
def _add_sub_row(writer: _Writer, query: int, columns: np.uint64) -> None:
    place = writer.used[1]
    writer.passes.query[place] = query
    writer.passes.columns[place] = columns
    writer.used[1] = place + 1


@njit(cache=True)
def _end_pass(writer: _Writer, window: int, stripe: int, tile: int, first_column: int, end_column: int) -> None:
    place = writer.used[0]
    passes = writer.passes
    passes.window[place] = window
    passes.stripe[place] = stripe
    passes.tile[place] = tile
    passes.first_column[place] = first_column
    passes.end_column[place] = end_column
    passes.sub_row_start[place + 1] = writer.used[1]
    writer.used[0] = place + 1
