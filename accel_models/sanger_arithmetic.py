"""What Sanger's arithmetic makes of an attention layer: fixed point, the exponential unit, passes merged at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from xmsim.accel_models.fixed_point import multiply, wrap
from xmsim.accel_models.fixed_point_operands import WordConfig, alibi_bias, divide, fixed_words, operand_words, predicted_row_maxima
from xmsim.accel_models.mask_words import lowest_bit
from xmsim.accel_models.sanger_array import ExecuteArrayConfig
from xmsim.accel_models.sanger_pack import HeadPasses
from xmsim.accel_models.sanger_prediction import PredictionArrayConfig
from xmsim.accel_models.shift_exp import exp_input_limit, exp_table, shift_exp
from xmsim.sim.schedule import Int64Array
from xmsim.workloads.attention import AttentionOperands

Floats = npt.NDArray[np.float64]


def score_peak(config: WordConfig, pes: int) -> float:
    """The score that a row's predicted maximum is moved to, because the exponential unit serves scores from 0 on alone.

    e^peak is such that a sub-row of `pes` equal scores fills half of the range; scores below 0 count as 0 and are then too large.
    Ours: the RTL subtracts nothing, and the paper's software has the true maximum. 6.96 with 32 bits, 16 of them fraction, and 16 units.
    """
    return max(0.0, config.bits - 1 - config.point - math.log2(pes) - 1) / 1.4375


def attention_output(
    operands: AttentionOperands,
    allowed: npt.NDArray[np.bool_],
    heads: Iterable[HeadPasses],
    prediction: PredictionArrayConfig,
    array: ExecuteArrayConfig,
    config: WordConfig,
) -> Floats:
    """The output of a layer, float64 [heads, queries, head_dim].

    Operands are rounded to fixed point, queries with the softmax scale in them, values divided by a power of two so that none
    passes 1. Products are truncated, sums wrap. Accumulators begin with peak − predicted row maximum (+ ALiBi), and scores saturate
    where the exponential would overflow: both ours, the RTL begins at 0 and wraps. Idle units are left out of row sums, the RTL's
    are not. Partial outputs and sums of a query's sub-rows are merged in wider words, and divided once, truncated.
    """
    group = len(operands.q) // len(operands.k)
    q, k, v, value_scale = operand_words(operands, config)
    peak = score_peak(config, array.pes)
    arithmetic = _Arithmetic(config.bits, config.point, exp_table(config.point), exp_input_limit(config.bits, config.point))
    output = np.zeros(operands.q.shape)
    for head, passes in enumerate(heads):
        bias = fixed_words(alibi_bias(operands, head), config)
        start = fixed_words(peak - predicted_row_maxima(operands, allowed, head, group=1, bits=prediction.bits), config)
        sums = np.zeros((len(allowed), 1 + q.shape[2]), np.int64)
        kv_head = head // group
        _run_passes(passes, array.ports, q[head], k[kv_head], v[kv_head], start, bias, arithmetic, sums)
        output[head] = divide(sums[:, 1:], sums[:, :1], config.point) / 2.0**config.point * value_scale
    return output


class _Arithmetic(NamedTuple):
    bits: int
    point: int
    table: Int64Array
    limit: int  # largest score


@njit(cache=True)
def _run_passes(
    passes: HeadPasses,
    ports: int,
    q: Int64Array,
    k: Int64Array,
    v: Int64Array,
    start: Int64Array,
    bias: Int64Array,
    arithmetic: _Arithmetic,
    sums: Int64Array,
) -> None:
    """Sub-row after sub-row: exponentials of its kept columns, and their sum and products with values, added to the query's."""
    bits, point = arithmetic.bits, arithmetic.point
    head_dim = q.shape[1]
    partial = np.zeros(1 + head_dim, np.int64)
    for number in range(len(passes.stripe)):
        first_key = passes.stripe[number] * ports
        for place in range(passes.sub_row_start[number], passes.sub_row_start[number + 1]):
            query, columns = passes.query[place], passes.columns[place]
            partial[:] = 0
            while columns != np.uint64(0):
                key = first_key + lowest_bit(columns)
                columns &= columns - np.uint64(1)
                score = start[query] + bias[key]
                for channel in range(head_dim):
                    score += (q[query, channel] * k[key, channel]) >> point
                score = min(max(wrap(score, bits), 0), arithmetic.limit)
                weight = shift_exp(score, bits, point, arithmetic.table)
                partial[0] += weight
                for channel in range(head_dim):
                    partial[1 + channel] += multiply(weight, v[key, channel], bits, point)
            for entry in range(1 + head_dim):
                sums[query, entry] += wrap(partial[entry], bits)
