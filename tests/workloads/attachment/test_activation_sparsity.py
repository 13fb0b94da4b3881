"""TEAL in a running model: which inputs become zero, what is counted, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmsim.workloads.attachment.activation_policies import find_policy, first_half_dense, sinks_dense
from xmsim.workloads.attachment.activation_sparsity import attach_activation_sparsity
from xmsim.workloads.extraction.activation_histograms import (
    activation_histograms,
    activation_thresholds,
    column_norms,
    wina_channel_thresholds,
)
from xmsim.workloads.models.linear_exchange import linear_layers, sparsify
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = torch.arange(3, 43)[None]
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


def logits(loaded: LoadedModel):
    with torch.inference_mode():
        return loaded.model(TOKENS).logits


def seen_by(loaded: LoadedModel, name: str, thresholds, policy, run=logits):
    """What a layer reads inside and outside, [batch, tokens, channels]."""
    inputs = []
    with attach_activation_sparsity(loaded, thresholds, policy=policy) as attached:
        handle = loaded.model.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        run(loaded)
        handle.remove()
    return torch.cat(inputs, dim=1), attached


def test_as_published_only_the_last_half_of_a_prompt_is_sparsified(loaded: LoadedModel):
    x, attached = seen_by(loaded, DOWN, {DOWN: 0.5}, first_half_dense)
    assert ((x[:, :20] != 0).all()) and (x[:, 20:] == 0).any()
    assert (x[:, 20:][x[:, 20:] != 0].abs() > 0.5).all()
    (layer,) = attached.layers
    assert (layer.name, layer.weights, layer.inputs) == (DOWN, 32 * 48, 20 * 48)
    assert layer.kept == int((x[:, 20:] != 0).sum()) and attached.sparsity == 1 - layer.density


def test_corrected_only_the_first_tokens_of_the_sequence_are_dense(loaded: LoadedModel):
    x, attached = seen_by(loaded, DOWN, {DOWN: 1e9}, sinks_dense)
    assert (x[:, :4] != 0).all() and not x[:, 4:].any()
    assert attached.sparsity == 1.0


def test_corrected_it_makes_no_difference_whether_tokens_come_together_or_one_by_one(loaded: LoadedModel):
    def one_by_one(loaded: LoadedModel):
        with torch.inference_mode():
            cache = loaded.model(TOKENS[:, :2], use_cache=True).past_key_values
            for at in range(2, 40):
                loaded.model(TOKENS[:, at : at + 1], past_key_values=cache, use_cache=True)

    thresholds = {DOWN: 0.5}
    together, first = seen_by(loaded, DOWN, thresholds, sinks_dense)
    in_turn, second = seen_by(loaded, DOWN, thresholds, sinks_dense, one_by_one)
    torch.testing.assert_close(together, in_turn, rtol=1e-4, atol=1e-5)
    assert first.layers == second.layers
    published, _ = seen_by(loaded, DOWN, thresholds, first_half_dense, one_by_one)
    assert (published[:, 2:4] == 0).any()  # a token that comes alone has no first half


def test_layers_of_our_kernels_read_the_same_zeros(small_llama: Path, loaded: LoadedModel):
    thresholds = dict.fromkeys(linear_layers(loaded.model), 0.3)
    with attach_activation_sparsity(loaded, thresholds) as attached:
        plain = logits(loaded)
    kernels = sparsify(load_model(str(small_llama)))
    with attach_activation_sparsity(kernels, thresholds) as ours:
        torch.testing.assert_close(logits(kernels), plain, rtol=1e-3, atol=1e-3)
    assert ours.sparsity == pytest.approx(attached.sparsity, abs=1e-3)


def test_winas_scores_choose_by_the_columns_that_inputs_meet_and_come_nearer_to_the_dense_model(small_llama: Path):
    loaded = load_model(str(small_llama))
    down = loaded.model.get_submodule(DOWN)
    with torch.no_grad():
        down.weight *= torch.logspace(-1, 1, 48)  # small inputs of the last channels matter most
    tokens = [TOKENS[0].tolist()]
    dense, norms = logits(loaded), column_norms(loaded)
    plain = activation_thresholds(activation_histograms(loaded, tokens), {DOWN: 0.7})
    scored = activation_thresholds(activation_histograms(loaded, tokens, column_norms=norms), {DOWN: 0.7})
    distances = []
    for thresholds in (plain, wina_channel_thresholds(scored, norms)):
        with attach_activation_sparsity(loaded, thresholds, policy=sinks_dense) as attached:
            distances.append(float((logits(loaded) - dense).norm()))
        assert attached.sparsity == pytest.approx(0.7, abs=0.05)
    assert distances[1] < 0.5 * distances[0]


def test_thresholds_of_a_models_own_histograms_reach_the_sparsity_asked_for(loaded: LoadedModel):
    histograms = activation_histograms(loaded, [TOKENS[0].tolist()])
    with attach_activation_sparsity(loaded, activation_thresholds(histograms, 0.5), policy=sinks_dense) as attached:
        logits(loaded)
    assert attached.sparsity == pytest.approx(0.5, abs=0.06)  # errors travel, so that later layers read other inputs


def test_afterwards_the_model_is_what_it_was(loaded: LoadedModel):
    before = logits(loaded)
    with pytest.raises(KeyboardInterrupt), attach_activation_sparsity(loaded, {DOWN: 0.5}):
        assert not torch.equal(logits(loaded), before)
        raise KeyboardInterrupt
    assert torch.equal(logits(loaded), before)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ({}, "no activation threshold was given"),
        ({"model.layers.9.mlp.down_proj": 0.5}, r"layers\.9\.mlp\.down_proj: the model has no linear layer of this name"),
        ({"model.norm": 0.5}, r"model\.norm: the model has no linear layer of this name"),
        ({DOWN: float("nan")}, "its activation threshold is NaN"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused_before_a_hook_is_set(loaded: LoadedModel, thresholds, sentence: str):
    with pytest.raises(ModelError, match=sentence), attach_activation_sparsity(loaded, thresholds):
        pass
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_policies_have_names():
    assert find_policy("sinks_dense") is sinks_dense
    with pytest.raises(ModelError, match="no policy first_half; did you mean first_half_dense"):
        find_policy("first_half")
