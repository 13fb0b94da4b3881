"""The exponential unit with a shift in both directions, so that it serves negative inputs, too: a repair of the released one.

The released unit reads its input unsigned and shifts to the left alone (`shift_exp`). Here the integer part of the exponent is floored, and
a negative one shifts to the right. Table and constant are those of the released unit.
"""

from __future__ import annotations

from numba import njit

from xmsim.accel_models.fixed_point import wrap
from xmsim.accel_models.shift_exp import EXTRA_BITS, TABLE_BITS
from xmsim.sim.schedule import Int64Array


@njit(cache=True)
def two_way_exp(x: int, bits: int, point: int, table: Int64Array) -> int:
    """e^x of a signed fixed-point word, both as integers scaled by 2^point; bits at most 32, table that of `exp_table`."""
    fraction_bits = point + EXTRA_BITS
    exponent = 23 * x  # 16 + 8 − 1 sixteenths of x
    shift = exponent >> fraction_bits
    fraction = exponent & ((1 << fraction_bits) - 1)
    power = fraction + table[fraction >> (fraction_bits - TABLE_BITS)]
    if shift >= bits - point:
        return 0  # every bit of the power, whose value is below 2, leaves the word
    return wrap((power << shift if shift >= 0 else power >> min(-shift, 62)) >> EXTRA_BITS, bits)
