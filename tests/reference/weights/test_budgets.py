"""How much each layer loses."""

import numpy as np
import pytest
from tests.reference.weights.golden import BUDGETS

from xmsim.reference.weights import alphapruning, median_exponent, outlier_percent, owl, owl_kept, peak_exponent, uniform


def owl_scores():
    """The eight score vectors of the golden data, made again."""
    random = np.random.default_rng(11)
    return [np.abs(random.standard_normal(4096)) * np.exp(random.standard_normal(4096) * c) for c in np.linspace(0.2, 1.2, 8)]


@pytest.mark.parametrize("multiple", [3, 5, 7])
def test_outliers_are_counted_as_the_authors_count_them(kind, multiple):
    percents = [
        outlier_percent([kind.of(s[:1024].reshape(16, 64)), kind.of(s[1024:].reshape(48, 64))], multiple=multiple) for s in owl_scores()
    ]
    assert percents == pytest.approx(BUDGETS[f"owl_D_M{multiple}"], rel=1e-4)


@pytest.mark.parametrize("multiple", [3, 5, 7])
@pytest.mark.parametrize("spread", [0.08, 0.15])
@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_owl_is_the_authors_and_keeps_the_mean(multiple, spread, sparsity):
    budget = owl(BUDGETS[f"owl_D_M{multiple}"], sparsity=sparsity, spread=spread)
    assert budget == pytest.approx(BUDGETS[f"owl_sparsity_M{multiple}_lam{spread}_s{sparsity}"], rel=1e-4)
    assert budget.mean() == pytest.approx(sparsity)


def test_owl_keeps_one_weight_more_of_a_group_where_outliers_are_and_one_less_where_they_are_not():
    assert owl_kept([0.0, 5.0, 10.0], kept=4, block=8, spread=2).tolist() == [3, 4, 5]  # shares 0, 1, 2 about their mean
    assert owl_kept([0.0, 0.0, 0.0, 10.0], kept=2, block=4, spread=2).tolist() == [2, 2, 2, 4]  # -0.5 rounds to the even 0, 1.5 to 2
    assert owl_kept([3.0, 3.0], kept=2, block=4).tolist() == [2, 2]
    with pytest.raises(ValueError, match="kept: 4 of 4 is no pattern"):
        owl_kept([1.0, 2.0], kept=4, block=4)
    with pytest.raises(ValueError, match="spread: -1 must be at least 0"):
        owl_kept([1.0, 2.0], kept=2, block=4, spread=-1)
    with pytest.raises(ValueError, match="spread: blocks would keep 0 to 4 of 4; lower it"):
        owl_kept([1.0, 2.0], kept=2, block=4, spread=4)


def test_exponents_are_the_authors(kind):
    """Within 1e-4; measured 3e-7, their singular values being float32. The start of the tail is the same in every case."""
    weights = [kind.of(weight) for weight in BUDGETS["alpha_W"]]
    assert [peak_exponent(weight) for weight in weights] == pytest.approx(BUDGETS["alpha_peak"], rel=1e-4)
    assert [median_exponent(weight) for weight in weights] == pytest.approx(BUDGETS["alpha_mid"], rel=1e-4)


@pytest.mark.parametrize("spread", [0.2, 0.3])
@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_alphapruning_is_the_authors(spread, sparsity):
    budget = alphapruning(BUDGETS["alpha_peak"], sparsity=sparsity, spread=spread)
    assert budget == pytest.approx(BUDGETS[f"alpha_ratio_eps{spread}_s{sparsity}"], rel=1e-4)


def test_alphapruning_weighs_layers_by_their_parameters():
    parameters = np.array([1, 2, 30, 4])
    budget = alphapruning(BUDGETS["alpha_peak"], sparsity=0.5, parameters=parameters)
    assert (budget * parameters).sum() / parameters.sum() == pytest.approx(0.5)


def test_layers_without_a_difference_get_the_uniform_budget():
    assert uniform(3, sparsity=0.4).tolist() == [0.4] * 3
    assert owl([7.0] * 3, sparsity=0.4) == pytest.approx(0.4)
    assert alphapruning([2.5] * 3, sparsity=0.4) == pytest.approx(0.4)


def test_owl_leaves_a_hundredth_of_a_block_that_would_lose_everything():
    assert owl([0.0, 1.0], sparsity=0.95, spread=0.08) == pytest.approx([0.99, 0.87])


def test_bad_arguments_are_named(kind):
    with pytest.raises(ValueError, match="sparsity: 1 is not a share"):
        uniform(2, sparsity=1)
    for budget in (owl, alphapruning):
        with pytest.raises(ValueError, match="sparsity: -1 is not a share"):
            budget([1.0, 2.0], sparsity=-1)
        with pytest.raises(ValueError, match="spread: 1 must be at least 0 and less than 1"):
            budget([1.0, 2.0], sparsity=0.5, spread=1)
    with pytest.raises(ValueError, match="outlier_percents: one finite number"):
        owl([], sparsity=0.5)
    with pytest.raises(ValueError, match="exponents: one finite number"):
        alphapruning([1.0, np.inf], sparsity=0.5)
    with pytest.raises(ValueError, match=r"spread: sparsities would run from 0\.600 to 1\.200; lower it"):
        alphapruning([1.0, 2.0], sparsity=0.9, spread=1 / 3)
    with pytest.raises(ValueError, match=r"spread: sparsities would run from -0\.100 to 0\.300; lower it"):
        owl([1.0, 2.0], sparsity=0.1, spread=0.2)
    with pytest.raises(ValueError, match="parameters: a positive number for each of the 2 layers"):
        alphapruning([1.0, 2.0], sparsity=0.5, parameters=[3])
    with pytest.raises(ValueError, match="scores: finite ones of at least one layer"):
        outlier_percent([])
    with pytest.raises(ValueError, match="weight: all zero"):
        peak_exponent(kind.of(np.zeros((4, 4), np.float32)))
    with pytest.raises(ValueError, match="weight: fewer than two singular values"):
        peak_exponent(kind.of(np.ones((4, 1), np.float32)))
