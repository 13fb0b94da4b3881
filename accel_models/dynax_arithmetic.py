"""What DynaX's arithmetic makes of an attention layer: fixed point, the exponential unit, segments added up and divided once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.fixed_point import multiply, wrap
from xmsim.accel_models.fixed_point_operands import (
    Floats,
    WordConfig,
    alibi_bias,
    divide,
    fixed_words,
    operand_words,
    predicted_row_maxima,
)
from xmsim.accel_models.shift_exp import exp_input_limit, exp_table, shift_exp
from xmsim.accel_models.two_way_exp import two_way_exp
from xmsim.sim.schedule import Int64Array
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

Words = npt.NDArray[np.uint64]


class ArithmeticConfig(WordConfig):
    """Words of the execution arrays, and which exponential unit they have.

    The released unit makes 0 of most negative scores; a two-way one (a repair) serves them, too.
    """

    exponential: Literal["released", "two_way"]


def adder_bits(columns: int) -> int:
    """Bits by which the sum of a row's PEs outgrows the largest of them."""
    return (columns - 1).bit_length()


def highest_point(bits: int, columns: int) -> int:
    """The most fraction bits of words in which `columns` exponentials can be added up, two bits above 1 and the sign."""
    return bits - 3 - adder_bits(columns)


class SegmentShape(NamedTuple):
    """How the mask of a head is cut."""

    window_rows: int
    block: int
    columns: int


def attention_output(
    workload: AttentionWorkload, operands: AttentionOperands, shape: SegmentShape, config: ArithmeticConfig, *, group: int, bits: int
) -> Floats:
    """The output of a layer, float64 [heads, queries, head_dim].

    Operands are rounded to fixed point, queries with the softmax scale in them, values divided by a power of two so that none passes 1.
    Products are truncated, sums wrap. Numerators and denominators of a query's segments are added up in wider words, block by block, and
    divided once. A segment takes the kept keys of a block in order of keys, not of rank: the sums are the same, because none overflows.

    Ours: accumulators begin with peak − predicted row maximum (+ ALiBi) and scores saturate where the sum of a segment could overflow,
    while the RTL begins at 0 and wraps; the peak is half of that limit, because prediction underestimates some rows. PEs without a key
    are left out of denominators, to which the RTL's add 1 each. Quotients, none of which passes 1, are truncated to two fraction bits
    fewer than a word has.

    Args:
        group, bits: of the prediction array.
    """
    words = operand_words(operands, config)
    limit = exp_input_limit(config.bits - adder_bits(shape.columns), config.point)
    unit = _Unit(config.bits, config.point, limit, config.exponential == "two_way", exp_table(config.point))
    allowed = workload.allowed()
    output = np.zeros(operands.q.shape)
    for head in range(workload.heads):
        bias = alibi_bias(operands, head)
        maxima = predicted_row_maxima(operands, allowed, head, group=group, bits=bits)
        start = limit // 2 - fixed_words(maxima, config)
        sums = np.zeros((workload.queries, 1 + workload.head_dim), np.int64)
        kv_head = head // workload.group
        _attend(
            workload.words[head], shape, unit, words.q[head], words.k[kv_head], words.v[kv_head], start, fixed_words(bias, config), sums
        )
        output[head] = divide(sums[:, 1:], sums[:, :1], config.bits - 2) * (words.value_scale / 2 ** (config.bits - 2))
    return output


class _Unit(NamedTuple):
    bits: int
    point: int
    limit: int  # the largest score
    two_way: bool
    table: Int64Array


@njit(cache=True)
def _attend(
    words: Words,
    shape: SegmentShape,
    unit: _Unit,
    q: Int64Array,
    k: Int64Array,
    v: Int64Array,
    start: Int64Array,
    bias: Int64Array,
    sums: Int64Array,
) -> None:
    """Window after window, block after block, row after row: what each segment adds to its query's denominator and numerators."""
    queries, keys = len(q), len(k)
    partial = np.zeros(sums.shape[1], np.int64)
    for window in range(0, queries, shape.window_rows):
        for block in range(0, keys, shape.block):
            for query in range(window, min(window + shape.window_rows, queries)):
                filled = 0
                for key in range(block, min(block + shape.block, keys)):
                    if (words[query, key // 64] >> np.uint64(key % 64)) & np.uint64(1):
                        _add_key(partial, q[query], k[key], v[key], start[query] + bias[key], unit)
                        filled += 1
                        if filled == shape.columns:
                            _move_out(partial, sums[query], unit.bits)
                            filled = 0
                if filled:
                    _move_out(partial, sums[query], unit.bits)


@njit(cache=True)
def _add_key(partial: Int64Array, q: Int64Array, k: Int64Array, v: Int64Array, start: int, unit: _Unit) -> None:
    """What one PE brings to the row's adder: its exponential, and its products with the features of the value."""
    score = start
    for channel in range(len(q)):
        score += (q[channel] * k[channel]) >> unit.point
    score = min(wrap(score, unit.bits), unit.limit)
    weight = _exponential(score, unit)
    partial[0] += weight
    for channel in range(len(v)):
        partial[1 + channel] += multiply(weight, v[channel], unit.bits, unit.point)


@njit(cache=True)
def _exponential(score: int, unit: _Unit) -> int:
    if unit.two_way:
        return two_way_exp(score, unit.bits, unit.point, unit.table)
    return shift_exp(score, unit.bits, unit.point, unit.table)


@njit(cache=True)
def _move_out(partial: Int64Array, total: Int64Array, bits: int) -> None:
    for entry in range(len(partial)):
        total[entry] += wrap(partial[entry], bits)
    partial[:] = 0
