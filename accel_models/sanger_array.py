"""Sanger's reconfigurable array: scores, exponentials and values of up to `rows` sub-rows in place, register by register.

Each row has two lines of `ports` registers: the query shifts through one of them, keys (later values) stand in the other and go
down one row a cycle. Each of a row's `pes` units takes its operands from the place of its column; where a row keeps fewer columns
than it has units, the others idle at columns of their own.

Source: released RTL of Sanger, hardware/pe_row: which register takes what at each edge, and the mapping of its test.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import model_validator

from xmsim.accel_models.fixed_point import multiply, wrap
from xmsim.accel_models.shift_exp import exp_table, shift_exp
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array

Control = Literal["broadcast", "skewed"]

CLEAR, HOLD, SCORES, VALUES = range(4)  # what accumulators do
KEEP, EXP, SHIFT = range(3)  # what score registers do


class ExecuteArrayConfig(Config):
    """The array, and how its phases follow each other.

    `control` is broadcast (as in the released RTL: all rows change phase at once) or delayed by a cycle from row to row (skewed).
    `row_sums` are shifted out after the values (serial) or while the next pass computes its scores, which leave the score registers alone.
    """

    rows: PositiveInt
    pes: PositiveInt  # of a row: the kept columns that a sub-row can hold
    ports: PositiveInt  # columns of a stripe
    control: Control
    row_sums: Literal["serial", "overlapped"]

    @model_validator(mode="after")
    def _check_dimensions(self) -> Self:
        if 64 % self.ports:
            raise ValueError(f"ports: a stripe of {self.ports} keys is no part of a 64-key mask word; choose 64, 32, 16, 8, 4, 2 or 1")
        if self.pes > self.ports:
            raise ValueError(f"pes: {self.pes} units cannot keep different ones of {self.ports} columns; lower pes to {self.ports}")
        return self


def phase_cycles(head_dim: int, config: ExecuteArrayConfig) -> int:
    """Cycles of the scores of a pass (SDDMM), and again of its values (SpMM).

    Element k of column c meets row r at edge k + r + c + 1. Source: released RTL, d + R + W − 1 for all rows at once; a row whose
    control is delayed by its number needs d + W.
    """
    skew = config.rows - 1 if config.control == "broadcast" else 0
    return head_dim + config.ports + skew


def row_sum_cycles(config: ExecuteArrayConfig) -> int:
    """Cycles in which a row's exponentials are shifted into its sum. Source: released RTL, one for each unit."""
    return config.pes


def pass_period_cycles(head_dim: int, config: ExecuteArrayConfig) -> int:
    """Cycles from one pass to the next: clear, scores, exponential, values, and the row sums if they are serial.

    Source: released RTL; 400 for 64 × 16 units, 64 ports and d = 64 with everything in sequence.
    """
    period = 1 + phase_cycles(head_dim, config) + 1 + phase_cycles(head_dim, config)
    return period + row_sum_cycles(config) if config.row_sums == "serial" else period


def pass_drain_cycles(config: ExecuteArrayConfig) -> int:
    """Cycles after a pass's period until its last row sum is out: an overlapped one follows the clear of the next pass."""
    skew = config.rows - 1 if config.control == "skewed" else 0
    return skew + (1 + row_sum_cycles(config) if config.row_sums == "overlapped" else 0)


def dense_product_cycles(columns: int, inner: int, config: ExecuteArrayConfig) -> int:
    """Cycles in which a dense product of up to `rows` rows holds the array, to its last result.

    A pass computes an output in each unit: clear, the scores phase on the first `pes` places of the lines, and as many cycles in which
    accumulators move out to the right, as they do when values that are zero stream past. Source: released RTL for each phase; that they
    are used so, and that the last unit hands on without the delay of the ports behind it, is inferred.
    """
    scores = phase_cycles(inner, config.model_copy(update={"ports": config.pes}))
    passes = -(-columns // config.pes)
    return passes * (1 + scores + config.pes) + (config.rows - 1 if config.control == "skewed" else 0)


class PassOperands(NamedTuple):
    """What one pass works on, as fixed-point words."""

    q: Int64Array  # [rows, head_dim], the query of each sub-row
    k: Int64Array  # [ports, head_dim]
    v: Int64Array  # [ports, head_dim]
    columns: Int64Array  # [rows, pes], rising; each unit takes part in the sum of its row at its column's turn
    busy: npt.NDArray[np.bool_]  # [rows, pes]; an idle unit multiplies zeros


class ArrayTrace(NamedTuple):
    """Register contents after each edge."""

    accumulators: Int64Array  # [edges, rows, pes]
    scores: Int64Array  # [edges, rows, pes], exponentials from the EXP edge on
    outputs: Int64Array  # [edges, rows], what leaves the last unit of a row; 0 outside of VALUES
    row_sums: Int64Array  # [edges, rows]


class _Registers(NamedTuple):
    left: Int64Array  # [rows, ports]
    top: Int64Array  # [rows, ports]
    accumulators: Int64Array  # [rows, pes]
    buffers: Int64Array  # [rows, pes, ports − pes], earlier accumulator contents, newest first
    scores: Int64Array  # [rows, pes]
    row_sums: Int64Array  # [rows]


class _Program(NamedTuple):
    """What drives the array at each edge."""

    columns: Int64Array  # [passes, rows, pes]
    busy: npt.NDArray[np.bool_]  # [passes, rows, pes]
    bubbles: Int64Array  # [passes, rows, pes], cycles that a unit delays what it passes on
    left: Int64Array  # [edges, rows]
    top: Int64Array  # [edges, ports]
    accumulate: Int64Array  # [edges, rows]
    exponential: Int64Array  # [edges, rows]
    pass_number: Int64Array  # [edges, rows], the pass that a row works for


class _Words(NamedTuple):
    bits: int
    point: int
    table: Int64Array  # of the exponential


def trace_passes(passes: list[PassOperands], config: ExecuteArrayConfig, *, bits: int, point: int) -> ArrayTrace:
    """Run passes one after the other through cleared registers, one step an edge, until the last row sum is out."""
    program = _program(passes, config)
    registers = _Registers(
        left=np.zeros((config.rows, config.ports), np.int64),
        top=np.zeros((config.rows, config.ports), np.int64),
        accumulators=np.zeros((config.rows, config.pes), np.int64),
        buffers=np.zeros((config.rows, config.pes, config.ports - config.pes), np.int64),
        scores=np.zeros((config.rows, config.pes), np.int64),
        row_sums=np.zeros(config.rows, np.int64),
    )
    edges = len(program.left)
    trace = ArrayTrace(
        accumulators=np.zeros((edges, config.rows, config.pes), np.int64),
        scores=np.zeros((edges, config.rows, config.pes), np.int64),
        outputs=np.zeros((edges, config.rows), np.int64),
        row_sums=np.zeros((edges, config.rows), np.int64),
    )
    _run(registers, program, _Words(bits, point, exp_table(point)), trace)
    return trace


def _program(passes: list[PassOperands], config: ExecuteArrayConfig) -> _Program:
    head_dim = passes[0].q.shape[1]
    phase, period = phase_cycles(head_dim, config), pass_period_cycles(head_dim, config)
    edges = len(passes) * period + pass_drain_cycles(config)
    left, top = np.zeros((edges, config.rows), np.int64), np.zeros((edges, config.ports), np.int64)
    accumulate, exponential = np.full(edges, HOLD), np.full(edges, KEEP)
    pass_number = np.minimum(np.arange(edges) // period, len(passes) - 1)
    channel = np.arange(head_dim)[:, None]
    row, port = np.arange(config.rows), np.arange(config.ports)
    for number, operands in enumerate(passes):
        start = number * period
        scores, values = start + 1, start + 1 + phase + 1
        accumulate[start] = CLEAR
        accumulate[scores : scores + phase] = SCORES
        exponential[values - 1] = EXP
        accumulate[values : values + phase] = VALUES
        sums = values + phase  # of a serial pass
        if config.row_sums == "overlapped":
            accumulate[sums] = CLEAR  # the next pass's, which clears the sum of the pass before, too
            sums += 1
        exponential[sums : sums + config.pes] = SHIFT
        left[scores + channel + row, row] = operands.q.T
        top[scores + channel + port, port] = operands.k.T
        top[values + channel + port, port] = operands.v.T
    delay = row if config.control == "skewed" else np.zeros_like(row)
    moment = np.arange(edges)[:, None] - delay
    before = moment < 0
    moment = np.maximum(moment, 0)
    columns = np.stack([operands.columns for operands in passes])
    return _Program(
        columns=columns,
        busy=np.stack([operands.busy for operands in passes]),
        bubbles=np.diff(columns, axis=-1, append=config.ports) - 1,  # so that a partial sum meets the next column with its own element
        left=left,
        top=top,
        accumulate=np.where(before, HOLD, accumulate[moment]),
        exponential=np.where(before, KEEP, exponential[moment]),
        pass_number=pass_number[moment],
    )


@njit(cache=True)
def _run(registers: _Registers, program: _Program, words: _Words, trace: ArrayTrace) -> None:
    rows, pes = registers.scores.shape
    for edge in range(len(program.left)):
        for row in range(rows - 1, -1, -1):  # from the last on, because each row takes the old content of the one above
            _step_units(registers, program, words, edge, row)
            _step_lines(registers, row, program.left[edge, row], program.top[edge], program.accumulate[edge, row] == CLEAR)
            if program.accumulate[edge, row] == VALUES:
                bubbles = program.bubbles[program.pass_number[edge, row], row]
                trace.outputs[edge, row] = _passed_on(registers, row, pes - 1, bubbles)
        trace.accumulators[edge] = registers.accumulators
        trace.scores[edge] = registers.scores
        trace.row_sums[edge] = registers.row_sums


@njit(cache=True)
def _step_units(registers: _Registers, program: _Program, words: _Words, edge: int, row: int) -> None:
    """One edge of a row's units, the last first, because each takes the old content of the one before."""
    accumulate, exponential = program.accumulate[edge, row], program.exponential[edge, row]
    number = program.pass_number[edge, row]
    columns, busy, bubbles = program.columns[number, row], program.busy[number, row], program.bubbles[number, row]
    accumulators, buffers, scores = registers.accumulators[row], registers.buffers[row], registers.scores[row]
    if exponential == SHIFT:
        registers.row_sums[row] = wrap(registers.row_sums[row] + scores[-1], words.bits)
    for pe in range(len(columns) - 1, -1, -1):
        old_accumulator, old_score, product = accumulators[pe], scores[pe], 0
        if busy[pe]:
            factor = old_score if accumulate == VALUES else registers.left[row, columns[pe]]
            product = multiply(factor, registers.top[row, columns[pe]], words.bits, words.point)
        if exponential == EXP:
            scores[pe] = shift_exp(old_accumulator, words.bits, words.point, words.table)
        elif exponential == SHIFT:
            scores[pe] = scores[pe - 1] if pe else 0
        if accumulate == CLEAR:
            accumulators[pe] = 0
            buffers[pe] = 0
        elif accumulate == SCORES:
            accumulators[pe] = wrap(old_accumulator + product, words.bits)
        elif accumulate == VALUES:
            passed_on = _passed_on(registers, row, pe - 1, bubbles) if pe else 0
            accumulators[pe] = wrap(passed_on + product, words.bits)
            for place in range(buffers.shape[1] - 1, 0, -1):
                buffers[pe, place] = buffers[pe, place - 1]
            if buffers.shape[1]:
                buffers[pe, 0] = old_accumulator


@njit(cache=True)
def _passed_on(registers: _Registers, row: int, pe: int, bubbles: Int64Array) -> int:
    """What a unit offers to its right: its accumulator, or what that held some cycles ago."""
    delay = bubbles[pe]
    return registers.buffers[row, pe, delay - 1] if delay else registers.accumulators[row, pe]


@njit(cache=True)
def _step_lines(registers: _Registers, row: int, left: int, top: Int64Array, clear: bool) -> None:
    if clear:
        registers.left[row] = 0
        registers.top[row] = 0
        registers.row_sums[row] = 0
        return
    for port in range(len(top) - 1, 0, -1):
        registers.left[row, port] = registers.left[row, port - 1]
    registers.left[row, 0] = left
    registers.top[row] = registers.top[row - 1] if row else top
