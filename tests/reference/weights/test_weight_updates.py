"""SparseGPT and ADMM: pruning that mends the weights that stay."""

import numpy as np
import pytest
import torch
from tests.reference.weights.golden import BASELINES, output_error, relative

from xmsim.reference.weights import InputProducts, Pruned, admm, admm_by_row, sparsegpt

CASES = {
    "sparsegpt_unstructured_0.5": lambda w, x: sparsegpt(w, x, sparsity=0.5),
    "sparsegpt_unstructured_0.5_bs32": lambda w, x: sparsegpt(w, x, sparsity=0.5, columns=32),
    "sparsegpt_2_4": lambda w, x: sparsegpt(w, x, kept=2, block=4),
    "sparsegpt_4_8": lambda w, x: sparsegpt(w, x, kept=4, block=8),
    "sparsegpt_4_8_bs32": lambda w, x: sparsegpt(w, x, kept=4, block=8, columns=32),
    "admm_unstructured_0.5": lambda w, x: admm(w, x, sparsity=0.5),
    "admm_unstructured_0.5_noiter": lambda w, x: admm(w, x, sparsity=0.5, mask_iterations=0),
    "admm_unstructured_0.5_perout": lambda w, x: admm_by_row(w, x, sparsity=0.5),
    "admm_2_4": lambda w, x: admm(w, x, kept=2, block=4),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_and_mask_are_the_authors(kind, case):
    """Within 1e-4 of the largest weight; measured 2e-6 at most, which is the authors' float32 against our order of sums.

    ADMM prunes exactly int(size × sparsity) weights; SparseGPT one more than that in each group of columns, as published.
    """
    pruned = CASES[case](kind.of(BASELINES["W"]), [kind.of(sequence) for sequence in BASELINES["X"]])
    weight, keep = kind.array(pruned.weight), kind.array(pruned.keep)
    assert weight.dtype == np.float32
    assert np.array_equal(keep, BASELINES[case] != 0) and not weight[~keep].any()
    assert relative(weight, BASELINES[case]) < 1e-4
    assert output_error(weight) == pytest.approx(float(BASELINES[f"relerr_{case}"]), rel=1e-4)


def test_one_gathering_of_inputs_serves_many_layers(kind):
    sums = InputProducts()
    sums.add(kind.of(BASELINES["X"]))
    before = kind.array(sums.products).copy()
    for case in ("sparsegpt_2_4", "admm_2_4"):
        assert relative(kind.array(CASES[case](kind.of(BASELINES["W"]), sums).weight), BASELINES[case]) < 1e-4
    assert np.array_equal(kind.array(sums.products), before)


@pytest.mark.parametrize("method", [sparsegpt, admm], ids=["sparsegpt", "admm"])
def test_the_given_weight_is_left_alone_and_the_result_has_its_format(method):
    weight = torch.nn.Parameter(torch.from_numpy(BASELINES["W"]).bfloat16())
    before = weight.detach().clone()
    pruned = method(weight, torch.from_numpy(BASELINES["X"]), kept=2, block=4)
    assert isinstance(pruned, Pruned) and pruned.weight.dtype == torch.bfloat16 and not pruned.weight.requires_grad
    assert torch.equal(weight.detach(), before)
    assert (pruned.keep.reshape(-1, 4).sum(1) == 2).all()


def test_columns_of_dead_inputs_are_pruned_whole_and_change_nothing_else(kind):
    inputs = BASELINES["X"].copy()
    inputs[..., 8:12] = 0
    pruned = sparsegpt(kind.of(BASELINES["W"]), kind.of(inputs), sparsity=0.3)
    keep = kind.array(pruned.keep)
    assert not keep[:, 8:12].any() and keep.mean() == pytest.approx(0.7, abs=2e-3)


def test_a_group_of_columns_that_the_layer_does_not_fill_is_pruned_too(kind):
    pruned = sparsegpt(kind.of(BASELINES["W"]), kind.of(BASELINES["X"]), kept=2, block=4, columns=48)
    assert (kind.array(pruned.keep).reshape(-1, 4).sum(axis=1) == 2).all()
    assert relative(kind.array(pruned.weight), BASELINES["sparsegpt_2_4"]) < 1e-4  # groups change the order of the work only


@pytest.mark.parametrize("method", [sparsegpt, admm], ids=["sparsegpt", "admm"])
def test_nothing_is_lost_at_zero_sparsity(kind, method):
    pruned = method(kind.of(BASELINES["W"]), kind.of(BASELINES["X"]), sparsity=0.0)
    assert kind.array(pruned.keep).all() and relative(kind.array(pruned.weight), BASELINES["W"]) < 1e-4


def test_bad_arguments_are_named(kind):
    weight, inputs = kind.of(BASELINES["W"]), kind.of(BASELINES["X"])
    for method in (sparsegpt, admm):
        with pytest.raises(ValueError, match="sparsity: 1 is not a share"):
            method(weight, inputs, sparsity=1)
        with pytest.raises(ValueError, match="block: 7 does not divide"):
            method(weight, inputs, kept=2, block=7)
        with pytest.raises(ValueError, match="weight: all zero"):
            method(weight * 0, inputs, sparsity=0.5)
    with pytest.raises(ValueError, match="sparsity: 1 is not a share"):
        admm_by_row(weight, inputs, sparsity=1)
    with pytest.raises(ValueError, match="columns: 30 must be a positive multiple of block, 4"):
        sparsegpt(weight, inputs, kept=2, block=4, columns=30)
    with pytest.raises(ValueError, match="damping: 0 must be positive"):
        sparsegpt(weight, inputs, sparsity=0.5, damping=0)
    with pytest.raises(ValueError, match="damping: too small"):
        sparsegpt(weight, inputs[:1, :8] * 100, sparsity=0.5, damping=1e-25)
    with pytest.raises(ValueError, match="iterations: 5 must be at least 1 and at least mask_iterations, 15"):
        admm(weight, inputs, sparsity=0.5, iterations=5)
