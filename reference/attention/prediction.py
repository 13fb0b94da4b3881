"""Low-bit prediction of scores: pruned queries, few-bit integers, one scale a tensor or a head (DynaX, Sanger)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.reference.attention import numpy_integers, torch_integers
from xmsim.reference.attention.arrays import Array, as_numpy, is_tensor, plain_arithmetic, same_kind
from xmsim.reference.attention.heads import heads_per_kv_head

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_SMALLEST = np.float32(1e-36)  # magnitudes up to it count as zero: their steps could pass float32's range


def predict_scores(
    q: Array,
    k: Array,
    *,
    group: int,
    bits: int,
    scale: float,
    q_max: float | Array | None = None,
    k_max: float | Array | None = None,
) -> Array:
    """Scores as low-bit hardware predicts them, before any bias; float32 [..., heads, queries, keys].

    Arguments and errors are those of `predict_integer_scores`. Ranking these is ranking the integers: the factor is
    positive and keeps integers below 2^22 apart in float32.
    """
    _, _, integers, factor = predict_integer_scores(q, k, group=group, bits=bits, scale=scale, q_max=q_max, k_max=k_max)
    arithmetic = torch_integers if is_tensor(q) else numpy_integers
    return arithmetic.as_float32(integers) * same_kind(np.asarray(as_numpy(factor), np.float32)[..., None, None], q)


def predict_integer_scores(
    q: Array,
    k: Array,
    *,
    group: int,
    bits: int,
    scale: float,
    q_max: float | Array | None = None,
    k_max: float | Array | None = None,
) -> tuple[Array, Array, Array, float | Array]:
    """Prune and quantise q, quantise k, and multiply them exactly.

    Of each `group` consecutive channels of a query the one of largest magnitude is kept (the lowest channel among equals).
    Both operands are quantised symmetrically, halves rounded to even, by one scale for the whole tensor, or, where q_max or
    k_max is an array, by one for each of its heads (ours). Tensors are computed on their device, with equal results: a part
    of the heads or of the queries, given the maxima of the whole, equals that part of the whole, bit for bit.

    Args:
        q: float [..., heads, queries, d], after rotary embedding.
        k: float [..., kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        group: channels of which one is kept; divides d; 1 keeps all.
        bits: width of the integers, 2 to 8; the largest is 2^(bits - 1) - 1.
        scale: the softmax scale.
        q_max, k_max: largest magnitudes of the tensors that q and k are part of, a number, or one for each head, [heads]
            and [kv_heads]; values beyond are clamped. None: of these tensors.
    Returns: (q_int int8 like q, k_int int8 like k, scores int32 [..., heads, queries, keys], factor);
        predicted score = integer score × factor. The factor is a float, or float64 [heads] where there is a scale per head.
    Raises: ValueError naming the argument.
    Source: coralabo/DynaX, models/utils/quant_utils.py, modes 1_2_4bit and 1_4_6bit; Sanger is group 1.
    """
    sharing = heads_per_kv_head(q, k)
    arithmetic: Any = torch_integers if is_tensor(q) else numpy_integers
    with plain_arithmetic(q):
        q_values, k_values = arithmetic.as_float32(q), arithmetic.as_float32(k)
        found = (arithmetic.largest_magnitude(values) for values in (q_values, k_values))
        by = quantisation(q.shape, k.shape, *found, group=group, bits=bits, scale=scale, q_max=q_max, k_max=k_max)  # type: ignore[attr-defined]
        q_int = arithmetic.quantise(arithmetic.prune(q_values, group), by.q_top, by.q_steps)
        k_int = arithmetic.quantise(k_values, by.k_top, by.k_steps)
        scores = arithmetic.multiply(q_int, k_int, sharing, wide=q.shape[-1] * by.largest**2 >= 2**24)  # type: ignore[attr-defined]
    return q_int, k_int, scores, same_kind(by.factor, q) if by.factor.ndim else float(by.factor)


@dataclass(frozen=True, slots=True, eq=False)
class Quantisation:
    """Where operands are clamped and by what they are multiplied to become integers; float32 [], or one a head."""

    largest: int  # integer
    q_top: np.ndarray
    k_top: np.ndarray
    q_steps: np.ndarray  # integers per unit
    k_steps: np.ndarray
    factor: np.ndarray  # float64 [] or [heads]; predicted score = integer score × factor


def quantisation(
    q_shape: Sequence[int],
    k_shape: Sequence[int],
    q_found: np.float32,
    k_found: np.float32,
    *,
    group: int,
    bits: int,
    scale: float,
    q_max: Any = None,
    k_max: Any = None,
) -> Quantisation:
    """How operands of these shapes, whose largest magnitudes were found to be these, are quantised; else as `predict_integer_scores`."""
    heads, kv_heads, dim = q_shape[-3], k_shape[-3], q_shape[-1]
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: {bits} must be between 2 and 8")
    if group < 1 or dim % group:
        raise ValueError(f"group: {group} must divide the head dimension, {dim}")
    largest = 2 ** (bits - 1) - 1
    q_top, k_top = _magnitude("q", q_found, q_max, heads), _magnitude("k", k_found, k_max, kv_heads)
    q_steps, k_steps = _steps(q_top, largest), _steps(k_top, largest)
    each_k = k_steps.repeat(heads // kv_heads) if k_steps.ndim else k_steps
    factor = scale / (q_steps.astype(np.float64) * each_k.astype(np.float64))
    return Quantisation(largest, q_top, k_top, q_steps, k_steps, np.asarray(factor))


def _magnitude(name: str, found: np.float32, given: Any, heads: int) -> np.ndarray:
    """The magnitude that an operand is quantised by: what was found in it, or what its caller gave; float32 [] or [heads]."""
    if not np.isfinite(found):
        raise ValueError(f"{name}: NaN or infinity; operands must be finite")
    if given is None:
        return np.asarray(found)
    magnitude = as_numpy(given)
    if magnitude.shape not in ((), (heads,)):
        raise ValueError(f"{name}_max: shape {list(magnitude.shape)} is neither one number nor one for each of {heads} heads")
    if not ((magnitude >= 0) & (magnitude <= _LARGEST_FLOAT32)).all():  # NaN fails every comparison
        raise ValueError(f"{name}_max: {given} must be finite and not negative")
    return magnitude.astype(np.float32)


def _steps(magnitude: np.ndarray, largest: int) -> np.ndarray:
    """Integers per unit; float32 throughout, as the authors' code computes."""
    return np.divide(np.float32(largest), magnitude, out=np.ones_like(magnitude), where=magnitude > _SMALLEST)
