"""The built-in model is a real language model: its attention is sparse, and differs from head to head."""

import json
from pathlib import Path

import numpy as np
import pytest

from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.measuring.attention_profile import SINK_KEYS, attention_profile
from xmsim.workloads.models.built_in import FOLDER, training_record

MOST_SPREAD = 0.9  # entropy / log of the keys a row may see


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return extract_trace("xm-tiny", tokens=1024, out=tmp_path_factory.mktemp("trained") / "trace")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The same architecture and tokenizer with the weights it started from."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(training_record()["plan"]["seed"])
    transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(FOLDER)).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((FOLDER / name).read_bytes())
    return extract_trace(str(folder / "model"), tokens=1024, out=folder / "trace")


def spread_by_layer(trace):
    return [np.mean([head.entropy_ratio for head in attention_profile(trace.read_layer(layer), 0)]) for layer in trace.layers]


def test_the_attention_of_every_layer_is_less_spread_than_uniform(trained):
    assert max(spread_by_layer(trained)) < MOST_SPREAD


def test_the_untrained_model_fails_that_test(untrained):
    assert max(spread_by_layer(untrained)) >= MOST_SPREAD


def test_heads_of_a_layer_differ(trained):
    spread = [[head.entropy_ratio for head in attention_profile(trained.read_layer(layer), 0)] for layer in trained.layers]
    assert min(np.ptp(heads) for heads in spread) > 0.02
    assert max(np.ptp(heads) for heads in spread) > 0.1


def test_shares_of_a_profile_are_those_of_the_probabilities(trained):
    layer = trained.read_layer(trained.layers[-1])
    q, k = layer.q[0, 0].astype(np.float64), layer.k[0, 0].astype(np.float64)
    scores = np.where(np.tril(np.ones((len(q), len(k)), bool)), q @ k.T * layer.scale, -np.inf)
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    far = np.arange(135, len(q))
    head = attention_profile(layer, 0)[0]
    assert head.sink_share == pytest.approx(probabilities[far, :SINK_KEYS].sum(axis=1).mean(), rel=1e-4)
    assert head.local_share == pytest.approx(np.mean([probabilities[i, i - 63 : i + 1].sum() for i in far]), rel=1e-4)


def test_the_model_has_the_shape_its_card_says():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["head_dim"] == 64
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]
    assert config["max_position_embeddings"] >= 2048
    assert (FOLDER / "model.safetensors").stat().st_size <= 16e6
    record = training_record()
    assert 4e6 <= record["parameters"] <= 8e6 and record["trained_tokens"] >= 20e6


def test_the_card_gives_the_scores_of_the_training_record():
    card = (Path(FOLDER).parent / "README.md").read_text()
    test = training_record()["test"]
    assert f"{test['perplexity']:.2f}" in card and f"{test['bits_per_byte']:.3f}" in card
