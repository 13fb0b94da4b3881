"""Sanger's prediction array: low-bit scores of a tile of queries and keys, their exponentials and row sums, register by register.

Queries enter from the left and keys from the top, each row and column a cycle behind its neighbour, and every unit sums one score in place.
Then the scores move to the right, a column a cycle, through one exponential unit a row.

Source: released RTL of Sanger, hardware/mask. Its operands are unsigned, while the authors' software quantises symmetrically; the
comparison of exponentials with their row sum is in no released code.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from xmsim.accel_models.fixed_point import wrap
from xmsim.accel_models.sanger_array import Control
from xmsim.accel_models.shift_exp import exp_table, shift_exp
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array

WAIT, CALC, MOVE = range(3)  # what units do


class PredictionArrayConfig(Config):
    """The array; `control` as that of the sparse array."""

    rows: PositiveInt  # queries of a tile
    columns: PositiveInt  # keys of a tile
    bits: Annotated[int, Field(ge=2, le=16)]
    control: Control
    exp_bits: Annotated[int, Field(ge=2, le=32)]  # width of an exponential and of a row sum
    key_buffer_bytes: PositiveInt  # low-bit keys of one KV head stay here if they fit, else every tile streams them again


def calc_cycles(head_dim: int, config: PredictionArrayConfig) -> int:
    """Cycles of the scores of a tile.

    Element k meets unit (i, j) at edge k + i + j + 1. Source: released RTL, d + H + W − 1 for all rows at once; a row whose control is
    delayed by its number needs d + W.
    """
    skew = config.rows - 1 if config.control == "broadcast" else 0
    return head_dim + config.columns + skew


def move_cycles(config: PredictionArrayConfig) -> int:
    """Cycles in which a tile's scores become exponentials and go into the row sums.

    Source: released RTL, a column a cycle, and one more for the last sum.
    """
    return config.columns + 1


def tile_period_cycles(head_dim: int, config: PredictionArrayConfig) -> int:
    """Cycles from one tile to the next: nothing overlaps, because scores move through the units that sum them."""
    return calc_cycles(head_dim, config) + move_cycles(config)


def tile_drain_cycles(config: PredictionArrayConfig) -> int:
    """Cycles after a tile's period until the last row is through."""
    return config.rows - 1 if config.control == "skewed" else 0


class TileTrace(NamedTuple):
    """Register contents after each edge."""

    scores: Int64Array  # [edges, rows, columns]
    exps: Int64Array  # [edges, rows]
    row_sums: Int64Array  # [edges, rows]


class _Registers(NamedTuple):
    left: Int64Array  # [rows, columns]
    top: Int64Array  # [rows, columns]
    scores: Int64Array  # [rows, columns]
    exps: Int64Array  # [rows]
    row_sums: Int64Array  # [rows]


class _Program(NamedTuple):
    left: Int64Array  # [edges, rows]
    top: Int64Array  # [edges, columns]
    command: Int64Array  # [edges, rows]
    add: Int64Array  # [edges, rows], 1 where the row sum takes the exponential of the edge before


def trace_tiles(q: Int64Array, k: Int64Array, config: PredictionArrayConfig, *, point: int) -> TileTrace:
    """Run the tiles of one query tile through cleared registers; the row sums go on from tile to tile.

    Args:
        q: unsigned low-bit words [rows, head_dim].
        k: unsigned low-bit words [tiles, columns, head_dim].
        point: fraction bits of the exponential unit; an integer score counts 2^−point.
    """
    program = _program(q, k, config)
    edges = len(program.left)
    registers = _Registers(*(np.zeros((config.rows, config.columns), np.int64) for _ in range(3)), *np.zeros((2, config.rows), np.int64))
    trace = TileTrace(
        scores=np.zeros((edges, config.rows, config.columns), np.int64),
        exps=np.zeros((edges, config.rows), np.int64),
        row_sums=np.zeros((edges, config.rows), np.int64),
    )
    _run(registers, program, config.exp_bits, point, exp_table(point), trace)
    return trace


def _program(q: Int64Array, k: Int64Array, config: PredictionArrayConfig) -> _Program:
    head_dim = q.shape[1]
    calc, period = calc_cycles(head_dim, config), tile_period_cycles(head_dim, config)
    edges = len(k) * period + tile_drain_cycles(config)
    left, top = np.zeros((edges, config.rows), np.int64), np.zeros((edges, config.columns), np.int64)
    command, add = np.full(edges, WAIT), np.zeros(edges, np.int64)
    channel, row, column = np.arange(head_dim)[:, None], np.arange(config.rows), np.arange(config.columns)
    for number, keys in enumerate(k):
        start = number * period
        left[start + channel + row, row] = q.T
        top[start + channel + column, column] = keys.T
        command[start : start + calc] = CALC
        command[start + calc : start + calc + config.columns] = MOVE
        add[start + calc + 1 : start + period] = 1
    moment = np.arange(edges)[:, None] - (row if config.control == "skewed" else np.zeros_like(row))
    before = moment < 0
    moment = np.maximum(moment, 0)
    return _Program(left, top, np.where(before, WAIT, command[moment]), np.where(before, 0, add[moment]))


@njit(cache=True)
def _run(registers: _Registers, program: _Program, bits: int, point: int, table: Int64Array, trace: TileTrace) -> None:
    rows, columns = registers.scores.shape
    for edge in range(len(program.left)):
        for row in range(rows - 1, -1, -1):  # from the last on, because each row takes the old content of the one above
            if program.add[edge, row]:
                registers.row_sums[row] = wrap(registers.row_sums[row] + registers.exps[row], bits)
            registers.exps[row] = shift_exp(registers.scores[row, columns - 1], bits, point, table)
            command = program.command[edge, row]
            for column in range(columns - 1, -1, -1):
                if command == MOVE:
                    registers.scores[row, column] = registers.scores[row, column - 1] if column else 0
                elif command == CALC:
                    registers.scores[row, column] += registers.left[row, column] * registers.top[row, column]
                    registers.left[row, column] = registers.left[row, column - 1] if column else program.left[edge, row]
                    registers.top[row, column] = registers.top[row - 1, column] if row else program.top[edge, column]
        trace.scores[edge] = registers.scores
        trace.exps[edge] = registers.exps
        trace.row_sums[edge] = registers.row_sums
