"""Attention as SALO's array and weighted-sum modules compute it, row by row and pass by pass, in their words.

Equal to the register-level array, without its time: a row's units in the order of its sum chain, then the merge of the pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.functional import operands_of
from xmsim.accel_models.salo_exp import piecewise_exp
from xmsim.accel_models.salo_numbers import SCALE_BITS, NumberFormatConfig, Words, as_inputs, saturate
from xmsim.accel_models.salo_unit import add_exponential, add_value, add_weighted_value, probability, reciprocal_numerator
from xmsim.accel_models.salo_weighted_sum import ALIGN, CLEAR, MIX, WEIGH, MergeRegisters, merge_registers, merge_step
from xmsim.sim.schedule import Int64Array
from xmsim.workloads.attention import AttentionWorkload


class InputWords(NamedTuple):
    """Operands of a layer as the array takes them."""

    q: Int64Array  # [heads, queries, head_dim], scaled so that the unit's 2^(q·k / 8) is the e^score of the model
    k: Int64Array  # [kv_heads, keys, head_dim]
    v: Int64Array  # [kv_heads, keys, head_dim]


class RowPasses(NamedTuple):
    """The passes of each query of a head, in order; the keys of a pass stand in the order of its units."""

    keys: Int64Array  # [pairs]
    pass_start: Int64Array  # [passes + 1]
    row_start: Int64Array  # [queries + 1], in passes


def input_words(workload: AttentionWorkload, config: NumberFormatConfig) -> InputWords:
    """Operands in the array's number format; base 2 and the softmax scale are folded into q.

    Raises:
        WorkloadError: no operands, or ALiBi: the array adds nothing to its scores.
    """
    operands = operands_of(workload)
    if operands.slopes is not None:
        raise WorkloadError("SALO's array adds no bias to scores, so it cannot compute ALiBi; take a model with rotary embedding")
    factor = operands.scale * 2**SCALE_BITS * math.log2(math.e)
    return InputWords(*(as_inputs(x.astype(np.float64), config) for x in (operands.q * np.float64(factor), operands.k, operands.v)))


def keep_of_passes(passes: RowPasses, keys: int) -> npt.NDArray[np.bool_]:
    """The pairs that the passes of a head compute; bool [queries, keys]."""
    queries = len(passes.row_start) - 1
    keep = np.zeros((queries, keys), bool)
    pairs = passes.pass_start[passes.row_start]
    keep[np.repeat(np.arange(queries), np.diff(pairs)), passes.keys] = True
    return keep


def attend_v1(q: Int64Array, k: Int64Array, v: Int64Array, passes: RowPasses, words: Words) -> Int64Array:
    """Outputs of a head as accumulator words, int64 [queries, head_dim]; each pass normalises its own part."""
    output = np.zeros_like(q)
    _attend_v1(q, k, v, passes, words, merge_registers(q.shape[1], words), output)
    return output


def attend_v2(q: Int64Array, k: Int64Array, v: Int64Array, passes: RowPasses, words: Words) -> Int64Array:
    """Outputs of a head as accumulator words, int64 [queries, head_dim]; the weighted-sum module normalises."""
    output = np.zeros_like(q)
    _attend_v2(q, k, v, passes, words, merge_registers(q.shape[1], words), output)
    return output


@njit(cache=True)
def _attend_v1(
    q: Int64Array, k: Int64Array, v: Int64Array, passes: RowPasses, words: Words, merge: MergeRegisters, output: Int64Array
) -> None:
    for row in range(len(q)):
        merge_step(merge, CLEAR, 0, 0, 0, words)
        for number in range(passes.row_start[row], passes.row_start[row + 1]):
            keys = passes.keys[passes.pass_start[number] : passes.pass_start[number + 1]]
            mantissas, exponents, row_sum = _row_sum(q[row], k, keys, words)
            row_exponent = exponents[-1]
            reciprocal = reciprocal_numerator(words) // row_sum
            result = np.zeros(q.shape[1], np.int64)
            for unit in range(len(keys)):
                share = probability(mantissas[unit], exponents[unit], reciprocal, row_exponent, words)
                for element in range(len(result)):
                    result[element] = add_value(result[element], share, v[keys[unit], element], words)
            _merge(merge, row_sum, row_exponent, row_sum, result, words)
        output[row] = merge.buffer


@njit(cache=True)
def _attend_v2(
    q: Int64Array, k: Int64Array, v: Int64Array, passes: RowPasses, words: Words, merge: MergeRegisters, output: Int64Array
) -> None:
    one = 1 << (2 * words.point)
    for row in range(len(q)):
        merge_step(merge, CLEAR, 0, 0, 0, words)
        for number in range(passes.row_start[row], passes.row_start[row + 1]):
            keys = passes.keys[passes.pass_start[number] : passes.pass_start[number + 1]]
            mantissas, exponents, row_sum = _row_sum(q[row], k, keys, words)
            result = np.zeros(q.shape[1], np.int64)
            before = exponents[0]
            for unit in range(len(keys)):
                for element in range(len(result)):
                    aligned = result[element] >> (exponents[unit] - before)
                    result[element] = add_weighted_value(aligned, mantissas[unit], v[keys[unit], element], words)
                before = exponents[unit]
            _merge(merge, row_sum, exponents[-1], one, result, words)
        output[row] = merge.buffer


@njit(cache=True)
def _row_sum(query: Int64Array, k: Int64Array, keys: Int64Array, words: Words) -> tuple[Int64Array, Int64Array, int]:
    """Aligned mantissa and exponent of each unit, and the sum that leaves the last one."""
    mantissas, exponents = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
    row_sum, row_exponent = 0, words.lowest_exponent
    for unit in range(len(keys)):
        accumulator = 0
        for element in range(len(query)):
            accumulator = saturate(accumulator + query[element] * k[keys[unit], element], words.accumulator_limit)
        mantissa, exponent = piecewise_exp(accumulator, words)
        mantissas[unit], row_sum, row_exponent = add_exponential(mantissa, exponent, row_sum, row_exponent, words)
        exponents[unit] = row_exponent
    return mantissas, exponents, row_sum


@njit(cache=True)
def _merge(merge: MergeRegisters, row_sum: int, exponent: int, share: int, result: Int64Array, words: Words) -> None:
    merge_step(merge, ALIGN, row_sum, exponent, share, words)
    merge_step(merge, WEIGH, 0, 0, 0, words)
    for element in range(len(result)):
        merge_step(merge, MIX, result[element], 0, 0, words)
