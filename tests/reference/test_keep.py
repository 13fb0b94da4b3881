"""What holds for every mask: which entries win, how many, and that a part of the scores gives that part of the mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.kinds import Kind

from xmsim.reference.attention import nm_keep, sanger_keep, topk_keep, window_keep, xm_causal_keep, xm_keep

KEEPERS: dict[str, Callable[[Any], Any]] = {
    "xm": xm_keep,
    "xm_32": lambda s: xm_keep(s, block=32, kept_high=8, kept_low=4),
    "xm_3": lambda s: xm_keep(s, block=3, kept_high=2, kept_low=1, threshold_high=1.2, threshold_low=0.4),
    "xm_causal": xm_causal_keep,
    "nm": nm_keep,
    "nm_2_5": lambda s: nm_keep(s, kept=2, block=5),
    "sanger": sanger_keep,
    "topk": lambda s: topk_keep(s, kept=7),
    "window": lambda s: window_keep(s, window=5, global_tokens=2),
}
XM = {"xm": xm_keep, "xm_causal": xm_causal_keep}
SIZES = [(64, 16, 8), (32, 8, 4), (5, 3, 1), (4, 4, 0)]


@st.composite
def score_arrays(draw: st.DrawFn) -> np.ndarray:
    """[heads, queries, keys] of odd sizes, with many ties, pairs that are not allowed and rows without any."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 150)))
    scores = rng.standard_normal(shape, dtype=np.float32) * draw(st.sampled_from([0.3, 2.0, 30.0]))
    if draw(st.booleans()):
        scores = np.round(scores)
    scores[rng.random(shape) < draw(st.sampled_from([0.0, 0.4, 0.95]))] = -np.inf
    return scores


def rows_with_masks(scores: np.ndarray, keep: np.ndarray, block: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each block of each row, with its part of the mask."""
    rows = zip(scores.reshape(-1, scores.shape[-1]), keep.reshape(-1, scores.shape[-1]), strict=True)
    return [(row[at : at + block], kept[at : at + block]) for row, kept in rows for at in range(0, len(row), block)]


def assert_largest_kept(values: np.ndarray, keep: np.ndarray) -> None:
    """Kept entries are exactly the first ones by (score descending, index ascending)."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert set(np.flatnonzero(keep)) == set(order[: keep.sum()])


@pytest.mark.parametrize("method", XM)
@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), sizes=st.sampled_from(SIZES))
def test_xm_keeps_none_the_low_or_the_high_number_of_largest_of_each_block(
    kind: Kind, method: str, scores: np.ndarray, sizes: tuple[int, int, int]
) -> None:
    block, high, low = sizes
    keep = kind.map(XM[method], scores, block=block, kept_high=high, kept_low=low)
    assert not keep[scores == -np.inf].any()
    for values, chosen in rows_with_masks(scores, keep, block):
        allowed = int((values > -np.inf).sum())
        assert chosen.sum() in {0, min(low, allowed), min(high, allowed)}
        assert_largest_kept(values, chosen)


@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), kept=st.integers(1, 20))
def test_nm_and_topk_keep_exactly_the_largest_allowed_ones(kind: Kind, scores: np.ndarray, kept: int) -> None:
    length = scores.shape[-1]
    for keep, block in ((kind.map(topk_keep, scores, kept=kept), length), (kind.map(nm_keep, scores, kept=kept, block=20), 20)):
        for values, chosen in rows_with_masks(scores, keep, block):
            assert chosen.sum() == min(kept, (values > -np.inf).sum())
            assert_largest_kept(values, chosen)


@pytest.mark.parametrize("method", XM)
@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), sizes=st.sampled_from(SIZES), thresholds=st.lists(st.floats(0, 4), min_size=4, max_size=4))
def test_higher_thresholds_never_keep_a_pair_that_lower_ones_drop(
    kind: Kind, method: str, scores: np.ndarray, sizes: tuple[int, int, int], thresholds: list[float]
) -> None:
    block, high, low = sizes
    (low_a, high_a), (low_b, high_b) = sorted(thresholds[:2]), sorted(thresholds[2:])
    loose, strict = (
        kind.map(XM[method], scores, block=block, kept_high=high, kept_low=low, threshold_high=at_high, threshold_low=at_low)
        for at_high, at_low in ((min(high_a, high_b), min(low_a, low_b)), (max(high_a, high_b), max(low_a, low_b)))
    )
    assert not (strict & ~loose).any()


@pytest.mark.parametrize("method", XM)
@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), sizes=st.sampled_from(SIZES[:3]))
def test_with_an_infinite_and_a_zero_threshold_xm_is_nm_of_the_low_number(
    kind: Kind, method: str, scores: np.ndarray, sizes: tuple[int, int, int]
) -> None:
    block, high, low = sizes
    expected = nm_keep(scores, kept=low, block=block)
    for beyond in (np.inf, 1e300):
        keep = kind.map(XM[method], scores, block=block, kept_high=high, kept_low=low, threshold_high=beyond, threshold_low=0.0)
        np.testing.assert_array_equal(keep, expected)


@pytest.mark.parametrize("method", XM)
@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), sizes=st.sampled_from(SIZES), magnitude=st.sampled_from([1.0, 100.0]))
def test_with_zero_thresholds_xm_is_nm_of_the_high_number_where_a_block_has_any_mass(
    kind: Kind, method: str, scores: np.ndarray, sizes: tuple[int, int, int], magnitude: float
) -> None:
    block, high, low = sizes
    scores = scores * np.float32(magnitude)  # 100: masses that float32 takes for zero and float64 does not, and some that are
    top = scores.max(axis=-1, keepdims=True).astype(float)
    mass = np.exp(scores - np.where(top == -np.inf, 0, top))
    keep = kind.map(XM[method], scores, block=block, kept_high=high, kept_low=low, threshold_high=0.0, threshold_low=0.0)
    both = (keep, nm_keep(scores, kept=high, block=block), mass)
    for at in range(0, scores.shape[-1], block):
        kept, expected, masses = (array[..., at : at + block] for array in both)
        has_mass = masses.sum(axis=-1) > 0
        np.testing.assert_array_equal(kept[has_mass], expected[has_mass])
        assert (kept[~has_mass].sum(axis=-1) <= low).all()


@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), method=st.sampled_from(list(KEEPERS)), seed=st.integers(0, 99))
def test_permuted_heads_have_permuted_masks(kind: Kind, scores: np.ndarray, method: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(scores))
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[order]), kind.map(KEEPERS[method], scores)[order])


@settings(max_examples=60, deadline=None)
@given(scores=score_arrays(), method=st.sampled_from([name for name in KEEPERS if name != "window"]))
def test_a_head_or_a_query_block_alone_gives_that_part_of_the_mask(kind: Kind, scores: np.ndarray, method: str) -> None:
    keep = kind.map(KEEPERS[method], scores)
    head, first = scores.shape[0] - 1, scores.shape[1] // 2
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[head:]), keep[head:])
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[:, first:, :]), keep[:, first:, :])
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[head, first : first + 1, :]), keep[head, first : first + 1, :])


@pytest.mark.parametrize("method", ["xm", "xm_32", "xm_causal", "nm", "sanger", "topk"])
def test_parts_equal_the_whole_at_the_size_of_a_layer(kind: Kind, method: str) -> None:
    rng = np.random.default_rng(5)
    scores = rng.standard_normal((3, 700, 700), dtype=np.float32) * 3  # above what is looked at in one go, no multiple of 32
    scores[:, ~np.tri(700, dtype=bool)] = -np.inf
    keep = kind.map(KEEPERS[method], scores)
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[1]), keep[1])
    np.testing.assert_array_equal(kind.map(KEEPERS[method], scores[:, 256:391]), keep[:, 256:391])
    np.testing.assert_array_equal(KEEPERS[method](scores), keep)


def test_a_window_of_a_query_block_needs_only_its_offset() -> None:
    scores = np.where(np.tri(40, dtype=bool), 0.0, -np.inf)
    keep = window_keep(scores, window=6, global_tokens=1)
    np.testing.assert_array_equal(window_keep(scores[10:20], window=6, global_tokens=1, query_offset=10), keep[10:20])
    np.testing.assert_array_equal(window_keep(scores[30:], window=6, global_tokens=1), keep[30:])


def test_a_window_reaches_as_far_as_it_says_and_global_tokens_see_and_are_seen() -> None:
    keep = window_keep(np.zeros((8, 8)), window=2, global_tokens=1)
    assert keep[0].all() and keep[:, 0].all()
    np.testing.assert_array_equal(np.flatnonzero(keep[5]), [0, 4, 5, 6])
    causal = window_keep(np.where(np.tri(8, dtype=bool), 0.0, -np.inf), window=2, global_tokens=0)
    np.testing.assert_array_equal(np.flatnonzero(causal[5]), [4, 5])


@pytest.mark.parametrize("method", XM)
def test_an_even_row_is_on_the_threshold_and_keeps_the_low_number(kind: Kind, method: str) -> None:
    for threshold_low in (0.1, 1.0):  # every share is exactly 1.0: not above threshold_high, nor below threshold_low
        keep = kind.map(XM[method], np.zeros((1, 192)), threshold_high=1.0, threshold_low=threshold_low)
        np.testing.assert_array_equal(np.flatnonzero(keep[0]), [*range(8), *range(64, 72), *range(128, 136)])


@pytest.mark.parametrize("length", [1, 5, 8, 40, 64])
def test_a_row_within_one_block_has_the_share_of_its_length_or_where_allowed_keys_count_one(kind: Kind, length: int) -> None:
    scores = np.random.default_rng(0).standard_normal((500, length), dtype=np.float32) * 4
    np.testing.assert_array_equal(kind.map(xm_keep, scores).sum(axis=-1), min(length, 8) if length / 64 >= 0.1 else 0)
    np.testing.assert_array_equal(kind.map(xm_causal_keep, scores, threshold_low=1.0).sum(axis=-1), min(length, 8))


def test_shares_count_the_true_length_of_an_odd_row(kind: Kind) -> None:
    scores = np.zeros((1, 65))
    scores[0, 64] = np.log(64 * 0.4 / 0.6)  # the full block has 0.6 of the row: share 0.6 × 65/64, not 0.6 × 2 blocks
    np.testing.assert_array_equal(np.flatnonzero(kind.map(xm_keep, scores)[0]), [*range(8), 64])


def test_an_early_causal_row_keeps_the_high_number_only_where_shares_are_of_the_whole_row(kind: Kind) -> None:
    scores = np.where(np.tri(256, dtype=bool), 0.0, -np.inf)  # even rows: of the keys it may see, a block has its even part
    whole, seen = (kind.map(rule, scores).sum(axis=-1) for rule in (xm_keep, xm_causal_keep))
    assert (whole[127], whole[255]) == (2 * 16, 4 * 8)
    assert (seen[127], seen[255]) == (2 * 8, 4 * 8)
    np.testing.assert_array_equal(seen[:64], np.minimum(np.arange(64) + 1, 8))  # one block, share at most 1


def test_where_every_key_may_be_seen_the_two_lengths_are_one(kind: Kind) -> None:
    scores = np.random.default_rng(2).standard_normal((2, 50, 130), dtype=np.float32) * 3
    np.testing.assert_array_equal(kind.map(xm_causal_keep, scores), xm_keep(scores))


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_score_is_refused_by_name(kind: Kind, method: str, bad: float) -> None:
    scores = np.zeros((3, 70), dtype=np.float32)
    scores[1, 66] = bad
    with pytest.raises(ValueError, match=r"^scores: NaN or \+inf"):
        KEEPERS[method](kind.of(scores))


@pytest.mark.parametrize("method", KEEPERS)
def test_rows_without_an_allowed_pair_keep_nothing_and_empty_scores_are_no_error(kind: Kind, method: str) -> None:
    assert not kind.map(KEEPERS[method], np.full((2, 3, 70), -np.inf)).any()
    for shape in ((2, 0, 70), (2, 3, 0), (0, 3, 70)):
        assert kind.map(KEEPERS[method], np.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: xm_keep(s, kept_high=65), "kept_high: 65 must be between 1 and block, 64"),
        (lambda s: xm_keep(s, kept_low=17), "kept_low: 17 must be between 0 and kept_high, 16"),
        (lambda s: xm_keep(s, threshold_low=1.1), "threshold_low: 1.1 must be between 0 and threshold_high, 1.0"),
        (lambda s: xm_causal_keep(s, threshold_high=np.nan), "threshold_low: 0.1 must be between 0 and threshold_high, nan"),
        (lambda s: nm_keep(s, kept=5, block=4), "kept: 5 must be between 1 and block, 4"),
        (lambda s: sanger_keep(s, threshold=1.0), "threshold: 1.0 must be"),
        (lambda s: topk_keep(s, kept=0), "kept: 0 must be at least 1"),
        (lambda s: window_keep(s, window=0), "window: 0 must be at least 1"),
        (lambda s: window_keep(s, window=1, global_tokens=-1), "global_tokens: -1 must not be negative"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name_value_and_rule(kind: Kind, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call(kind.of(np.zeros((1, 2, 64))))


@pytest.mark.parametrize("method", KEEPERS)
def test_scores_of_another_rank_or_number_format_are_refused(kind: Kind, method: str) -> None:
    with pytest.raises(ValueError, match=r"^scores: \[..., queries, keys\] is needed, got shape \[64\]"):
        KEEPERS[method](kind.of(np.zeros(64)))
    with pytest.raises(ValueError, match=r"^scores: float16, .* got int64"):
        KEEPERS[method](kind.of(np.zeros((2, 64), np.int64)))


@pytest.mark.parametrize("method", [name for name in KEEPERS if name.startswith("xm")])
def test_scores_further_apart_than_the_format_reaches_are_ranked_all_the_same(kind: Kind, method: str) -> None:
    for dtype in (np.float32, np.float64):
        scores = np.zeros((1, 4, 130), dtype)
        scores[..., ::2] = np.finfo(dtype).min
        scores[..., 7::9] = np.finfo(dtype).max
        np.testing.assert_array_equal(kind.map(KEEPERS[method], scores), KEEPERS[method](scores))
