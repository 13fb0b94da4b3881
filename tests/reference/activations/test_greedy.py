"""The greedy allocation, on errors that can be followed by hand."""

import numpy as np
import pytest
import torch
from tests.reference.activations.golden_activations import PUBLISHED

from xmsim.configs.errors import RecordError
from xmsim.reference.activations import (
    PROJECTION_INPUTS,
    effective_sparsity,
    greedy_steps,
    nearest_step,
    read_greedy_table,
    tail_error,
    write_greedy_table,
)


def test_the_projection_that_hurts_least_is_raised_and_smaller_ones_by_more():
    parameters = {"q": 4, "k": 1}
    steps = greedy_steps(lambda sparsities: sparsities["q"] ** 2 + sparsities["k"] ** 2 / 8, parameters, step=0.1, until=0.2)
    # q: 0.01 a first step of 0.1, 0.04 the second; k: 0.02 the first step of 0.4, 0.08 the second
    assert [step.sparsities for step in steps] == [
        {"q": pytest.approx(0.1), "k": 0},
        {"q": pytest.approx(0.1), "k": pytest.approx(0.4)},
        {"q": pytest.approx(0.2), "k": pytest.approx(0.4)},
    ]
    assert [step.effective_sparsity for step in steps] == pytest.approx([0.08, 0.16, 0.24])
    assert [step.error for step in steps] == pytest.approx([0.01, 0.03, 0.06])
    assert [step.uniform_error for step in steps] == pytest.approx([1.125 * share**2 for share in (0.08, 0.16, 0.24)])


def test_no_projection_goes_beyond_1_and_all_may_reach_it():
    steps = greedy_steps(lambda sparsities: sum(sparsities.values()), {"q": 1, "k": 1 / 8}, step=0.05, until=1)
    assert max(max(step.sparsities.values()) for step in steps) == 1
    assert steps[-1].sparsities == {"q": 1, "k": 1}
    assert steps[-1].effective_sparsity == 1


@pytest.mark.parametrize(
    ("model", "kv_parameters", "mlp_parameters"), [("Llama_3_8B", 1 / 4, 3.5), ("Mistral_7B", 1 / 4, 3.5), ("Llama_2_7B", 1, 2.6875)]
)
def test_shipped_tables_were_made_with_the_true_numbers_of_parameters(model, kv_parameters, mlp_parameters):
    """The shipped script says 1/8 for k and v of Mistral and Llama 2; the effective sparsities in its tables say otherwise."""
    parameters = dict(
        zip(PROJECTION_INPUTS, (1, kv_parameters, kv_parameters, 1, mlp_parameters, mlp_parameters, mlp_parameters), strict=True)
    )
    for row in PUBLISHED[f"{model}_greedy"].reshape(-1, 8):
        sparsities = dict(zip(PROJECTION_INPUTS, map(float, row[1:]), strict=True))
        assert effective_sparsity(sparsities, parameters) == pytest.approx(row[0], abs=1e-6)
        for name, sparsity in sparsities.items():  # a whole number of steps
            assert sparsity * parameters[name] / 0.05 == pytest.approx(round(sparsity * parameters[name] / 0.05), abs=1e-3)


def test_the_step_nearest_to_a_target_is_picked():
    steps = greedy_steps(lambda sparsities: sparsities["q"], {"q": 1}, step=0.25, until=1)
    assert [nearest_step(steps, target).effective_sparsity for target in (0, 0.3, 0.375, 0.4, 2)] == [0.25, 0.25, 0.25, 0.5, 1]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_the_error_is_the_norm_along_the_last_quarter_of_the_positions(kind):
    dense = np.zeros((1, 8, 2), np.float32)
    output = dense.copy()
    output[0, :6] = 100  # does not count
    output[0, 6:, 0] = [3, 4]
    assert tail_error(kind(output), kind(dense)) == pytest.approx(2.5)  # 5 and 0
    assert tail_error(kind(output), kind(output)) == 0


def test_a_table_comes_back_from_disk_under_the_authors_columns(tmp_path):
    path = tmp_path / "results.csv"
    steps = greedy_steps(lambda sparsities: sparsities["q"] + sparsities["k"] ** 2, {"q": 1, "k": 0.25}, until=0.3)
    write_greedy_table(path, steps)
    assert path.read_text().startswith("Effective Sparsity,Activation Error,Baseline Error,q,k\n")
    assert read_greedy_table(path) == steps


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no step"),
        ("Effective Sparsity,Activation Error,Baseline Error\n0.1,1,1\n", "no step with projections"),
        ("a,b\n1,2\n", "not a table"),
        ("Effective Sparsity,Activation Error,Baseline Error,q\n0.1,1,1,x\n", "not a table"),
        ("Effective Sparsity,Activation Error,Baseline Error,q\n0.1,1\n", "not a table"),
        ("Effective Sparsity,Activation Error,Baseline Error,q\n0.1,1,1,1,1\n", "not a table"),
    ],
)
def test_a_bad_table_is_answered_with_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match=sentence):
        read_greedy_table(path)


def test_bad_arguments_are_named(tmp_path):
    def error(sparsities):
        return 0.0

    with pytest.raises(ValueError, match="step: 0 is not a step"):
        greedy_steps(error, {"q": 1}, step=0)
    with pytest.raises(ValueError, match="until: 2 is not a share"):
        greedy_steps(error, {"q": 1}, until=2)
    with pytest.raises(ValueError, match="parameters: a number above 0"):
        greedy_steps(error, {})
    with pytest.raises(ValueError, match="block_error: gave NaN"):
        greedy_steps(lambda sparsities: float("nan"), {"q": 1})
    with pytest.raises(ValueError, match="steps: the table is empty"):
        nearest_step((), 0.5)
    with pytest.raises(ValueError, match="steps: the table is empty"):
        write_greedy_table(tmp_path / "results.csv", ())
    with pytest.raises(ValueError, match="last_share: 0 is not a share"):
        tail_error(np.ones((1, 4, 2)), np.ones((1, 4, 2)), last_share=0)
    with pytest.raises(ValueError, match="output: shapes"):
        tail_error(np.ones((1, 4, 2)), np.ones((1, 4, 3)))
    with pytest.raises(ValueError, match="no position"):
        tail_error(np.ones((1, 0, 2)), np.ones((1, 0, 2)))
    with pytest.raises(RecordError, match="No such file"):
        read_greedy_table(tmp_path / "none.csv")
