"""A static pattern: a sliding window and a few global tokens, whatever the scores say."""

from __future__ import annotations

import numpy as np

from xmsim.reference.attention.arrays import Array
from xmsim.reference.attention.positions import keep_pattern


def window_keep(scores: Array, *, window: int, global_tokens: int = 1, dilation: int = 1, query_offset: int | None = None) -> Array:
    """Keep the allowed pairs 0, 1, ... window - 1 times `dilation` positions apart, and those of the first `global_tokens` tokens.

    A causal row thus keeps `window` neighbours, itself among them; a bidirectional row 2 × window - 1. A global token is
    seen by every query and sees every key. Of the scores only -inf is read.

    Args:
        scores: float [..., queries, keys], -inf where a pair is not allowed; any length.
        window: neighbours kept to one side, the query's own position among them.
        global_tokens: leading tokens that are global.
        dilation: positions from one neighbour to the next.
        query_offset: position of the first query; None means that the last query sees the last key.
    Returns: bool [..., queries, keys], True where the score is computed.
    Raises: ValueError naming the argument: window or dilation < 1, global_tokens or query_offset < 0, NaN or +inf in scores.
    Source: the pattern SALO's array serves (DAC 2022; also Longformer); the parameters are ours.
    """
    if window < 1:
        raise ValueError(f"window: {window} must be at least 1")
    if global_tokens < 0:
        raise ValueError(f"global_tokens: {global_tokens} must not be negative")
    if dilation < 1:
        raise ValueError(f"dilation: {dilation} must be at least 1")

    def pattern(query: np.ndarray, key: np.ndarray) -> np.ndarray:
        distance = np.abs(query - key)
        near = (distance < window * dilation) & (distance % dilation == 0)
        return near | (key < global_tokens) | (query < global_tokens)

    return keep_pattern(scores, pattern, query_offset)
