"""Wanda."""

import numpy as np
import pytest
import torch
from tests.reference.weights.golden import WANDA, relative

from xmsim.reference.weights import InputProducts, wanda_alpha_keep, wanda_keep, wanda_scores


def sequences(kind):
    return [kind.of(sequence) for sequence in WANDA["X"]]


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.6, 0.7])
def test_each_row_loses_what_the_authors_code_prunes(kind, sparsity):
    keep = kind.array(wanda_keep(kind.of(WANDA["W"]), sequences(kind), sparsity=sparsity))
    assert np.array_equal(~keep, WANDA[f"prune_mask_unstructured_{sparsity}"])


@pytest.mark.parametrize("kept, block", [(2, 4), (4, 8)])
def test_each_block_loses_what_the_authors_code_prunes(kind, kept, block):
    keep = kind.array(wanda_keep(kind.of(WANDA["W"]), sequences(kind), kept=kept, block=block))
    assert np.array_equal(~keep, WANDA[f"prune_mask_{kept}_{block}"])


def test_the_variant_prunes_what_the_authors_code_prunes(kind):
    keep = kind.array(wanda_alpha_keep(kind.of(WANDA["W"]), sequences(kind), sparsity=0.5))
    assert np.array_equal(~keep, WANDA["variant_mask_0.5"])


def test_the_scores_are_the_authors(kind):
    assert relative(kind.array(wanda_scores(kind.of(WANDA["W"]), sequences(kind))), WANDA["metric"]) < 1e-6


def test_one_array_and_gathered_products_serve_as_well_as_sequences(kind):
    weight, products = kind.of(WANDA["W"]), InputProducts()
    products.add(kind.of(WANDA["X"]))
    for inputs in (kind.of(WANDA["X"].reshape(-1, 64)), products):
        keep = kind.array(wanda_keep(weight, inputs, sparsity=0.5))
        assert np.array_equal(~keep, WANDA["prune_mask_unstructured_0.5"])


def test_numpy_statistics_serve_a_tensor_and_tensors_an_array():
    expected = ~WANDA["prune_mask_2_4"]
    assert np.array_equal(wanda_keep(torch.from_numpy(WANDA["W"]), list(WANDA["X"]), kept=2, block=4).numpy(), expected)
    assert np.array_equal(wanda_keep(WANDA["W"], [torch.from_numpy(x) for x in WANDA["X"]], kept=2, block=4), expected)


def test_weights_of_equal_score_go_lowest_index_first_and_exactly_as_many_as_asked(kind):
    weight, inputs = np.ones((3, 8), np.float32), np.ones((2, 8), np.float32)
    inputs[:, 5:] = 0  # dead inputs score 0
    keep = kind.map(wanda_keep, weight, inputs, sparsity=0.5)
    assert keep.astype(int).tolist() == [[0, 1, 1, 1, 1, 0, 0, 0]] * 3
    assert kind.map(wanda_keep, weight, inputs, sparsity=0.0).all()


def test_the_variant_leaves_every_weight_where_even_the_smallest_exceeds_its_share(kind):
    keep = kind.map(wanda_alpha_keep, np.ones((2, 4), np.float32), np.ones((2, 4), np.float32), sparsity=0.1)
    assert keep.all()


def test_bfloat16_weights_are_ranked_as_their_values():
    weight = torch.from_numpy(WANDA["W"]).bfloat16()
    inputs = [torch.from_numpy(x) for x in WANDA["X"]]
    judged = wanda_keep(weight.float().numpy(), list(WANDA["X"]), kept=2, block=4)
    assert np.array_equal(wanda_keep(weight, inputs, kept=2, block=4).numpy(), judged)


def test_bad_arguments_are_named(kind):
    weight, inputs = kind.of(WANDA["W"]), kind.of(WANDA["X"][0])
    with pytest.raises(ValueError, match=r"sparsity: 1\.0 is not a share"):
        wanda_keep(weight, inputs, sparsity=1.0)
    with pytest.raises(ValueError, match=r"sparsity: 1\.5 is not a share"):
        wanda_alpha_keep(weight, inputs, sparsity=1.5)
    with pytest.raises(ValueError, match="sparsity: give either"):
        wanda_keep(weight, inputs, sparsity=0.5, kept=2, block=4)
    with pytest.raises(ValueError, match="block: 5 does not divide the 64 inputs"):
        wanda_keep(weight, inputs, kept=2, block=5)
    with pytest.raises(ValueError, match="weight: all zero"):
        wanda_keep(weight * 0, inputs, sparsity=0.5)
    with pytest.raises(ValueError, match="weight: contains NaN"):
        wanda_keep(weight * float("nan"), inputs, sparsity=0.5)
