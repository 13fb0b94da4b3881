"""What a dense array's arithmetic makes of an attention layer: 16-bit floats in, float32 sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import Field, model_validator

from xmsim.configs.schema import Config
from xmsim.workloads.attention import AttentionOperands

Floats = npt.NDArray[np.float32]

_BITS = 16


class ArithmeticConfig(Config):
    """The 16-bit float that operands, scores, probabilities and results are kept in: 5 and 10 is IEEE's, 8 and 7 is bfloat16."""

    exponent_bits: Annotated[int, Field(ge=2, le=8)]
    fraction_bits: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if 1 + self.exponent_bits + self.fraction_bits != _BITS:
            fitting = _BITS - 1 - self.exponent_bits
            raise ValueError(
                f"fraction_bits: a sign and {self.exponent_bits} exponent bits leave {fitting} of {_BITS}, not {self.fraction_bits}"
            )
        return self


def rounded(values: npt.NDArray[np.floating], config: ArithmeticConfig) -> Floats:
    """Values as the nearest of the format, ties to even, subnormals among them; beyond its range the largest finite one (ours)."""
    bias = 2 ** (config.exponent_bits - 1) - 1
    exact = values.astype(np.float64)
    exponent = np.maximum(np.frexp(exact)[1] - 1, 1 - bias)
    step = np.ldexp(1.0, exponent - config.fraction_bits)
    largest = (2.0 - 2.0**-config.fraction_bits) * 2.0**bias
    return np.clip(np.rint(exact / step) * step, -largest, largest).astype(np.float32)


def attention_output(
    operands: AttentionOperands,
    allowed: npt.NDArray[np.bool_],
    tiles: Sequence[tuple[slice, slice]],
    chain: int | None,
    config: ArithmeticConfig,
) -> npt.NDArray[np.float64]:
    """The output of a layer, float64 [heads, queries, head_dim].

    Queries carry the softmax scale. Sums of products are float32, in the order of the array: `chain` products after each other, and
    the sums of these chains after each other; None: one chain. Scores and probabilities are rounded to 16 bits on their way through
    the score buffer. Between them the softmax unit works in float32: ALiBi, maximum, exponential, division; its row sums are exact
    before they are rounded.

    Args:
        allowed: bool [queries, keys], pairs that the dense model computes.
        tiles: queries, and the keys that they are computed against; every query stands in one.
    """
    heads, _, head_dim = operands.q.shape
    group = heads // len(operands.k)
    q = rounded(operands.q.astype(np.float64) * operands.scale, config)
    k, v = rounded(operands.k, config), rounded(operands.v, config)
    output = np.zeros(operands.q.shape)
    for head in range(heads):
        keys_by_channel, values = np.ascontiguousarray(k[head // group].T), v[head // group]
        slope = np.float32(0.0 if operands.slopes is None else operands.slopes[head])
        for rows, keys in tiles:
            scores = rounded(_product(q[head, rows], keys_by_channel[:, keys], chain or head_dim), config)
            bias = slope * np.arange(keys.start, keys.stop, dtype=np.float32)
            probabilities = rounded(_softmax(np.where(allowed[rows, keys], scores + bias, np.float32(-np.inf))), config)
            output[head, rows] = rounded(_product(probabilities, values[keys], chain or keys.stop - keys.start), config)
    return output


def _softmax(scores: Floats) -> Floats:
    """Rows of float32 that add up to 1; each sees at least one key."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)


@njit(cache=True)
def _product(left: Floats, right: Floats, chain: int) -> Floats:
    """[rows, inner] × [inner, columns] in float32, chain by chain; products of 16-bit floats are exact in it."""
    rows, inner = left.shape
    columns = right.shape[1]
    product = np.zeros((rows, columns), np.float32)
    partial = np.zeros(columns, np.float32)
    for row in range(rows):
        for first in range(0, inner, chain):
            partial[:] = 0
            for k in range(first, min(first + chain, inner)):
                factor = left[row, k]
                for column in range(columns):
                    partial[column] += factor * right[k, column]
            product[row] += partial
    return product
