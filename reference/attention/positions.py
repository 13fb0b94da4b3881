"""What the methods share that ask where a query is: its position, and patterns of positions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import Array, same_kind
from xmsim.reference.attention.walk import check_largest, check_scores

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]  # positions of queries [queries, 1] and of keys [keys] -> bool [queries, keys]


def first_position(scores: Any, query_offset: int | None) -> int:
    """The position of the first query; None means that the last query sees the last key.

    Raises:
        ValueError: query_offset < 0.
    """
    if query_offset is None:
        queries, keys = scores.shape[-2:]
        return int(keys - queries)
    if query_offset < 0:
        raise ValueError(f"query_offset: {query_offset} must not be negative")
    return query_offset


def keep_pattern(scores: Array, pattern: Pattern, query_offset: int | None) -> Array:
    """The allowed pairs of a pattern that asks for positions alone, the same for all heads; bool like `scores`.

    Raises:
        ValueError: query_offset < 0; scores with fewer than two dimensions, that are not floating-point, with NaN or with +inf.
    """
    given: Any = scores
    check_scores(given)
    check_largest(given)
    queries, keys = given.shape[-2:]
    positions = first_position(given, query_offset) + np.arange(queries)[:, None]
    kept: Any = same_kind(pattern(positions, np.arange(keys)), given)
    allowed: Array = kept & (given > -np.inf)
    return allowed
