"""Low-bit prediction of scores: pruned queries, few-bit integers, one scale a tensor (DynaX, Sanger)."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array, as_numpy, same_kind
from xmsim.reference.attention.heads import heads_per_kv_head


def predict_scores(
    q: Array, k: Array, *, group: int, bits: int, scale: float, q_max: float | None = None, k_max: float | None = None
) -> Array:
    """Scores as low-bit hardware predicts them, before any bias; float32 [..., heads, queries, keys].

    Arguments and errors are those of `predict_integer_scores`. Ranking these is ranking the integers: the factor is
    positive and keeps integers below 2^22 apart in float32.
    """
    _, _, integers, factor = predict_integer_scores(as_numpy(q), as_numpy(k), group=group, bits=bits, scale=scale, q_max=q_max, k_max=k_max)
    return same_kind(integers.astype(np.float32) * np.float32(factor), q)


def predict_integer_scores(
    q: Array, k: Array, *, group: int, bits: int, scale: float, q_max: float | None = None, k_max: float | None = None
) -> tuple[Array, Array, Array, float]:
    """Prune and quantise q, quantise k, and multiply them exactly.

    Of each `group` consecutive channels of a query the one of largest magnitude is kept (the lowest channel among equals).
    Both operands are quantised symmetrically, one scale for the whole tensor, halves rounded to even.

    Args:
        q: float [..., heads, queries, d], after rotary embedding.
        k: float [..., kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        group: channels of which one is kept; divides d; 1 keeps all.
        bits: width of the integers, 2 to 8; the largest is 2^(bits - 1) - 1.
        scale: the softmax scale.
        q_max, k_max: largest magnitudes of the tensors that q and k are part of; values beyond are clamped. None: of these.
    Returns: (q_int int8 like q, k_int int8 like k, scores int32 [..., heads, queries, keys], factor);
        predicted score = integer score × factor.
    Raises: ValueError naming the argument.
    Source: coralabo/DynaX, models/utils/quant_utils.py, modes 1_2_4bit and 1_4_6bit; Sanger is group 1.
    """
    q_values, k_values = as_numpy(q).astype(np.float32), as_numpy(k).astype(np.float32)
    sharing = heads_per_kv_head(q_values, k_values)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: {bits} must be between 2 and 8")
    if group < 1 or q_values.shape[-1] % group:
        raise ValueError(f"group: {group} must divide the head dimension, {q_values.shape[-1]}")
    for name, values in (("q", q_values), ("k", k_values)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: NaN or infinity; operands must be finite")
    for name, magnitude in (("q_max", q_max), ("k_max", k_max)):
        if magnitude is not None and not 0 <= magnitude < np.inf:
            raise ValueError(f"{name}: {magnitude} must be finite and not negative")
    largest = 2 ** (bits - 1) - 1
    q_int, q_steps = _quantise(_prune(q_values, group), largest, q_max)
    k_int, k_steps = _quantise(k_values, largest, k_max)
    # sums of integer products are exact in float32 below 2^24 and in float64 below 2^53, and far faster there than in int64
    exact = np.float32 if q_values.shape[-1] * largest**2 < 2**24 else np.float64
    k_shared = np.repeat(k_int.astype(exact), sharing, axis=-3)
    scores = (q_int.astype(exact) @ k_shared.swapaxes(-1, -2)).astype(np.int32)
    factor = float(scale) / (float(q_steps) * float(k_steps))
    return same_kind(q_int, q), same_kind(k_int, k), same_kind(scores, q), factor


def _prune(q: np.ndarray, group: int) -> np.ndarray:
    groups = q.reshape(*q.shape[:-1], -1, group)
    largest = np.abs(groups).argmax(axis=-1, keepdims=True)  # the first of equals
    return np.where(np.arange(group) == largest, groups, np.float32(0)).reshape(q.shape)


def _quantise(values: np.ndarray, largest: int, magnitude: float | None) -> tuple[np.ndarray, np.float32]:
    """The integers, and the steps per unit; float32 throughout, as the authors' code computes."""
    top = np.float32(np.abs(values).max(initial=0.0) if magnitude is None else magnitude)
    steps = np.float32(largest) / top if top > 0 else np.float32(1)  # all zero: any scale gives zeros
    return np.clip(np.rint(values * steps), -largest, largest).astype(np.int8), steps
