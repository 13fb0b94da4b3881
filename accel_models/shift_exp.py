"""The exponential unit of Sanger, which DynaX uses too: a table of 64 entries and a shift, combinational.

Source: released RTL of Sanger (hardware/exp_unit). e^x = 2^(x·log2 e) with log2 e taken as 1 + 1/2 − 1/16 = 1.4375, 0.36 % too small. The
integer part of the exponent is a shift; for its fraction v, 2^v = v + (2^v − v), and the bracket comes from the table.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from xmsim.accel_models.fixed_point import wrap
from xmsim.sim.schedule import Int64Array

TABLE_BITS = 6  # 64 entries, addressed by the leading bits of the fraction
EXTRA_BITS = 4  # fraction bits more than the input has, dropped from the result


def exp_table(point: int) -> Int64Array:
    """2^t − t at the left edge t of each 64th of [0, 1), with `point` + 4 fraction bits; int64 [64].

    Raises: ValueError: point below 2, fewer fraction bits than address the table.
    """
    if point < TABLE_BITS - EXTRA_BITS:
        raise ValueError(f"point: {point} fraction bits do not address {2**TABLE_BITS} entries; it must be at least 2")
    edges = np.arange(2**TABLE_BITS) / 2**TABLE_BITS
    return np.rint((2**edges - edges) * 2 ** (point + EXTRA_BITS)).astype(np.int64)


def exp_input_limit(bits: int, point: int) -> int:
    """The largest input whose result still fits a signed word of `bits` bits, as an integer scaled by 2^point."""
    return (((bits - 1 - point) << (point + EXTRA_BITS)) - 1) // 23


@njit(cache=True)
def shift_exp(x: int, bits: int, point: int, table: Int64Array) -> int:
    """e^x of a fixed-point word, both as signed integers scaled by 2^point; bits at most 32.

    The unit reads its input unsigned, so it serves x >= 0 alone, and its result wraps to `bits` bits.
    """
    fraction_bits = point + EXTRA_BITS
    exponent = 23 * (x & ((1 << bits) - 1)) & ((1 << (bits + EXTRA_BITS)) - 1)  # 16 + 8 − 1 sixteenths of x
    shift = exponent >> fraction_bits
    room = bits + EXTRA_BITS - shift
    if room <= 0:
        return 0
    fraction = exponent & ((1 << fraction_bits) - 1)
    power = fraction + table[fraction >> (fraction_bits - TABLE_BITS)]
    return wrap(((power & ((1 << room) - 1)) << shift) >> EXTRA_BITS, bits)


@njit(cache=True)
def shift_exp_array(words: Int64Array, bits: int, point: int, table: Int64Array) -> Int64Array:
    """`shift_exp` of every word; int64 like `words`."""
    results = np.empty_like(words)
    for place in range(words.size):
        results.flat[place] = shift_exp(words.flat[place], bits, point, table)
    return results
