"""Signed fixed-point words as register-level models compute them: integers scaled by 2^point, in int64."""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def wrap(word: int, bits: int) -> int:
    """The low `bits` bits of a word, read as two's complement."""
    low = word & ((1 << bits) - 1)
    return low - ((low >> (bits - 1)) << bits)


@njit(cache=True)
def multiply(a: int, b: int, bits: int, point: int) -> int:
    """The product of two words of up to 32 bits, truncated toward minus infinity to `point` fraction bits and wrapped to `bits` bits."""
    return wrap((a * b) >> point, bits)
