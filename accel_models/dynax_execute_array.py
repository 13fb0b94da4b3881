"""DynaX's reconfigurable execution array, register by register: scores, exponentials and values of a hardware block in place.

A row has one register for its query and one for each of the M keys of the block, and `columns` PEs that each select the register of the
key they work for. Keys, later values, go down one row a cycle. With V in the key registers a PE multiplies by its exponential, and an
adder behind the row sums over its PEs: one feature of the output a cycle, and the softmax denominator in a cycle in which nothing moves
out.

Source: released RTL of DynaX, hardware/execute_unit/repe, repe_row and repe_array: which register takes what at each edge.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.fixed_point import multiply, wrap
from xmsim.accel_models.shift_exp import exp_table, shift_exp
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array

CLEAR, HOLD, ACCUMULATE, MOVE_OUT = range(4)  # commands of accumulators
KEEP, EXP = range(2)  # commands of exponential units


class ExecuteArrayConfig(Config):
    """Arrays that do scores, exponential and values of a hardware block in place.

    `control` is skewed (delayed by a cycle from row to row) or broadcast (as in the released RTL).
    """

    count: PositiveInt
    rows: PositiveInt
    columns: PositiveInt
    control: Literal["skewed", "broadcast"]


def values_cycle(head_dim: int, config: ExecuteArrayConfig) -> int:
    """The cycle of a block, counted from its first key element, in which its first value element enters; that of its exponentials, too.

    Source: released RTL: after the accumulation of d elements, and with broadcast control of rows more. (Row r of skewed control takes its
    exponentials r cycles later.)
    """
    return head_dim + 1 if config.control == "skewed" else head_dim + config.rows


def block_period_cycles(head_dim: int, config: ExecuteArrayConfig) -> int:
    """Cycles a hardware block holds an execution array: head_dim for scores, head_dim for values, and the turn-around.

    Source: released RTL: 2·d + 2 with control delayed by a cycle a row, 2·(d + rows) with broadcast control.
    """
    return 2 * head_dim + 2 if config.control == "skewed" else 2 * (head_dim + config.rows)


def block_drain_cycles(config: ExecuteArrayConfig) -> int:
    """Cycles after a block's period until its last denominator is out.

    Source: released RTL: rows + 1 with skewed control; with broadcast control the period holds the skew and 2 remain.
    """
    return config.rows + 1 if config.control == "skewed" else 2


def dense_product_cycles(columns: int, inner: int, config: ExecuteArrayConfig) -> int:
    """Cycles in which a dense product of up to `rows` rows holds one array, to its last result.

    A pass computes an output in each PE: clear, the scores phase of `inner` elements, and a cycle for each PE of a row, whose accumulator
    leaves through the row's adder. Source: released RTL for the scores phase (with broadcast control it lasts until the last row has
    all its elements); the one cycle of clear and the way out are assumed, as the released row shows the adder all of its PEs at once.
    """
    skewed = config.control == "skewed"
    scores = inner if skewed else inner + config.rows - 1
    passes = -(-columns // config.columns)
    return passes * (1 + scores + config.columns) + (config.rows - 1 if skewed else 0)


class ExecuteProgram(NamedTuple):
    """What drives the array at each edge."""

    q: Int64Array  # [edges, rows]
    top: Int64Array  # [edges, M]
    select: Int64Array  # [edges, rows, PEs], M or more selects zero
    accumulate: Int64Array  # [edges, rows]
    exponential: Int64Array  # [edges, rows]
    clear: Int64Array  # [edges], of the registers of query, keys and adder


class ExecuteTrace(NamedTuple):
    """Register contents after each edge, and what PEs offer to the adder in the cycle that the edge ends."""

    q: Int64Array  # [edges, rows]
    columns: Int64Array  # [edges, rows, M]
    accumulators: Int64Array  # [edges, rows, PEs]
    exponentials: Int64Array  # [edges, rows, PEs]
    adder: Int64Array  # [edges, rows]
    outputs: Int64Array  # [edges, rows, PEs]


class _Registers(NamedTuple):
    q: Int64Array  # [rows]
    columns: Int64Array  # [rows, M]
    accumulators: Int64Array  # [rows, PEs]
    exponentials: Int64Array  # [rows, PEs]
    adder: Int64Array  # [rows]


def trace_execute(program: ExecuteProgram, *, bits: int, point: int) -> ExecuteTrace:
    """Run the array from cleared registers, one step an edge."""
    program = ExecuteProgram(*(np.ascontiguousarray(drive, np.int64) for drive in program))  # one layout, so that it is compiled once
    edges, rows, pes = program.select.shape
    keys = program.top.shape[1]
    shapes = ((rows,), (rows, keys), (rows, pes), (rows, pes), (rows,))
    registers = _Registers(*(np.zeros(shape, np.int64) for shape in shapes))
    trace = ExecuteTrace(*(np.zeros((edges, *shape), np.int64) for shape in (*shapes, (rows, pes))))
    _run(registers, program, bits, point, exp_table(point), trace)
    return trace


class BlockOperands(NamedTuple):
    """What one hardware block works on, as fixed-point words."""

    q: Int64Array  # [rows, head_dim], the query of each segment
    k: Int64Array  # [M, head_dim]
    v: Int64Array  # [M, head_dim]
    select: Int64Array  # [rows, PEs], keys of each segment


def execute_program(blocks: list[BlockOperands], config: ExecuteArrayConfig) -> ExecuteProgram:
    """Blocks one after the other, a period each: the next one's keys begin to enter in the last cycle that moves this one's values out.

    Accumulators are cleared once: the last product that moves out is with zeros, because none of V is left, and leaves them 0.
    """
    head_dim, keys = blocks[0].q.shape[1], len(blocks[0].k)
    values, period = values_cycle(head_dim, config), block_period_cycles(head_dim, config)
    edges = len(blocks) * period + block_drain_cycles(config)
    q, top = np.zeros((edges, config.rows), np.int64), np.zeros((edges, keys), np.int64)
    accumulate, exponential = np.full(edges, HOLD), np.full(edges, KEEP)
    block_number = np.clip((np.arange(edges) - 1) // period, 0, len(blocks) - 1)  # selects stand from the first product to the last
    accumulate[0] = CLEAR
    channel, row = np.arange(head_dim)[:, None], np.arange(config.rows)
    for number, block in enumerate(blocks):
        start = number * period
        q[start + channel + row, row] = block.q.T
        top[start : start + head_dim] = block.k.T
        top[start + values : start + values + head_dim] = block.v.T
        accumulate[start + 1 : start + values] = ACCUMULATE
        exponential[start + values] = EXP
        accumulate[start + values + 1 : start + period + 1] = MOVE_OUT
    delay = row if config.control == "skewed" else np.zeros_like(row)
    moment = np.maximum(np.arange(edges)[:, None] - delay, 0)
    before = np.arange(edges)[:, None] < delay
    select = np.stack([block.select for block in blocks])[block_number[moment], row]
    return ExecuteProgram(
        q, top, select, np.where(before, CLEAR, accumulate[moment]), np.where(before, KEEP, exponential[moment]), np.zeros(edges, np.int64)
    )


@njit(cache=True)
def _run(registers: _Registers, program: ExecuteProgram, bits: int, point: int, table: Int64Array, trace: ExecuteTrace) -> None:
    rows = len(registers.q)
    for edge in range(len(program.q)):
        for row in range(rows - 1, -1, -1):  # from the last on, because each row takes the old content of the one above
            accumulate = program.accumulate[edge, row]
            select = program.select[edge, row]
            total = 0
            for pe in range(len(select)):
                shown = registers.accumulators[row, pe] if accumulate == MOVE_OUT else registers.exponentials[row, pe]
                trace.outputs[edge, row, pe] = shown
                total += shown
                _step_pe(registers, row, pe, select[pe], accumulate, program.exponential[edge, row], bits, point, table)
            if program.clear[edge]:
                registers.q[row] = 0
                registers.columns[row] = 0
                registers.adder[row] = 0
            else:
                registers.q[row] = program.q[edge, row]
                registers.columns[row] = registers.columns[row - 1] if row else program.top[edge]
                registers.adder[row] = wrap(total, bits)
        trace.q[edge] = registers.q
        trace.columns[edge] = registers.columns
        trace.accumulators[edge] = registers.accumulators
        trace.exponentials[edge] = registers.exponentials
        trace.adder[edge] = registers.adder


@njit(cache=True)
def _step_pe(
    registers: _Registers, row: int, pe: int, select: int, accumulate: int, exponential: int, bits: int, point: int, table: Int64Array
) -> None:
    """One edge of a PE; both of its registers take what depends on their old contents."""
    accumulator = registers.accumulators[row, pe]
    column = registers.columns[row, select] if select < registers.columns.shape[1] else 0
    if accumulate == CLEAR:
        registers.accumulators[row, pe] = 0
    elif accumulate == ACCUMULATE:
        registers.accumulators[row, pe] = wrap(accumulator + multiply(registers.q[row], column, bits, point), bits)
    elif accumulate == MOVE_OUT:
        registers.accumulators[row, pe] = multiply(registers.exponentials[row, pe], column, bits, point)
    if exponential == EXP:
        registers.exponentials[row, pe] = shift_exp(accumulator, bits, point, table)
