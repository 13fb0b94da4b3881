"""Masks of activations, in NumPy and torch alike."""

import numpy as np
import pytest
from tests.reference.activations.golden_activations import DISTRIBUTIONS, GOLDEN

from xmsim.reference.activations import (
    keep_first_half,
    keep_first_tokens,
    sparsified,
    threshold_keep,
    token_share_keep,
    wina_column_norms,
    wina_scores,
    wina_thresholds,
)

X = DISTRIBUTIONS["gauss"]


def test_the_published_prefill_is_that_of_the_authors(kind):
    x = kind.of(GOLDEN["prefill_x"])
    keep = keep_first_half(threshold_keep(x, threshold=float(GOLDEN["prefill_thr"])))
    assert np.array_equal(kind.array(sparsified(x, keep)), GOLDEN["prefill_y"])


def test_an_odd_number_of_tokens_keeps_the_larger_half_and_a_single_token_stays_sparse(kind):
    for tokens, dense in ((1, 0), (2, 1), (3, 2), (7, 4)):
        keep = kind.array(keep_first_half(kind.of(np.zeros((1, tokens, 4), bool))))
        assert keep.all(axis=(0, 2)).tolist() == [True] * dense + [False] * (tokens - dense)


def test_first_tokens_stay_dense_the_same_at_once_and_one_by_one(kind):
    keep = np.asarray(threshold_keep(X, threshold=0.7))
    at_once = kind.array(keep_first_tokens(kind.of(keep), dense_tokens=3))
    one_by_one = [
        kind.array(keep_first_tokens(kind.of(keep[:, place : place + 1]), dense_tokens=3, first_position=place))
        for place in range(X.shape[1])
    ]
    assert np.array_equal(at_once, np.concatenate(one_by_one, axis=1))
    assert at_once[:, :3].all()
    assert np.array_equal(at_once[:, 3:], keep[:, 3:])


def test_what_equals_the_threshold_goes_and_nan_stays_visible(kind):
    x = kind.of(np.array([[-1.0, 1.0, 1.5, np.nan, 0.0]], np.float32))
    assert kind.array(threshold_keep(x, threshold=1.0)).tolist() == [[False, False, True, True, False]]
    assert kind.array(threshold_keep(x, threshold=0.0)).tolist() == [[True, True, True, True, False]]
    assert kind.array(threshold_keep(x, threshold=-0.1)).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.999])
def test_every_token_keeps_the_same_number_of_its_largest_inputs(kind, sparsity):
    keep = kind.array(token_share_keep(kind.of(X), sparsity=sparsity))
    kept = 128 - int(128 * sparsity)
    assert (keep.sum(axis=-1) == kept).all()
    largest = np.sort(np.abs(X), axis=-1)[..., -kept]
    assert np.array_equal(keep, np.abs(X) >= largest[..., None])


def test_of_equal_inputs_the_lowest_channel_is_kept(kind):
    assert kind.array(token_share_keep(kind.of(np.ones((1, 6), np.float32)), sparsity=0.5)).tolist() == [[True] * 3 + [False] * 3]


def test_wina_weighs_an_input_with_the_norm_of_its_column(kind):
    weight = np.array([[3.0, 0, 1], [4, 0.5, 0]], np.float32)
    norms = wina_column_norms(kind.of(weight))
    assert kind.array(norms).tolist() == [5, 0.5, 1]
    scores = wina_scores(kind.of(np.array([[-1.0, 6, 2]], np.float32)), norms)
    assert kind.array(scores).tolist() == [[-5, 3, 2]]
    assert kind.array(threshold_keep(scores, threshold=2.5)).tolist() == [[True, True, False]]


def test_thresholds_of_each_channel_keep_what_a_threshold_of_winas_scores_keeps(kind):
    random = np.random.default_rng(7)
    x, weight = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 16), (8, 16)))
    weight[:, 5] = 0
    norms = wina_column_norms(kind.of(weight))
    keep = kind.array(threshold_keep(kind.of(x), threshold=wina_thresholds(1.5, norms)))
    assert np.array_equal(keep, kind.array(threshold_keep(wina_scores(kind.of(x), norms), threshold=1.5)))
    assert not kind.array(threshold_keep(kind.of(x), threshold=wina_thresholds(0.0, norms)))[:, 5].any()  # its column is all zero


def test_wina_keeps_the_output_nearer_than_magnitudes_do():
    random = np.random.default_rng(6)
    weight = random.standard_normal((64, 128)) * np.exp(random.standard_normal(128))
    errors = []
    for scores in (X, wina_scores(X, wina_column_norms(weight))):
        kept = sparsified(X, token_share_keep(scores, sparsity=0.5))
        errors.append(np.linalg.norm((kept - X) @ weight.T))
    assert errors[1] < 0.8 * errors[0]


def test_bad_arguments_are_named():
    keep = np.ones((1, 2, 4), bool)
    with pytest.raises(ValueError, match="threshold: is NaN"):
        threshold_keep(X, threshold=float("nan"))
    with pytest.raises(ValueError, match="threshold: is NaN"):
        threshold_keep(np.ones((1, 2)), threshold=np.array([1, np.nan]))
    with pytest.raises(ValueError, match="sparsity: 1 is not a share"):
        token_share_keep(X, sparsity=1)
    with pytest.raises(ValueError, match="dense_tokens: -1 is negative"):
        keep_first_tokens(keep, dense_tokens=-1)
    with pytest.raises(ValueError, match="first_position: -2 is negative"):
        keep_first_tokens(keep, dense_tokens=1, first_position=-2)
    with pytest.raises(ValueError, match=r"keep: shape \(4,\) is not \[..., tokens, channels\]"):
        keep_first_half(np.ones(4, bool))
    with pytest.raises(ValueError, match=r"keep: shape \(1, 2, 4\) is not that of the inputs"):
        sparsified(X, keep)
    with pytest.raises(ValueError, match=r"column_norms: shape \(4,\) does not fit"):
        wina_scores(X, np.ones(4))
    with pytest.raises(ValueError, match=r"weight: shape \(4,\)"):
        wina_column_norms(np.ones(4))
