"""Operands of an attention layer as an array that computes in fixed point takes them."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from xmsim.configs.schema import Config
from xmsim.reference.attention import predict_scores
from xmsim.sim.schedule import Int64Array
from xmsim.workloads.attention import AttentionOperands

Floats = npt.NDArray[np.float64]


class WordConfig(Config):
    """Width of an array's words and their fraction bits."""

    bits: Annotated[int, Field(ge=8, le=32)]
    point: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _check_point(self) -> Self:
        if self.point > self.bits - 4:
            raise ValueError(f"point: {self.point} of {self.bits} bits leave no room for an exponential; at most {self.bits - 4}")
        return self


class OperandWords(NamedTuple):
    """Operands as integers scaled by 2^point."""

    q: Int64Array  # [heads, queries, head_dim], times the softmax scale
    k: Int64Array  # [kv_heads, keys, head_dim]
    v: Int64Array  # [kv_heads, keys, head_dim], divided by value_scale
    value_scale: float  # a power of two such that no value passes 1


def operand_words(operands: AttentionOperands, config: WordConfig) -> OperandWords:
    """Operands rounded to the nearest word, and to the largest where they pass it."""
    largest = float(np.abs(operands.v).max())
    value_scale = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
    q = fixed_words(operands.q.astype(np.float64) * operands.scale, config)
    return OperandWords(q, fixed_words(operands.k, config), fixed_words(operands.v / value_scale, config), value_scale)


def fixed_words(values: npt.NDArray[np.floating], config: WordConfig) -> Int64Array:
    """Values rounded to the nearest word, and to the largest where they pass it; int64 like `values`."""
    largest = 2 ** (config.bits - 1) - 1
    return np.clip(np.rint(values * 2.0**config.point), -largest - 1, largest).astype(np.int64)


def alibi_bias(operands: AttentionOperands, head: int) -> Floats:
    """What is added to the scores of each key; float64 [keys], 0 without ALiBi."""
    keys = np.arange(operands.k.shape[1], dtype=np.float64)
    return np.zeros_like(keys) if operands.slopes is None else operands.slopes[head] * keys


def predicted_row_maxima(operands: AttentionOperands, allowed: npt.NDArray[np.bool_], head: int, *, group: int, bits: int) -> Floats:
    """The largest score of each query, as low-bit prediction with 1 of `group` channels has it; float64 [queries].

    Args:
        allowed: the pairs that the dense model computes, bool [queries, keys]; at least one of each query.
    """
    kv_head = head // (len(operands.q) // len(operands.k))
    scores = predict_scores(
        operands.q[head : head + 1],
        operands.k[kv_head : kv_head + 1],
        group=group,
        bits=bits,
        scale=operands.scale,
        q_max=float(np.abs(operands.q).max()),
        k_max=float(np.abs(operands.k).max()),
    )
    maxima: Floats = np.where(allowed, scores[0] + alibi_bias(operands, head), -np.inf).max(axis=-1)
    return maxima


def divide(numerators: Int64Array, denominators: Int64Array, point: int) -> Int64Array:
    """Quotients truncated toward minus infinity to `point` fraction bits, 0 where the denominator is.

    Operands lie below 2^(62 − ceil(point / 2)), and denominators are not negative.
    """
    first = point // 2  # long division in two steps, so that no remainder outgrows 64 bits
    divisors = np.maximum(denominators, 1)
    high = (numerators << first) // divisors
    rest = (numerators << first) - high * divisors
    quotients: Int64Array = (high << (point - first)) + (rest << (point - first)) // divisors
    return np.where(denominators > 0, quotients, 0)
