"""SALO's array: scores, exponentials, row sums and outputs of one pass in place, register by register.

Local units form a grid whose keys walk down its diagonals: unit (i, j) works on key i − j + columns − 1 of the pass. To their right
stand units of the global keys, the same for all rows, then (v2) units with a private key each; below the last local row stand global
rows, which get its keys one cycle later. Queries, stage codes and partial sums walk from left to right, a unit a cycle.

Source: released RTL (PEArray, PE) of SALO v1 and v2; stage codes are those of v1, and one more for v2's values.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from xmsim.accel_models.salo_exp import piecewise_exp
from xmsim.accel_models.salo_numbers import Words, saturate
from xmsim.accel_models.salo_unit import add_exponential, add_value, add_weighted_value, probability, reciprocal_numerator
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import Part, registers
from xmsim.sim.schedule import Int64Array

Count = Annotated[int, Field(ge=0, lt=2**16)]

SCORE, EXP, SUM, PROBABILITY, VALUE, WAIT, WEIGHTED_VALUE, FLUSH = range(8)  # stage codes
FLUSH_CYCLES = 1  # between two passes; the published models count it, the released RTL clears nothing


class SaloArrayConfig(Config):
    """Units of the array."""

    rows: PositiveInt
    columns: Annotated[int, Field(ge=2, lt=2**16)]  # local ones of a row
    global_rows: Count
    global_columns: Count
    random_columns: Count  # units of a row with a key of their own


def processing_elements(config: SaloArrayConfig) -> int:
    """Units in all: 1088 of v1, 776 of v2."""
    return config.rows * row_units(config) + config.global_rows * config.columns


def array_parts(config: SaloArrayConfig, head_dim: int, word: int, exponent_bits: int) -> tuple[Part, ...]:
    """Units and weighted-sum modules, whose output buffers of `head_dim` sums are flip-flops. Source: registers of the released RTL."""
    units, rows, sums = processing_elements(config), config.rows + config.global_rows, 2 * word
    state = 4 * word + 2 * (sums + exponent_bits)  # query, key, value and probability; accumulator and running sum
    return (
        Part("pe_array", "integer_mac", word, units, {"mac": 1}),
        registers("pe_array", units * state, {"mac": 2 * word + sums, "exp": sums, "add": sums + exponent_bits}),
        Part("pe_array", "exp_unit", sums, units, {"exp": 1}),
        Part("pe_array", "adder", sums, units, {"add": 1}),
        Part("weighted_sum", "integer_multiplier", sums, 2 * rows, {"mac": 1}),
        Part("weighted_sum", "adder", sums, rows, {"mac": 1 / 2}),  # of two products
        Part("weighted_sum", "divider", sums, 2 * rows, {"divide": 1}),  # two weights a row and pass
        registers("weighted_sum", rows * head_dim * sums, {"mac": sums / 2}),
    )


def row_units(config: SaloArrayConfig) -> int:
    """Units of a local row."""
    return config.columns + config.global_columns + config.random_columns


def wait_cycles(config: SaloArrayConfig) -> int:
    """v1: cycles in which a unit waits until its row's sum is out on the right. Source: released RTL; C for one global column."""
    return row_units(config) - 1


def pass_cycles_v1(head_dim: int, config: SaloArrayConfig) -> int:
    """Cycles a pass holds a unit: scores, exponential, sum, wait, probability, values.

    Source: released RTL of v1, and its performance model, 2·d + 3 + C for one global column.
    """
    return 2 * head_dim + 3 + wait_cycles(config)


def pass_cycles_v2(head_dim: int) -> int:
    """Cycles a pass holds a unit: scores, exponential, sum, values, which the weighted-sum module normalises.

    Source: released RTL of v2, and its performance model, 2·d + 2.
    """
    return 2 * head_dim + 2


def tail_cycles(config: SaloArrayConfig) -> int:
    """Cycles from the end of a pass in the left-most unit to that in the last one.

    Source: released RTL, and the performance models, C + G + X − 1; global rows begin a cycle late, each.
    """
    below = config.global_rows + config.columns - 1 if config.global_rows else 0
    return max(row_units(config) - 1, below)


def exposed_merge_cycles(config: SaloArrayConfig) -> int:
    """Cycles from the flush behind a pass in the left-most unit until its last output has been merged.

    The rest of the pass's tail, and one: of the merge's d + 2 cycles all but the last coincide with the pass.
    """
    return tail_cycles(config) - FLUSH_CYCLES + 1


def dense_product_cycles(columns: int, inner: int, config: SaloArrayConfig) -> int:
    """Cycles in which a dense product of up to `rows` rows holds the array, to its last result, v1 or v2.

    A pass computes an output in each local unit: the weight columns of a tile take the place of keys, and follow each other in a ring, so
    that the diagonals show every row each of them once. It takes the scores phase, a cycle for each unit of a row, in which accumulators
    move out to the right, and the flush. Source: released RTL for the scores phase, published flush; the ring and the way out are
    assumed.
    """
    passes = -(-columns // config.columns)
    return passes * (inner + row_units(config) + FLUSH_CYCLES) + row_units(config) - 1


def dense_streams(config: SaloArrayConfig) -> int:
    """Weight columns that the ports of the diagonals bring in for a pass of a dense product."""
    return config.rows + config.columns - 1


def program_v1(head_dim: int, config: SaloArrayConfig) -> Int64Array:
    """Stage codes of a pass, one a cycle."""
    return np.array([SCORE] * head_dim + [EXP, SUM] + [WAIT] * wait_cycles(config) + [PROBABILITY] + [VALUE] * head_dim, np.int64)


def program_v2(head_dim: int) -> Int64Array:
    """Stage codes of a pass, one a cycle."""
    return np.array([SCORE] * head_dim + [EXP, SUM] + [WEIGHTED_VALUE] * head_dim, np.int64)


class ValueRules(NamedTuple):
    """Where the released RTL computes other values than it means to; its timing does not depend on them."""

    first_unit_counts: int  # 0: the left-most unit's share of the row sum is lost, and its accumulator is zeroed
    flush_clears: int  # 0: the next pass adds to what the last one left
    reciprocal_numerator: int


RELEASED = ValueRules(first_unit_counts=0, flush_clears=0, reciprocal_numerator=16)  # 1 / sum is 0 for every sum above 1/16


def repaired(words: Words) -> ValueRules:
    """The rules that the RTL means."""
    return ValueRules(first_unit_counts=1, flush_clears=1, reciprocal_numerator=reciprocal_numerator(words))


class PassOperands(NamedTuple):
    """What one pass works on, as input words.

    Keys stand in the order of the ports: rows + columns − 1 on the diagonals, the global ones, then the private ones row by row.
    """

    q: Int64Array  # [rows + global_rows, head_dim]
    keys: Int64Array  # [ports, head_dim]
    values: Int64Array  # [ports, head_dim]


class ArrayTrace(NamedTuple):
    """Register contents after each edge; int64 [edges, rows + global_rows, units of a row], a global row fills its local units alone."""

    stages: Int64Array
    accumulators: Int64Array
    probabilities: Int64Array
    sums: Int64Array  # row sums, then outputs
    exponents: Int64Array  # of `sums`


class _Registers(NamedTuple):
    query: Int64Array  # all [rows + global_rows, units of a row]
    key: Int64Array
    stage: Int64Array
    accumulator: Int64Array
    exponent: Int64Array
    probability: Int64Array
    sum: Int64Array
    sum_exponent: Int64Array


class _Shape(NamedTuple):
    rows: int
    columns: int
    global_rows: int
    global_columns: int
    random_columns: int


class _Drive(NamedTuple):
    """What enters at the ports; a port that feeds column c is delayed by c cycles, global row r by r + 1 besides."""

    program: Int64Array
    values_from: int  # place of the first value in the program
    q: Int64Array  # [passes, rows + global_rows, head_dim]
    keys: Int64Array  # [passes, ports, head_dim]
    values: Int64Array  # [passes, ports, head_dim]


def ports(config: SaloArrayConfig) -> int:
    """Ports that keys and values enter by."""
    return config.rows + config.columns - 1 + config.global_columns + config.rows * config.random_columns


def trace_passes(
    passes: list[PassOperands],
    program: Int64Array,
    config: SaloArrayConfig,
    words: Words,
    rules: ValueRules,
    *,
    idle_before: int = 0,
    idle_after: int = 0,
) -> ArrayTrace:
    """Run passes one after the other through zeroed registers, one step an edge, from `idle_before` edges before the first starts.

    Returns: the edges from the first pass's start to the last one's end in the last unit, and `idle_after` more.
    """
    values_from = int(np.argmax((program == VALUE) | (program == WEIGHTED_VALUE)))
    drive = _Drive(program, values_from, *(np.stack(operand) for operand in zip(*passes, strict=True)))
    edges = len(passes) * (len(program) + FLUSH_CYCLES) - FLUSH_CYCLES + tail_cycles(config)
    grid = (config.rows + config.global_rows, row_units(config))
    registers = _Registers(*(np.zeros(grid, np.int64) for _ in _Registers._fields))
    trace = ArrayTrace(*(np.zeros((idle_before + edges + idle_after, *grid), np.int64) for _ in ArrayTrace._fields))
    shape = _Shape(config.rows, config.columns, config.global_rows, config.global_columns, config.random_columns)
    _run(registers, trace, drive, shape, words, rules, idle_before)
    return ArrayTrace(*(values[idle_before:] for values in trace))


@njit(cache=True)
def _run(registers: _Registers, trace: ArrayTrace, drive: _Drive, shape: _Shape, words: Words, rules: ValueRules, idle_before: int) -> None:
    for edge in range(len(trace.sums)):
        _step(registers, drive, shape, words, rules, edge - idle_before)
        trace.stages[edge] = registers.stage
        trace.accumulators[edge] = registers.accumulator
        trace.probabilities[edge] = registers.probability
        trace.sums[edge] = registers.sum
        trace.exponents[edge] = registers.sum_exponent


@njit(cache=True)
def _step(registers: _Registers, drive: _Drive, shape: _Shape, words: Words, rules: ValueRules, edge: int) -> None:
    """One clock edge. From the last unit to the first, so that each still finds what its neighbours held before the edge."""
    for row in range(shape.rows + shape.global_rows - 1, -1, -1):
        local_row = row < shape.rows
        units = shape.columns + shape.global_columns + shape.random_columns if local_row else shape.columns
        row_sum, row_exponent = registers.sum[row, units - 1], registers.sum_exponent[row, units - 1]
        reciprocal = rules.reciprocal_numerator // row_sum if row_sum > 0 else 0
        for column in range(units - 1, -1, -1):
            if column == 0:
                late = 0 if local_row else row - shape.rows + 1
                stage, query = _left_ports(drive, row, edge - late)
                partial, partial_exponent = 0, words.lowest_exponent
            else:
                stage, query = registers.stage[row, column - 1], registers.query[row, column - 1]
                partial, partial_exponent = registers.sum[row, column - 1], registers.sum_exponent[row, column - 1]
            key = _key(registers, drive, shape, row, column, edge)
            _work(registers, words, rules, row, column, stage, query, key, partial, partial_exponent, reciprocal, row_exponent)


@njit(cache=True)
def _left_ports(drive: _Drive, row: int, time: int) -> tuple[int, int]:
    """Stage code and query element that enter a row `time` cycles after the first pass's start."""
    period = len(drive.program) + FLUSH_CYCLES
    number, place = time // period, time % period
    if time < 0 or number >= len(drive.q) or place == len(drive.program):
        return FLUSH, 0
    return drive.program[place], drive.q[number, row, place] if place < drive.q.shape[2] else 0


@njit(cache=True)
def _key(registers: _Registers, drive: _Drive, shape: _Shape, row: int, column: int, edge: int) -> int:
    """The element of a key or value that a unit sees."""
    if row > shape.rows - 1:
        return registers.key[row - 1, column]
    if column >= shape.columns:
        port = shape.rows - 1 + column  # the global ones follow those of the diagonals
        beyond = column - shape.columns - shape.global_columns
        if beyond >= 0:
            port = shape.rows + shape.columns - 1 + shape.global_columns + row * shape.random_columns + beyond
    elif row == 0 or column == 0:
        port = row - column + shape.columns - 1
    else:
        return registers.key[row - 1, column - 1]
    time = edge - column
    period = len(drive.program) + FLUSH_CYCLES
    number, place = time // period, time % period
    head_dim = drive.q.shape[2]
    if time < 0 or number >= len(drive.q):
        return 0
    if place < head_dim:
        return drive.keys[number, port, place]
    if 0 <= place - drive.values_from < head_dim:
        return drive.values[number, port, place - drive.values_from]
    return 0


@njit(cache=True)
def _work(
    registers: _Registers,
    words: Words,
    rules: ValueRules,
    row: int,
    column: int,
    stage: int,
    query: int,
    key: int,
    partial: int,
    partial_exponent: int,
    reciprocal: int,
    row_exponent: int,
) -> None:
    """What one unit makes of its inputs at an edge; registers a stage does not name hold."""
    unit = (row, column)
    registers.query[unit] = query
    registers.key[unit] = key
    registers.stage[unit] = stage
    if stage == SCORE:
        registers.accumulator[unit] = saturate(registers.accumulator[unit] + query * key, words.accumulator_limit)
    elif stage == EXP:
        registers.accumulator[unit], registers.exponent[unit] = piecewise_exp(registers.accumulator[unit], words)
    elif stage == SUM:
        if column == 0 and not rules.first_unit_counts:
            registers.accumulator[unit] = 0
        mantissa, row_sum, exponent = add_exponential(
            registers.accumulator[unit], registers.exponent[unit], partial, partial_exponent, words
        )
        registers.accumulator[unit] = mantissa
        registers.exponent[unit] = exponent
        registers.sum[unit] = row_sum
        registers.sum_exponent[unit] = exponent
    elif stage == PROBABILITY:
        registers.probability[unit] = probability(registers.accumulator[unit], registers.exponent[unit], reciprocal, row_exponent, words)
    elif stage == VALUE:
        registers.sum[unit] = add_value(partial, registers.probability[unit], key, words)
    elif stage == WEIGHTED_VALUE:
        aligned = partial >> (registers.exponent[unit] - partial_exponent)
        registers.sum[unit] = add_weighted_value(aligned, registers.accumulator[unit], key, words)
    elif stage == FLUSH and rules.flush_clears:
        registers.accumulator[unit] = 0
        registers.exponent[unit] = 0
        registers.probability[unit] = 0
        registers.sum[unit] = 0
        registers.sum_exponent[unit] = 0
