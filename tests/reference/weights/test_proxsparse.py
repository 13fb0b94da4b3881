"""ProxSparse: the proximal operator, the frozen-weight penalty, the training step, the mask."""

import numpy as np
import pytest
import torch
from tests.reference.weights.golden import PROX, TRAINING, relative

from xmsim.reference.weights import (
    frozen_weight_gradient,
    frozen_weight_penalty,
    masked_original,
    project_two_four,
    prox_operator,
    prox_two_four,
    prox_two_four_by_block,
    proxsparse_step,
    two_four_keep,
)

UNIT = PROX["A_W"]
SMALL = (np.random.default_rng(1).standard_normal((32, 64)) * 0.02).astype(np.float32)
BOTH = pytest.mark.parametrize("prox", [prox_two_four, prox_two_four_by_block])


@pytest.fixture(params=["compiled", "in torch"])
def solver(request, monkeypatch):
    """Both ways in which tensors are served: the one for the CPU, and the one for every other device, here on the CPU."""
    if request.param == "in torch":
        monkeypatch.setattr(prox_operator, "_solve_compiled", prox_operator._solve_in_torch)


def objective(result, weight, strength):
    """Of each block, float64."""
    w, z = (np.asarray(x, np.float64).reshape(-1, 4) for x in (result, weight))
    a, b, c, d = np.abs(w).T
    return ((w - z) ** 2).sum(1) / 2 + strength * (a * b * c + b * c * d + c * d * a + d * a * b)


@pytest.mark.parametrize("case", range(9), ids=lambda case: f"lambda={PROX['A_lambda'][case]}")
def test_the_operator_is_the_authors_at_unit_scale(kind, solver, case):
    """Float64 within 1e-6; float32 within 1e-6 of the largest weight, its descents not having settled after 100 sweeps at 0.5 and 1."""
    strength = float(PROX["A_lambda"][case])
    assert np.abs(kind.map(prox_two_four, UNIT.astype(np.float64), strength=strength) - PROX["A_out_f64"][case]).max() < 1e-6
    result = kind.map(prox_two_four, UNIT, strength=strength)
    assert result.dtype == np.float32 and relative(result, PROX["A_out"][case]) < 1e-6
    assert np.array_equal(result != 0, PROX["A_out"][case] != 0)


@pytest.mark.parametrize("case", range(7), ids=lambda case: f"lambda={PROX['B_lambda'][case]}")
def test_the_operator_is_the_authors_at_the_scale_of_models(kind, solver, case):
    result = kind.map(prox_two_four, SMALL, strength=float(PROX["B_lambda"][case]))
    assert relative(result, PROX["B_out"][case]) < 1e-6
    assert np.array_equal(result != 0, PROX["B_out"][case] != 0)


@pytest.mark.parametrize("case", range(8), ids=lambda case: f"lambda={PROX['C_lambda'][case]}")
def test_block_by_block_the_edge_cases_and_their_ties_are_the_authors(kind, solver, case):
    result = kind.map(prox_two_four_by_block, PROX["C_W"], strength=float(PROX["C_lambda"][case]))
    assert np.abs(result - PROX["C_out"][case]).max() < 1e-6
    assert np.array_equal(result != 0, PROX["C_out"][case] != 0)


@pytest.mark.parametrize("case", range(7), ids=lambda case: f"lambda={PROX['B_lambda'][case]}")
def test_in_bfloat16_every_objective_is_within_rounding_of_the_authors(solver, case):
    """We compute in float32 and round once, they round at every step; of equal magnitudes another may survive.

    Rounding w to 8 bits changes a block's objective by at most |gradient| × 2⁻⁹ × |w|, far below 2⁻⁸ of ½‖z‖², the objective at zero.
    """
    strength = float(PROX["B_lambda"][case])
    weight = torch.from_numpy(SMALL).bfloat16()
    result = prox_two_four(weight, strength)
    assert result.dtype == torch.bfloat16
    z = weight.float().numpy()
    rounding = 2**-8 * (z.astype(np.float64).reshape(-1, 4) ** 2).sum(1) / 2
    assert (objective(result.float(), z, strength) <= objective(PROX["B_out_bf16_as_f32"][case], z, strength) + rounding).all()


@BOTH
def test_equal_weights_meet_the_closed_form(kind, solver, prox):
    weight = np.array([[1, 1, 1, 0], [1, -1, 1, 1]], np.float64)
    triple, quadruple = (1.4**0.5 - 1) / 0.2, (2.2**0.5 - 1) / 0.6
    expected = [[triple, triple, triple, 0], [quadruple, -quadruple, quadruple, quadruple]]
    assert kind.map(prox, weight, strength=0.1) == pytest.approx(np.array(expected), abs=1e-6)


@BOTH
def test_scaling_the_weights_is_scaling_the_strength(kind, solver, prox):
    weight = UNIT.astype(np.float64)
    scaled, expected = kind.map(prox, weight * 0.25, strength=0.4), kind.map(prox, weight, strength=0.1) * 0.25
    assert np.abs(scaled - expected).max() < 1e-6


def test_no_random_neighbour_of_the_result_is_better(kind, solver):
    random = np.random.default_rng(5)
    weight = random.standard_normal((64, 4))
    for strength in (0.03, 0.3, 3.0):
        reached = objective(kind.map(prox_two_four, weight, strength=strength), weight, strength)
        for scale in (0.01, 0.3, 1.0):
            other = kind.map(prox_two_four, weight, strength=strength) + random.standard_normal(weight.shape) * scale
            assert (objective(other, weight, strength) >= reached - 1e-9).all()
        assert (objective(project_two_four(weight), weight, strength) >= reached - 1e-9).all()


def test_block_by_block_nothing_depends_on_the_other_blocks(kind, solver):
    alone = [kind.map(prox_two_four_by_block, row[None], strength=0.5) for row in UNIT]
    assert np.array_equal(kind.map(prox_two_four_by_block, UNIT, strength=0.5), np.concatenate(alone))


@pytest.mark.parametrize("blocks", [1, 15, 17, 8191, 8193])
def test_every_number_of_blocks_is_served(solver, blocks):
    weight = np.random.default_rng(blocks).standard_normal((blocks, 4))
    result = prox_two_four(torch.from_numpy(weight), 0.7).numpy()
    assert np.abs(result - prox_two_four(weight, 0.7)).max() < 1e-6


def test_the_whole_tensor_ends_together_as_published_and_block_by_block_each_for_itself(solver):
    weight = UNIT.astype(np.float64)
    judged, tensor = prox_two_four(weight, 0.25), torch.from_numpy(weight)
    assert np.abs(prox_two_four(tensor, 0.25).numpy() - judged).max() < 1e-15  # the same sweep was everyone's last
    assert 1e-10 < np.abs(prox_two_four_by_block(tensor, 0.25).numpy() - judged).max() < 1e-6


@BOTH
def test_zeros_infinite_pull_and_no_pull(kind, solver, prox):
    assert not kind.map(prox, np.zeros((2, 8), np.float32), strength=1.0).any()
    assert kind.map(prox, np.zeros((0, 8), np.float32), strength=1.0).shape == (0, 8)
    assert np.array_equal(kind.map(prox, UNIT, strength=0.0), UNIT)
    assert np.array_equal(kind.map(prox, UNIT, strength=1e6), project_two_four(UNIT))


def test_a_parameter_gets_no_gradient_and_stays_as_it_is(solver):
    weight = torch.nn.Parameter(torch.from_numpy(UNIT).half())
    result = prox_two_four(weight.reshape(2, 4, 16), 0.3)
    assert result.shape == (2, 4, 16) and result.dtype == torch.float16 and not result.requires_grad
    assert torch.equal(weight.detach(), torch.from_numpy(UNIT).half())


def test_bad_arguments_of_the_operator_are_named(kind):
    weight = kind.of(UNIT)
    with pytest.raises(ValueError, match="strength: -1 must be at least 0 and finite"):
        prox_two_four(weight, -1)
    with pytest.raises(ValueError, match="strength: nan must be"):
        prox_two_four(weight, float("nan"))
    with pytest.raises(ValueError, match=r"weight: \[..., in\] with in a multiple of 4 is needed, got shape \[8, 15\]"):
        prox_two_four(weight[:, :15], 1)
    with pytest.raises(ValueError, match="weight: contains NaN or infinity"):
        prox_two_four(weight * float("nan"), 1)
    with pytest.raises(ValueError, match="weight: numbers of a float format"):
        prox_two_four(kind.of(np.ones((2, 4), np.int64)), 1)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_the_penalty_and_its_gradient_are_the_authors(kind, epsilon):
    w, w0 = kind.of(TRAINING["W"]), kind.of(TRAINING["W0"])
    assert float(frozen_weight_penalty(w, w0, epsilon=epsilon)) == pytest.approx(float(TRAINING[f"loss_eps{epsilon}"]), rel=1e-5)
    assert relative(kind.array(frozen_weight_gradient(w, w0, epsilon=epsilon)), TRAINING[f"grad_eps{epsilon}"]) < 1e-5


def test_the_gradient_is_that_of_the_penalty():
    w, w0 = (torch.from_numpy(TRAINING[name].astype(np.float64)) for name in ("W", "W0"))
    w.requires_grad_()
    frozen_weight_penalty(w, w0, epsilon=0.1).backward()
    assert (w.grad - frozen_weight_gradient(w, w0, epsilon=0.1)).abs().max() < 1e-12


def test_twenty_steps_of_training_are_the_authors(kind):
    x, original = (kind.of(TRAINING[name]) for name in ("X", "W0"))
    weight = original
    rate, lambda1 = float(TRAINING["traj_lr"]), float(TRAINING["traj_lambda"])
    for expected in TRAINING["traj"]:
        gradient = (x @ (weight - original).T).T @ x / len(x)
        weight = proxsparse_step(weight, gradient, original, lambda1=lambda1, lambda2=0, epsilon=0.1, update=lambda w, g: w - rate * g)
        assert np.abs(kind.array(weight) - expected).max() < 1e-5
    assert [(traj != 0).mean() for traj in TRAINING["traj"]] == pytest.approx(TRAINING["traj_nnz"])


def test_a_step_adds_the_frozen_weight_gradient_and_shrinks_by_lambda_1_whatever_the_learning_rate(kind):
    w, w0 = kind.of(TRAINING["W"]), kind.of(TRAINING["W0"])
    options = {"lambda1": 5.0, "lambda2": 0.25, "epsilon": 0.5}
    still = proxsparse_step(w, w * 0, w0, **options, update=lambda weight, gradient: weight)
    assert relative(kind.array(still), TRAINING["prox_lambda5"]) < 1e-6
    moved = proxsparse_step(w, w * 0, w0, **options, update=lambda weight, gradient: weight - 0.1 * gradient)
    expected = prox_two_four(w - 0.1 * 0.25 * frozen_weight_gradient(w, w0, epsilon=0.5), 5.0)
    assert np.array_equal(kind.array(moved), kind.array(expected))


def test_the_mask_comes_from_the_trained_weights_and_the_values_from_the_original_ones(kind):
    trained, original = kind.of(TRAINING["prox_lambda5"]), kind.of(TRAINING["W0"])
    assert np.array_equal(kind.array(two_four_keep(trained)), TRAINING["mask_from_prox"] != 0)
    pruned = kind.array(masked_original(original, trained))
    assert np.array_equal(pruned, TRAINING["masked_original"])
    assert not np.signbit(pruned[pruned == 0]).any()  # zeros a bitmap can tell
    assert np.array_equal(kind.array(project_two_four(trained)), TRAINING["prox_lambda5"] * TRAINING["mask_from_prox"])


def test_bad_arguments_of_training_are_named(kind):
    w = kind.of(TRAINING["W"])
    with pytest.raises(ValueError, match="epsilon: 0 must be above 0"):
        frozen_weight_penalty(w, w, epsilon=0)
    with pytest.raises(ValueError, match=r"original: shape \[16, 16\], the trained weight's is \[16, 32\]"):
        frozen_weight_gradient(w, w[:, :16], epsilon=0.1)
    with pytest.raises(ValueError, match=r"original: shape \[16, 16\]"):
        masked_original(w[:, :16], w)
    with pytest.raises(ValueError, match="weight: all zero"):
        two_four_keep(w * 0)
    with pytest.raises(ValueError, match="block: 4 does not divide the 30 inputs"):
        two_four_keep(w[:, :30])
