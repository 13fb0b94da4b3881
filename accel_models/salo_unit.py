"""What one of SALO's processing elements does in a cycle, besides multiply-accumulate; all words are int64.

Source: released RTL of SALO v1 (sa/PE) and v2 (accelerator/PE), with the defects repaired that docs/machines/salo.md lists.
"""

from __future__ import annotations

from numba import njit

from xmsim.accel_models.salo_numbers import Words, saturate


@njit(cache=True)
def add_exponential(mantissa: int, exponent: int, row_sum: int, row_exponent: int, words: Words) -> tuple[int, int, int]:
    """Align a mantissa and the running sum of its row to the larger exponent: mantissa, new sum, common exponent."""
    if exponent < row_exponent:
        mantissa >>= row_exponent - exponent
    else:
        row_sum >>= exponent - row_exponent
    return mantissa, saturate(row_sum + mantissa, words.accumulator_limit), max(exponent, row_exponent)


@njit(cache=True)
def reciprocal_numerator(words: Words) -> int:
    """What a row sum divides to give its reciprocal."""
    return 1 << (2 * words.point + words.reciprocal_point)


@njit(cache=True)
def probability(mantissa: int, exponent: int, reciprocal: int, row_exponent: int, words: Words) -> int:
    """v1: mantissa × reciprocal of the row sum, aligned to the row's exponent; `probability_point` fraction bits."""
    surplus = 2 * words.point + words.reciprocal_point - words.probability_point
    return ((mantissa * reciprocal) >> surplus) >> (row_exponent - exponent)


@njit(cache=True)
def add_value(partial: int, probability_word: int, value: int, words: Words) -> int:
    """v1: a row's partial output plus probability × value; an accumulator word."""
    return saturate(partial + ((probability_word * value) >> (words.probability_point - words.point)), words.accumulator_limit)


@njit(cache=True)
def add_weighted_value(partial: int, mantissa: int, value: int, words: Words) -> int:
    """v2: a row's partial output, not normalised, plus mantissa × value; partial and mantissa are aligned; an accumulator word."""
    return saturate(partial + ((mantissa * value) >> words.point), words.accumulator_limit)
