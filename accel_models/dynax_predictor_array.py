"""DynaX's prediction array, register by register: queries of which 1 of every `group` channels is kept stand still, low-bit keys stream.

Left of each row a comparator picks the largest of `group` consecutive channels, which shift right from PE to PE. Keys go down one row a
cycle, partial sums go right one PE a cycle. Behind each row stand an exponential unit and two sums, of the row and of every 32 keys.

Source: released RTL of DynaX, hardware/predict_unit/prepe_1_2 and prepe_1_4: which register takes what at each edge. The signed array is a
repair: the released one multiplies magnitudes, and ranks keys by sums of |q|·|k|.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from xmsim.accel_models.fixed_point import wrap
from xmsim.accel_models.shift_exp import exp_table, shift_exp
from xmsim.accel_models.two_way_exp import two_way_exp
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array

IDLE, CLEAR, CALC, INPUT = range(4)  # commands of PEs; rows' ends know the first three
SUM_KEYS = 32  # of a group sum, in both sizes of the array
NO_KEY, KEY = 0, 1


class PredictionArrayConfig(Config):
    """Low-bit array that holds a query tile, 1 of every `group` channels, while keys stream through it."""

    rows: PositiveInt
    columns: PositiveInt
    group: PositiveInt
    bits: Annotated[int, Field(ge=2, le=8)]
    key_buffer_bytes: PositiveInt  # low-bit keys of one KV head stay here if they fit, else every tile streams them again


def tile_period_cycles(keys: int, head_dim: int, config: PredictionArrayConfig) -> int:
    """Cycles from one query tile's load to the next one's, with `keys` keys streamed.

    Load takes group × columns cycles; a head wider than that takes several passes (inferred). The next load must begin in phase with
    the comparators. Source: released RTL, ceil_g(w + K + P + H − 1).
    """
    width = config.group * config.columns
    passes = -(-head_dim // width)
    period = width + keys + config.columns + config.rows - 1
    return passes * -(-period // config.group) * config.group


class PredictorFormat(NamedTuple):
    """Word widths of the array, as its RTL is instantiated."""

    group: Literal[2, 4]
    psum_bits: int
    bits: int  # of the exponential unit and of the sums
    point: int
    append: int  # zero bits below a partial sum, to make it the input of the exponential unit
    signed: bool  # repaired: operands and partial sums in two's complement, a two-way exponential unit, keys counted by a bit of their own


class PredictorProgram(NamedTuple):
    """What drives the array at each edge."""

    left: Int64Array  # [edges, rows], a channel of each query
    top: Int64Array  # [edges, PEs × group], channels of keys
    key_valid: Int64Array  # [edges], whether group 0 of a key is on top; read by the signed array alone
    pe_command: Int64Array  # [edges]
    end_command: Int64Array  # [edges]


class PredictorTrace(NamedTuple):
    """Register contents after each edge."""

    operand: Int64Array  # [edges, rows, PEs]
    select: Int64Array  # [edges, rows, PEs], channel of its group that the operand is
    psum: Int64Array  # [edges, rows, PEs]
    exponential: Int64Array  # [edges, rows]
    row_sum: Int64Array  # [edges, rows]
    group_sum: Int64Array  # [edges, rows]
    group_full: Int64Array  # [edges, rows], 1 where the counter of the group's keys stood at its end
    group_count: Int64Array  # [edges, rows]


class _Registers(NamedTuple):
    arrivals: Int64Array  # [rows, group − 1], channels that wait for the comparator, the newest first
    operand: Int64Array  # [rows, PEs]
    select: Int64Array  # [rows, PEs]
    top: Int64Array  # [rows, PEs, group]
    psum: Int64Array  # [rows, PEs]
    top_valid: Int64Array  # [rows], goes down with the keys
    psum_valid: Int64Array  # [rows, PEs], goes right with the partial sums
    exponential: Int64Array  # [rows]
    exponential_valid: Int64Array  # [rows]
    row_sum: Int64Array  # [rows]
    group_sum: Int64Array  # [rows]
    group_full: Int64Array  # [rows]
    group_count: Int64Array  # [rows]
    phase: Int64Array  # [2]: cycles since reset, and cycles of INPUT, both modulo group


_SINCE_RESET, _OF_INPUT = 0, 1


class PeTrace(NamedTuple):
    """Register contents of a single PE after each edge."""

    operand: Int64Array  # [edges]
    select: Int64Array  # [edges]
    top: Int64Array  # [edges, group]
    psum: Int64Array  # [edges]
    input_count: Int64Array  # [edges]


def trace_pe(commands: Int64Array, inputs: Int64Array, top: Int64Array, fmt: PredictorFormat) -> PeTrace:
    """Run one PE, one step an edge: inputs [edges, 3] are operand, select and partial sum from the left, top [edges, group] from above."""
    edges = len(commands)
    registers = _registers(1, 1, fmt.group)
    trace = PeTrace(*(np.zeros(shape, np.int64) for shape in (edges, edges, (edges, fmt.group), edges, edges)))
    for edge in range(edges):
        operand, select, psum = (column[None] for column in inputs[edge])
        _step_pes(registers, commands[edge], operand, select, psum, top[edge], NO_KEY, fmt)
        trace.operand[edge] = registers.operand[0, 0]
        trace.select[edge] = registers.select[0, 0]
        trace.top[edge] = registers.top[0, 0]
        trace.psum[edge] = registers.psum[0, 0]
        trace.input_count[edge] = registers.phase[_OF_INPUT]
    return trace


def trace_predictor(program: PredictorProgram, fmt: PredictorFormat) -> PredictorTrace:
    """Run the array from reset, one step an edge."""
    program = PredictorProgram(*(np.ascontiguousarray(drive, np.int64) for drive in program))  # one layout, so that it is compiled once
    edges, rows = program.left.shape
    pes = program.top.shape[1] // fmt.group
    by_pe = [np.zeros((edges, rows, pes), np.int64) for _ in range(3)]
    by_row = [np.zeros((edges, rows), np.int64) for _ in range(5)]
    trace = PredictorTrace(*by_pe, *by_row)
    _run(_registers(rows, pes, fmt.group), program, fmt, exp_table(fmt.point), trace)
    return trace


def predictor_program(q: Int64Array, k: Int64Array, group: int, period: int) -> PredictorProgram:
    """Tiles one after the other, `period` cycles each, after `group` cycles of clear.

    A query is loaded in descending channel order. Channels of group c of key t are on top in cycle t + c of the calculation. The sums
    of a tile stand in the two last cycles before the clear that the next tile's load, or the end, brings in its cycle 2.

    Args:
        q: whole queries, int [tiles, rows, width].
        k: int [tiles, keys, width].
    """
    tiles, rows, width = q.shape
    keys, groups = k.shape[1], width // group
    edges = group + tiles * period + 3
    left, top = np.zeros((edges, rows), np.int64), np.zeros((edges, width), np.int64)
    key_valid, pe_command, end_command = np.zeros(edges, np.int64), np.full(edges, CALC), np.full(edges, CALC)
    pe_command[:group], end_command[:group] = CLEAR, CLEAR
    for tile in range(tiles):
        load = group + tile * period
        calculation = load + width
        left[load:calculation] = q[tile, :, ::-1].T
        pe_command[load:calculation] = INPUT
        end_command[load + 2] = CLEAR
        key_valid[calculation : calculation + keys] = KEY
        for number in range(groups):
            channels = slice(number * group, (number + 1) * group)
            top[calculation + number : calculation + number + keys, channels] = k[tile, :, channels]
    pe_command[group + tiles * period :] = INPUT
    return PredictorProgram(left, top, key_valid, pe_command, end_command)


def _registers(rows: int, pes: int, group: int) -> _Registers:
    shapes = ((rows, group - 1), (rows, pes), (rows, pes), (rows, pes, group), (rows, pes), rows, (rows, pes), *(rows,) * 6, 2)
    return _Registers(*(np.zeros(shape, np.int64) for shape in shapes))


@njit(cache=True)
def _run(registers: _Registers, program: PredictorProgram, fmt: PredictorFormat, table: Int64Array, trace: PredictorTrace) -> None:
    rows = len(registers.row_sum)
    operand, select, psum = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for edge in range(len(program.left)):
        for row in range(rows):
            _step_end(registers, row, program.end_command[edge], fmt, table)
            operand[row], select[row] = _step_comparator(registers, row, program.left[edge, row], fmt)
        registers.phase[_SINCE_RESET] = (registers.phase[_SINCE_RESET] + 1) % fmt.group
        _step_pes(registers, program.pe_command[edge], operand, select, psum, program.top[edge], program.key_valid[edge], fmt)
        trace.operand[edge] = registers.operand
        trace.select[edge] = registers.select
        trace.psum[edge] = registers.psum
        trace.exponential[edge] = registers.exponential
        trace.row_sum[edge] = registers.row_sum
        trace.group_sum[edge] = registers.group_sum
        trace.group_full[edge] = registers.group_full
        trace.group_count[edge] = registers.group_count


@njit(cache=True)
def _step_comparator(registers: _Registers, row: int, arrival: int, fmt: PredictorFormat) -> tuple[int, int]:
    """What the comparator shows the first PE, and which channel that is; zeros until the last channel of a group arrives.

    Of equal values the comparator of two takes the newer, which is the lower channel, and that of four the older.
    """
    waiting = registers.arrivals[row]
    if registers.phase[_SINCE_RESET] < fmt.group - 1:
        for place in range(len(waiting) - 1, 0, -1):
            waiting[place] = waiting[place - 1]
        waiting[0] = arrival
        return 0, 0
    if fmt.group == 2:
        return (waiting[0], 1) if abs(waiting[0]) > abs(arrival) else (arrival, 0)
    newer = (arrival, 0) if abs(arrival) > abs(waiting[0]) else (waiting[0], 1)
    older = (waiting[1], 2) if abs(waiting[1]) > abs(waiting[2]) else (waiting[2], 3)
    waiting[:] = 0
    return newer if abs(newer[0]) > abs(older[0]) else older


@njit(cache=True)
def _step_pes(
    registers: _Registers,
    command: int,
    operand: Int64Array,
    select: Int64Array,
    psum: Int64Array,
    top: Int64Array,
    key_valid: int,
    fmt: PredictorFormat,
) -> None:
    """One edge of all PEs, the last first, because each takes the old content of its neighbours to the left and above."""
    rows, pes = registers.psum.shape
    shifts = command == INPUT and registers.phase[_OF_INPUT] == fmt.group - 1
    for row in range(rows - 1, -1, -1):
        for pe in range(pes - 1, -1, -1):
            if command == CALC:
                left = registers.psum[row, pe - 1] if pe else psum[row]
                product = registers.top[row, pe, registers.select[row, pe]] * registers.operand[row, pe]
                registers.psum[row, pe] = _fit(left + product, fmt)
                registers.psum_valid[row, pe] = registers.psum_valid[row, pe - 1] if pe else registers.top_valid[row]
                registers.top[row, pe] = registers.top[row - 1, pe] if row else top[pe * fmt.group : (pe + 1) * fmt.group]
            elif command != IDLE:
                registers.psum[row, pe] = 0
                registers.psum_valid[row, pe] = NO_KEY
                registers.top[row, pe] = 0
            if command == CLEAR:
                registers.operand[row, pe] = 0
                registers.select[row, pe] = 0
            elif shifts:
                registers.operand[row, pe] = registers.operand[row, pe - 1] if pe else operand[row]
                registers.select[row, pe] = registers.select[row, pe - 1] if pe else select[row]
        if command == CALC:
            registers.top_valid[row] = registers.top_valid[row - 1] if row else key_valid
        elif command != IDLE:
            registers.top_valid[row] = NO_KEY
    if command == CLEAR:
        registers.phase[_OF_INPUT] = 0
    elif command == INPUT:
        registers.phase[_OF_INPUT] = (registers.phase[_OF_INPUT] + 1) % fmt.group


@njit(cache=True)
def _fit(psum: int, fmt: PredictorFormat) -> int:
    return wrap(psum, fmt.psum_bits) if fmt.signed else psum & ((1 << fmt.psum_bits) - 1)


@njit(cache=True)
def _step_end(registers: _Registers, row: int, command: int, fmt: PredictorFormat, table: Int64Array) -> None:
    """One edge of a row's exponential unit and sums; sums take what the exponential's register held before.

    The released unit knows a key by its partial sum not being 0, and counts it if its exponential is positive.
    """
    if command == CLEAR:
        registers.exponential[row] = 0
        registers.exponential_valid[row] = NO_KEY
        registers.row_sum[row] = 0
        registers.group_sum[row] = 0
        registers.group_full[row] = 0
        registers.group_count[row] = 0
    elif command == CALC:
        exponential, count = registers.exponential[row], registers.group_count[row]
        registers.row_sum[row] = wrap(registers.row_sum[row] + exponential, fmt.bits)
        registers.group_sum[row] = wrap(registers.group_sum[row] + exponential, fmt.bits) if count else exponential
        registers.group_full[row] = count == SUM_KEYS - 1
        is_key = registers.exponential_valid[row] == KEY if fmt.signed else exponential > 0
        registers.group_count[row] = (count + is_key) % SUM_KEYS
        psum = registers.psum[row, -1]
        if fmt.signed:
            valid = registers.psum_valid[row, -1]
            registers.exponential_valid[row] = valid
            registers.exponential[row] = two_way_exp(psum << fmt.append, fmt.bits, fmt.point, table) if valid else 0
        else:
            registers.exponential[row] = shift_exp(psum << fmt.append, fmt.bits, fmt.point, table) if psum else 0
