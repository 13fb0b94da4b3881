from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.extraction.capture import capture
from xmsim.workloads.extraction.captured import CapturedLayer
from xmsim.workloads.extraction.extract import extract_windows
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64}
SMALL = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


@dataclass(frozen=True)
class Family:
    """A small model of a family, and what its trace must say."""

    model: str  # class in transformers
    config: str
    arguments: dict[str, Any]
    bias: str
    scale: float = 8**-0.5
    kv_heads: int = 4


FAMILIES = {
    "llama": Family("LlamaForCausalLM", "LlamaConfig", SIZES | {"num_key_value_heads": 2}, "causal", kv_heads=2),
    "mistral": Family(
        "MistralForCausalLM", "MistralConfig", SIZES | {"num_key_value_heads": 2, "sliding_window": 8}, "sliding_window", kv_heads=2
    ),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"num_key_value_heads": 2}, "causal", kv_heads=2),
    "opt": Family("OPTForCausalLM", "OPTConfig", SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "causal", scale=1.0),
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", SMALL, "causal"),
    "gpt_neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES, "causal"),
    "bloom": Family("BloomForCausalLM", "BloomConfig", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "alibi"),
    "bert": Family("BertModel", "BertConfig", SIZES, "none"),
}
WINDOWS = {  # tokens of each window of the batch
    "one window": (24,),
    "two windows, one of them padded": (24, 17),
}


def saved_model(folder: Path, model: str, config: str, arguments: dict[str, Any]) -> Path:
    """A model of random weights on disk, large enough that its attention is far from uniform."""
    torch.manual_seed(1)
    network = getattr(transformers, model)(getattr(transformers, config)(**arguments))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and "emb" not in name:
                weight.normal_(std=0.3)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("models")
    paths = {name: saved_model(folder / name, family.model, family.config, family.arguments) for name, family in FAMILIES.items()}
    return {name: load_model(str(path), tokenizer=False) for name, path in paths.items()}


def token_windows(lengths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    draw = np.random.default_rng(7)
    return tuple(tuple(int(token) for token in draw.integers(0, 64, length)) for length in lengths)


def batch(windows: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    longest = max(map(len, windows))
    ids = torch.tensor([[*window, *[0] * (longest - len(window))] for window in windows])
    valid = torch.tensor([[1] * len(window) + [0] * (longest - len(window)) for window in windows])
    return {"input_ids": ids} if valid.all() else {"input_ids": ids, "attention_mask": valid}


def last(output: Any) -> Any:
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WINDOWS)
def windows(request: pytest.FixtureRequest) -> tuple[tuple[int, ...], ...]:
    return token_windows(WINDOWS[request.param])


@dataclass(frozen=True)
class Runs:
    """The same forward pass, eager and captured."""

    eager: Any
    captured: Any
    probabilities: list[list[Any]]  # of the captured run: [layer][window], valid tokens only


@pytest.fixture
def runs(models: dict[str, LoadedModel], name: str, windows: tuple[tuple[int, ...], ...]) -> Runs:
    loaded, inputs = models[name], batch(windows)
    probabilities: list[list[Any]] = []

    def take(captured: CapturedLayer) -> None:
        probabilities.append([captured.probabilities(window)[0, :, : len(ids), : len(ids)].clone() for window, ids in enumerate(windows)])

    with torch.inference_mode():
        loaded.model.set_attn_implementation("eager")
        eager = loaded.model(**inputs, output_attentions=True)
        with capture(loaded, [len(ids) for ids in windows], take):
            captured = loaded.model(**inputs)
    return Runs(eager, captured, probabilities)


def test_logits_are_those_of_the_eager_model_to_the_bit(runs: Runs, windows: tuple[tuple[int, ...], ...]):
    for window, ids in enumerate(windows):
        assert torch.equal(last(runs.captured)[window, : len(ids)], last(runs.eager)[window, : len(ids)])


def test_probabilities_are_those_of_the_eager_model_to_the_bit(runs: Runs, windows: tuple[tuple[int, ...], ...]):
    assert len(runs.probabilities) == len(runs.eager.attentions) == 2
    for captured, eager in zip(runs.probabilities, runs.eager.attentions, strict=True):
        for window, ids in enumerate(windows):
            assert torch.equal(captured[window], eager[window, :, : len(ids), : len(ids)])
            assert captured[window].max() > 0.5  # uniform would be 1/24: the comparison means something


def test_causal_models_see_no_future(runs: Runs, name: str):
    for layer in runs.probabilities:
        for probabilities in layer:
            future = torch.triu(probabilities, diagonal=1)
            assert bool(future.any()) == (name == "bert")


def reproduced(layer: LayerTrace, window: int, head: int) -> np.ndarray:
    """Attention probabilities from what the trace stores, in float64."""
    operands = layer.head(window, head)
    tokens = len(operands.q)
    scores = operands.q.astype(np.float64) @ operands.k.astype(np.float64).T * layer.scale
    if layer.bias.slopes is not None:
        scores += layer.bias.slopes[head] * np.arange(tokens)
    scores[~layer.bias.allowed(tokens)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_the_stored_operands_reproduce_the_probabilities(
    models: dict[str, LoadedModel], name: str, windows: tuple[tuple[int, ...], ...], runs: Runs, tmp_path: Path
):
    trace = extract_windows(models[name], windows, out=tmp_path / "trace")
    assert trace.layers == (0, 1)
    for number in trace.layers:
        layer = trace.read_layer(number)
        for window in range(len(windows)):
            for head in range(4):
                eager = runs.probabilities[number][window][head].numpy()
                np.testing.assert_allclose(reproduced(layer, window, head), eager, atol=2e-6)


def test_the_trace_says_what_the_model_does(models: dict[str, LoadedModel], name: str, tmp_path: Path):
    trace = extract_windows(models[name], token_windows((24,)), out=tmp_path / "trace")
    family, layer = FAMILIES[name], trace.read_layer(1)
    assert trace.manifest.model.family == name
    assert layer.k.shape == layer.v.shape == (1, family.kv_heads, 24, 8)
    assert layer.scale == pytest.approx(family.scale)
    assert layer.bias.kind == family.bias
    assert layer.bias.window == (8 if name == "mistral" else None)
    assert (layer.q_max, layer.k_max) == (np.abs(layer.q).max(), np.abs(layer.k).max())


def test_alibi_slopes_are_those_of_the_paper(models: dict[str, LoadedModel], tmp_path: Path):
    trace = extract_windows(models["bloom"], token_windows((24,)), out=tmp_path / "trace")
    assert trace.read_layer(0).bias == Bias("alibi", slopes=(2**-2, 2**-4, 2**-6, 2**-8))


def test_a_window_longer_than_the_text_is_still_recorded(models: dict[str, LoadedModel], tmp_path: Path):
    trace = extract_windows(models["mistral"], token_windows((6,)), out=tmp_path / "trace")
    assert trace.read_layer(0).bias == Bias("sliding_window", window=8)


def test_the_model_is_afterwards_as_before(models: dict[str, LoadedModel], name: str):
    loaded, inputs = models[name], batch(token_windows((24,)))
    loaded.model.set_attn_implementation("eager")
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in loaded.model.modules())

    def interrupt(captured: CapturedLayer) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), torch.inference_mode(), capture(loaded, [24], interrupt):
        loaded.model(**inputs)
    assert loaded.model.config._attn_implementation == "eager"
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in loaded.model.modules())


UNSUPPORTED = {
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "mpt": ("MptForCausalLM", "MptConfig", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SIZES | {"num_key_value_heads": 2, "head_dim": 8}),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
}
REASONS = {
    "falcon": "does not use transformers' attention interface",
    "mpt": "does not use transformers' attention interface",
    "t5": "an encoder and a decoder in one",
    "gemma2": "layer 0 changes its scores through a softcap",
    "mamba": "its configuration has no num_attention_heads",
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_an_unsupported_family_is_named_and_nothing_is_written(family: str, tmp_path: Path):
    loaded = load_model(str(saved_model(tmp_path / "model", *UNSUPPORTED[family])), tokenizer=False)
    with pytest.raises(ModelError, match=f"^{family}: this model family cannot be extracted, .*{REASONS[family]}"):
        extract_windows(loaded, token_windows((24,)), out=tmp_path / "trace")
    assert not (tmp_path / "trace").exists()


def test_a_layer_that_was_not_seen_is_an_error(models: dict[str, LoadedModel]):
    loaded = models["llama"]
    with pytest.raises(ModelError, match=r"llama: .* attention was seen in 0 of 2 layers"), capture(loaded, [24], lambda captured: None):
        pass


def test_a_mask_that_no_bias_describes_is_refused(models: dict[str, LoadedModel]):
    loaded = models["llama"]
    prefix = torch.zeros(1, 1, 24, 24)  # every query sees the first half, as in a prefix language model
    prefix[:, :, :12, 12:] = torch.finfo(torch.float32).min
    with pytest.raises(ModelError, match="the mask of layer 0 is neither causal"), torch.inference_mode():  # noqa: SIM117
        with capture(loaded, [24], lambda captured: None):
            loaded.model(**batch(token_windows((24,))), attention_mask=prefix)
