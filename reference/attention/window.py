"""A static pattern: a sliding window and a few global tokens, whatever the scores say."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array, as_numpy, same_kind


def window_keep(scores: Array, *, window: int, global_tokens: int = 1, query_offset: int | None = None) -> Array:
    """Keep the allowed pairs less than `window` positions apart, and those of the first `global_tokens` tokens.

    A causal row thus keeps `window` neighbours, itself among them; a bidirectional row 2 × window - 1. A global token is
    seen by every query and sees every key. Of the scores only -inf is read.

    Args:
        scores: float [..., queries, keys], -inf where a pair is not allowed; any length.
        window: reach, in positions.
        global_tokens: leading tokens that are global.
        query_offset: position of the first query; None means that the last query sees the last key.
    Returns: bool [..., queries, keys], True where the score is computed.
    Raises: ValueError naming the argument: window < 1, global_tokens < 0, NaN or +inf in scores.
    Source: the pattern SALO's array serves (DAC 2022; also Longformer); the parameters are ours.
    """
    if window < 1:
        raise ValueError(f"window: {window} must be at least 1")
    if global_tokens < 0:
        raise ValueError(f"global_tokens: {global_tokens} must not be negative")
    values = as_numpy(scores)
    if values.ndim < 2:
        raise ValueError(f"scores: [..., queries, keys] is needed, got shape {list(values.shape)}")
    if not (values < np.inf).all():
        raise ValueError("scores: NaN or +inf; a pair that is not allowed is -inf, every other score is finite")
    queries, keys = values.shape[-2:]
    positions = np.arange(queries)[:, None] + (keys - queries if query_offset is None else query_offset)
    key = np.arange(keys)
    pattern = (np.abs(positions - key) < window) | (key < global_tokens) | (positions < global_tokens)
    return same_kind(pattern & (values > -np.inf), scores)
