"""Number formats of SALO's units: signed fixed-point words, as integers scaled by a power of two, in int64."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import Field, model_validator

from xmsim.configs.schema import Config
from xmsim.sim.schedule import Int64Array

SCALE_BITS = 3  # the exponential unit divides by 8 = sqrt(64), whatever the head dimension; software folds the difference into q

# 2^x on [0, 1) as four straight lines, fitted by the authors (sjtu-zhao-lab/SALO, piecewise_linear.py)
SLOPES = (0.75532268, 0.89775075, 1.06735514, 1.27081757)
INTERCEPTS = (0.99742072, 0.96181372, 0.87701153, 0.72441471)


class NumberFormatConfig(Config):
    """Widths of the words. Accumulators have twice the bits, and twice the fraction bits, of inputs."""

    bits: Annotated[int, Field(ge=4, le=16)]  # of q, k and v
    point: Annotated[int, Field(ge=1, le=14)]  # fraction bits of q, k and v
    exponent_bits: Annotated[int, Field(ge=2, le=6)]
    weight_point: Annotated[int, Field(ge=1, le=24)]  # fraction bits of the weights that merge passes

    @model_validator(mode="after")
    def _check_point(self) -> Self:
        if self.point >= self.bits:
            raise ValueError(f"point: {self.point} fraction bits leave no sign in words of {self.bits}; lower point to {self.bits - 1}")
        return self


class NormalisingFormatConfig(NumberFormatConfig):
    """Those of v1, whose units normalise their own pass."""

    probability_point: Annotated[int, Field(ge=1, le=16)]  # fraction bits of a probability
    reciprocal_point: Annotated[int, Field(ge=1, le=24)]  # fraction bits of 1 / row sum

    @model_validator(mode="after")
    def _check_probability_point(self) -> Self:
        if self.probability_point < self.point:
            raise ValueError(f"probability_point: {self.probability_point} is below point; raise it to {self.point}")
        return self


class Words(NamedTuple):
    """The formats as compiled code takes them."""

    point: int
    accumulator_limit: int  # largest accumulator word
    lowest_exponent: int
    highest_exponent: int
    weight_point: int
    probability_point: int  # v1 alone
    reciprocal_point: int  # v1 alone
    slopes: Int64Array  # [4], `point` fraction bits
    intercepts: Int64Array  # [4], 2 × `point` fraction bits


def words_of(config: NumberFormatConfig) -> Words:
    """The formats, and the table of the exponential unit in them."""
    return Words(
        point=config.point,
        accumulator_limit=2 ** (2 * config.bits - 1) - 1,
        lowest_exponent=-(2 ** (config.exponent_bits - 1)),
        highest_exponent=2 ** (config.exponent_bits - 1) - 1,
        weight_point=config.weight_point,
        probability_point=config.point,
        reciprocal_point=config.point,
        slopes=np.rint(np.array(SLOPES) * 2**config.point).astype(np.int64),
        intercepts=np.rint(np.array(INTERCEPTS) * 4**config.point).astype(np.int64),
    )


def normalising_words_of(config: NormalisingFormatConfig) -> Words:
    """The formats of v1."""
    return words_of(config)._replace(probability_point=config.probability_point, reciprocal_point=config.reciprocal_point)


def as_inputs(values: npt.NDArray[np.float64], config: NumberFormatConfig) -> Int64Array:
    """Values as input words, halves rounded to even, beyond the range the nearest word; int64 like `values`."""
    limit = 2 ** (config.bits - 1)
    return np.clip(np.rint(values * 2**config.point), -limit, limit - 1).astype(np.int64)


@njit(cache=True)
def saturate(value: int, limit: int) -> int:
    """The nearest of −limit − 1 … limit. The released RTL wraps; ours, because a wrapped word says nothing about the machine."""
    return min(max(value, -limit - 1), limit)
