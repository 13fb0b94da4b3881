"""Scores of a group of query heads: logarithms of the sum and of the largest of its probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.reference.kinds import Kind

from xmsim.reference.attention import group_max_scores, group_sum_scores, xm_keep

RULES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (group_sum_scores, np.sum),
    "max": (group_max_scores, np.max),
}


@pytest.fixture
def scores() -> np.ndarray:
    """[windows, heads, queries, keys]; one row that no head of a group sees, one that one head does not see."""
    scores = np.random.default_rng(0).standard_normal((2, 6, 40, 90), dtype=np.float32) * 4
    scores[..., ~np.tri(40, 90, 50, dtype=bool)] = -np.inf
    scores[0, :3, 7] = -np.inf
    scores[1, 4, 9] = -np.inf
    return scores


def probabilities(scores: np.ndarray) -> np.ndarray:
    """The plain softmax; zeros where a row sees nothing."""
    weights = np.exp(scores.astype(np.float64))
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)


@pytest.mark.parametrize("rule", RULES)
def test_group_scores_are_the_logarithm_of_the_combined_probabilities(kind: Kind, rule: str, scores: np.ndarray) -> None:
    function, combine = RULES[rule]
    shared = kind.map(function, scores, kv_heads=2)
    assert shared.dtype == np.float64
    expected = combine(probabilities(scores).reshape(2, 2, 3, 40, 90), axis=2)
    np.testing.assert_allclose(np.exp(shared), expected, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(shared == -np.inf, expected == 0)


@pytest.mark.parametrize("rule", RULES)
def test_a_window_a_group_or_some_queries_alone_give_that_part(kind: Kind, rule: str, scores: np.ndarray) -> None:
    function, _ = RULES[rule]
    shared = kind.map(function, scores, kv_heads=2)
    np.testing.assert_array_equal(kind.map(function, scores[1, 3:, 5:9], kv_heads=1), shared[1, 1:, 5:9])
    np.testing.assert_array_equal(function(scores, kv_heads=2), shared)


@pytest.mark.parametrize("rule", RULES)
def test_a_head_that_shares_with_none_keeps_its_own_list(kind: Kind, rule: str, scores: np.ndarray) -> None:
    function, _ = RULES[rule]
    np.testing.assert_array_equal(xm_keep(kind.map(function, scores, kv_heads=6)), xm_keep(scores))


@pytest.mark.parametrize("rule", RULES)
def test_probabilities_too_small_for_float64_keep_their_order(kind: Kind, rule: str) -> None:
    scores = np.zeros((2, 1, 4))
    scores[:, 0, 1:] = [-3000.0, -2000.0, -2500.0]
    np.testing.assert_array_equal(np.argsort(kind.map(RULES[rule][0], scores, kv_heads=1))[0, 0], [1, 3, 2, 0])


@pytest.mark.parametrize("rule", RULES)
def test_group_scores_refuse_bad_arguments_by_name_and_take_empty_ones(kind: Kind, rule: str) -> None:
    function, _ = RULES[rule]
    for shape, kv_heads, message in [
        ((6, 2, 4), 4, "kv_heads: 4 must divide the 6 heads"),
        ((6, 2, 4), 0, "kv_heads: 0 must divide"),
        ((2, 4), 1, r"scores: \[..., heads, queries, keys\] is needed"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            function(kind.of(np.zeros(shape)), kv_heads=kv_heads)
    with pytest.raises(ValueError, match=r"^scores: NaN"):
        function(kind.of(np.full((2, 3, 4), np.nan)), kv_heads=1)
    assert kind.map(function, np.zeros((4, 3, 0)), kv_heads=2).shape == (2, 3, 0)
