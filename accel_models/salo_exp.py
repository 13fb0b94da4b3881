"""SALO's exponential unit: 2^x as four straight lines and an exponent, one cycle on the unit's own multiplier.

The unit knows base 2 alone and divides by 8 by choosing bits; log2 e and any other scale are folded into q by software (inferred).
"""

from __future__ import annotations

from numba import njit

from xmsim.accel_models.salo_numbers import SCALE_BITS, Words


@njit(cache=True)
def piecewise_exp(accumulator: int, words: Words) -> tuple[int, int]:
    """Mantissa, an accumulator word in [1, 2) up to the table's error of −1.5 %, and exponent of 2^(accumulator / 8).

    Source: released RTL of SALO v1 (sa/PE, stage 1): exponent = bits 15 to 11, fraction = bits 10 to 3, segment = the fraction's
    leading two, slopes in sixteenths. There an exponent beyond 5 bits wraps; here it saturates.
    """
    one = 2 * words.point + SCALE_BITS  # fraction bits of accumulator / 8
    exponent_range = (words.lowest_exponent << one, ((words.highest_exponent + 1) << one) - 1)
    x = min(max(accumulator, exponent_range[0]), exponent_range[1])
    fraction = (x >> SCALE_BITS) & ((1 << (2 * words.point)) - 1)
    segment = fraction >> (2 * words.point - 2)
    return ((words.slopes[segment] * fraction) >> words.point) + words.intercepts[segment], x >> one
