"""DynaX's psum/softmax unit: adds two partial sums and divides by the row sum, combinational.

It makes the mass of a block from the sums of its two groups of 32 keys (inferred), and of that the share of the row that X depends on.
Source: released RTL of DynaX, hardware/predict_unit/psum_softmax. Words are signed integers scaled by 2^point.
"""

from __future__ import annotations

from numba import njit

from xmsim.accel_models.fixed_point import wrap


@njit(cache=True)
def partial_sum(first: int, second: int, bits: int) -> int:
    """The sum of two partial sums, wrapped to `bits` bits."""
    return wrap(first + second, bits)


@njit(cache=True)
def row_share(first: int, second: int, row_sum: int, bits: int, point: int) -> tuple[int, bool]:
    """The sum of two partial sums as a share of the row sum, truncated toward 0, and whether there is one: not of a row sum of 0."""
    if row_sum == 0:
        return 0, False
    total = wrap(first + second, bits) << point
    quotient = abs(total) // abs(row_sum)
    return wrap(quotient if (total < 0) == (row_sum < 0) else -quotient, bits), True
