"""What holds for every mask: which entries win, how many, and that a part of the scores gives that part of the mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.reference.attention import nm_keep, sanger_keep, topk_keep, window_keep, xm_keep

KEEPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xm": xm_keep,
    "xm_32": lambda s: xm_keep(s, block=32, kept_high=8, kept_low=4),
    "xm_3": lambda s: xm_keep(s, block=3, kept_high=2, kept_low=1, threshold_high=1.2, threshold_low=0.4),
    "nm": nm_keep,
    "nm_2_5": lambda s: nm_keep(s, kept=2, block=5),
    "sanger": sanger_keep,
    "topk": lambda s: topk_keep(s, kept=7),
    "window": lambda s: window_keep(s, window=5, global_tokens=2),
}


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


def assert_largest_kept(values: np.ndarray, keep: np.ndarray) -> None:
    """Kept entries are exactly the first ones by (score descending, index ascending)."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert set(np.flatnonzero(keep)) == set(order[: keep.sum()])


@settings(max_examples=60, deadline=None)
@given(scores=score_arrays(), sizes=st.sampled_from([(64, 16, 8), (32, 8, 4), (5, 3, 1), (4, 4, 0)]))
def test_xm_keeps_none_the_low_or_the_high_number_of_largest_of_each_block(scores: np.ndarray, sizes: tuple[int, int, int]) -> None:
    block, high, low = sizes
    keep = xm_keep(scores, block=block, kept_high=high, kept_low=low)
    assert not keep[scores == -np.inf].any()
    for row, kept in zip(scores.reshape(-1, scores.shape[-1]), keep.reshape(-1, scores.shape[-1]), strict=True):
        for first in range(0, len(row), block):
            values, chosen = row[first : first + block], kept[first : first + block]
            allowed = int((values > -np.inf).sum())
            assert chosen.sum() in {0, min(low, allowed), min(high, allowed)}
            assert_largest_kept(values, chosen)


@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), kept=st.integers(1, 20))
def test_nm_and_topk_keep_exactly_the_largest_allowed_ones(scores: np.ndarray, kept: int) -> None:
    for row, chosen in zip(scores[0], topk_keep(scores, kept=kept)[0], strict=True):
        assert chosen.sum() == min(kept, (row > -np.inf).sum())
        assert_largest_kept(row, chosen)
    for row, chosen in zip(scores[0], nm_keep(scores, kept=kept, block=20)[0], strict=True):
        for first in range(0, len(row), 20):
            values = row[first : first + 20]
            assert chosen[first : first + 20].sum() == min(kept, (values > -np.inf).sum())
            assert_largest_kept(values, chosen[first : first + 20])


@settings(max_examples=40, deadline=None)
@given(scores=score_arrays(), method=st.sampled_from([name for name in KEEPERS if name != "window"]))
def test_a_head_or_a_query_block_alone_gives_that_part_of_the_mask(scores: np.ndarray, method: str) -> None:
    keep = KEEPERS[method](scores)
    head, first = scores.shape[0] - 1, scores.shape[1] // 2
    np.testing.assert_array_equal(KEEPERS[method](scores[head:]), keep[head:])
    np.testing.assert_array_equal(KEEPERS[method](scores[:, first:, :]), keep[:, first:, :])
    np.testing.assert_array_equal(KEEPERS[method](scores[head, first : first + 1, :]), keep[head, first : first + 1, :])


@pytest.mark.parametrize("method", ["xm", "xm_32", "nm", "sanger", "topk"])
def test_parts_equal_the_whole_at_the_size_of_a_layer(method: str) -> None:
    rng = np.random.default_rng(5)
    scores = rng.standard_normal((2, 700, 700), dtype=np.float32) * 3  # above what is looked at in one go, no multiple of 32
    scores[:, ~np.tri(700, dtype=bool)] = -np.inf
    keep = KEEPERS[method](scores)
    np.testing.assert_array_equal(KEEPERS[method](scores[1]), keep[1])
    np.testing.assert_array_equal(KEEPERS[method](scores[:, 256:391]), keep[:, 256:391])


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


def test_an_even_row_is_on_the_threshold_and_keeps_the_low_number() -> None:
    for threshold_low in (0.1, 1.0):  # every share is exactly 1.0: not above threshold_high, nor below threshold_low
        keep = xm_keep(np.zeros((1, 192)), threshold_high=1.0, threshold_low=threshold_low)
        np.testing.assert_array_equal(np.flatnonzero(keep[0]), [*range(8), *range(64, 72), *range(128, 136)])


def test_one_block_has_share_one_whatever_its_scores() -> None:
    scores = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32) * 4
    np.testing.assert_array_equal(xm_keep(scores).sum(axis=-1), 8)


def test_shares_count_the_true_length_of_an_odd_row() -> None:
    scores = np.zeros((1, 65))
    scores[0, 64] = np.log(64 * 0.4 / 0.6)  # the full block has 0.6 of the row: share 0.6 × 65/64, not 0.6 × 2 blocks
    np.testing.assert_array_equal(np.flatnonzero(xm_keep(scores)[0]), [*range(8), 64])


def test_without_thresholds_xm_is_nm() -> None:
    scores = np.random.default_rng(1).standard_normal((2, 9, 200), dtype=np.float32) * 5
    np.testing.assert_array_equal(xm_keep(scores, threshold_high=1e9, threshold_low=0), nm_keep(scores, kept=8, block=64))


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_score_is_refused_by_name(method: str, bad: float) -> None:
    scores = np.zeros((3, 70), dtype=np.float32)
    scores[1, 66] = bad
    with pytest.raises(ValueError, match=r"^scores: NaN or \+inf"):
        KEEPERS[method](scores)


@pytest.mark.parametrize("method", KEEPERS)
def test_rows_without_an_allowed_pair_keep_nothing_and_empty_scores_are_no_error(method: str) -> None:
    assert not KEEPERS[method](np.full((2, 3, 70), -np.inf)).any()
    assert KEEPERS[method](np.zeros((2, 0, 70))).shape == (2, 0, 70)
    assert KEEPERS[method](np.zeros((2, 3, 0))).shape == (2, 3, 0)


@pytest.mark.parametrize(
    "call, argument",
    [
        (lambda s: xm_keep(s, kept_high=65), "kept_high"),
        (lambda s: xm_keep(s, kept_low=17), "kept_low"),
        (lambda s: xm_keep(s, threshold_low=1.1), "threshold_low"),
        (lambda s: nm_keep(s, kept=5, block=4), "kept"),
        (lambda s: sanger_keep(s, threshold=1.0), "threshold"),
        (lambda s: topk_keep(s, kept=0), "kept"),
        (lambda s: window_keep(s, window=0), "window"),
        (lambda s: window_keep(s, window=1, global_tokens=-1), "global_tokens"),
        (lambda s: nm_keep(s[0, 0]), "scores"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(call: Callable[[np.ndarray], np.ndarray], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call(np.zeros((1, 2, 64)))


@pytest.mark.parametrize("method", KEEPERS)
def test_a_tensor_gives_the_same_mask_as_a_tensor(method: str) -> None:
    torch = pytest.importorskip("torch")
    scores = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    keep = KEEPERS[method](scores)  # type: ignore[arg-type]
    assert isinstance(keep, torch.Tensor) and keep.dtype == torch.bool
    np.testing.assert_array_equal(keep.numpy(), KEEPERS[method](scores.float().numpy()))
