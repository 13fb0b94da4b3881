"""Statistics of calibration inputs."""

import numpy as np
import pytest
import torch
from tests.reference.weights.golden import BASELINES, WANDA, relative

from xmsim.reference.weights import InputProducts, InputSquares, sparsegpt, wanda_keep


@pytest.mark.parametrize("sums", [InputSquares, InputProducts])
def test_sequences_one_by_one_and_in_batches_give_the_same_sums(kind, sums):
    single, batched = sums(), sums()
    for sequence in WANDA["X"]:
        single.add(kind.of(sequence))
    batched.add(kind.of(WANDA["X"][:1]))
    batched.add(kind.of(WANDA["X"][1:]))
    assert single.sequences == batched.sequences == 4
    assert relative(kind.array(batched.squares), kind.array(single.squares).astype(np.float64)) < 1e-6
    assert relative(kind.array(batched.squares) / 4, WANDA["scaler_row"]) < 1e-6


def test_products_are_those_of_sparsegpts_hessian_up_to_two_over_the_sequences(kind):
    sums = InputProducts()
    sums.add(kind.of(BASELINES["X"]))
    assert relative(kind.array(sums.products) * 2 / 4, BASELINES["H"]) < 1e-6


def test_a_hook_gathers_what_a_linear_layer_is_fed():
    linear = torch.nn.Linear(64, 16, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(WANDA["W"]))
    sums = InputSquares()
    handle = linear.register_forward_pre_hook(lambda _, args: sums.add(args[0]))
    for sequence in WANDA["X"]:
        linear(torch.from_numpy(sequence[None]))
    handle.remove()
    assert sums.squares.shape == (64,) and not sums.squares.requires_grad
    assert np.array_equal(~wanda_keep(linear.weight, sums, sparsity=0.5).numpy(), WANDA["prune_mask_unstructured_0.5"])


def test_half_precision_inputs_are_summed_in_float32_under_autocast_too():
    inputs = torch.full((1, 40000, 2), 3.0, dtype=torch.bfloat16)
    sums = InputProducts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums.add(inputs)
    assert sums.products.dtype == torch.float32 and (sums.products == 360000).all()


def test_bad_inputs_are_named(kind):
    weight = kind.of(WANDA["W"])
    with pytest.raises(ValueError, match="inputs: none were given"):
        wanda_keep(weight, [], sparsity=0.5)
    with pytest.raises(ValueError, match="inputs: none were given"):
        wanda_keep(weight, InputSquares(), sparsity=0.5)
    with pytest.raises(ValueError, match="inputs: 63 wide, the weight has 64 inputs"):
        wanda_keep(weight, kind.of(WANDA["X"][0, :, :63]), sparsity=0.5)
    with pytest.raises(ValueError, match="inputs: 63 wide after others of width 64"):
        wanda_keep(weight, [kind.of(WANDA["X"][0]), kind.of(WANDA["X"][0, :, :63])], sparsity=0.5)
    with pytest.raises(ValueError, match=r"inputs: \[tokens, in\] or \[sequences, tokens, in\] is needed, got shape \[64\]"):
        wanda_keep(weight, kind.of(WANDA["X"][0, 0]), sparsity=0.5)
    with pytest.raises(ValueError, match="inputs: contain NaN or infinity"):
        wanda_keep(weight, kind.of(WANDA["X"][0] * np.float32(np.inf)), sparsity=0.5)
    with pytest.raises(ValueError, match="inputs: this method needs products"):
        sparsegpt(weight, InputSquares(), sparsity=0.5)
