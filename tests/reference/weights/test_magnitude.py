"""Magnitude pruning."""

import numpy as np
import pytest
import torch
from tests.reference.weights.golden import WANDA

from xmsim.reference.weights import magnitude_keep


def test_it_prunes_what_the_authors_code_prunes(kind):
    assert np.array_equal(~kind.map(magnitude_keep, WANDA["W"], sparsity=0.5), WANDA["magnitude_mask_0.5"])
    assert np.array_equal(~kind.map(magnitude_keep, WANDA["W"], kept=2, block=4), WANDA["magnitude_mask_2_4"])


def test_nothing_goes_at_zero_and_numpy_and_torch_agree_in_bfloat16_steps():
    weight = torch.randn(40, 60, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert magnitude_keep(weight, sparsity=0).all()
    for options in ({"sparsity": 0.3}, {"sparsity": 0.9}, {"sparsity": 0.999}, {"kept": 1, "block": 3}, {"kept": 4, "block": 4}):
        assert np.array_equal(magnitude_keep(weight.float().numpy(), **options), magnitude_keep(weight, **options).numpy())


def test_of_equal_magnitudes_in_a_block_the_lowest_index_goes_first(kind):
    keep = kind.map(magnitude_keep, np.array([[1, -1, 1, 1, 0, 2, 0, 0]], np.float32), kept=2, block=4)
    assert keep.astype(int).tolist() == [[0, 0, 1, 1, 0, 1, 0, 1]]


def test_bad_arguments_are_named(kind):
    ones = kind.of(np.ones((2, 6), np.float32))
    with pytest.raises(ValueError, match="sparsity: 1 is not a share"):
        magnitude_keep(ones, sparsity=1)
    with pytest.raises(ValueError, match=r"sparsity: -0\.1 is not a share"):
        magnitude_keep(ones, sparsity=-0.1)
    for options in ({}, {"sparsity": 0.5, "kept": 2, "block": 4}, {"kept": 2}, {"block": 4}, {"sparsity": 0.5, "block": 4}):
        with pytest.raises(ValueError, match="sparsity: give either sparsity, or kept and block"):
            magnitude_keep(ones, **options)
    with pytest.raises(ValueError, match="kept: 5 must be between 1 and block, 4"):
        magnitude_keep(ones, kept=5, block=4)
    with pytest.raises(ValueError, match="block: 4 does not divide the 6 inputs"):
        magnitude_keep(ones, kept=2, block=4)
    with pytest.raises(ValueError, match=r"weight: \(0, 2\) has no elements"):
        magnitude_keep(kind.of(np.ones((0, 2), np.float32)), sparsity=0.5)
    with pytest.raises(ValueError, match=r"weight: \[out, in\] is needed, got shape \[2\]"):
        magnitude_keep(ones[0, :2], sparsity=0.5)
    with pytest.raises(ValueError, match="weight: numbers of a float format"):
        magnitude_keep(kind.of(np.ones((2, 2), np.int32)), sparsity=0.5)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="weight: contains NaN or infinity"):
            magnitude_keep(ones * value, sparsity=0.5)
    with pytest.raises(ValueError, match="weight: all zero"):
        magnitude_keep(ones * 0, sparsity=0.5)
