"""ProxSparse end to end: 2:4 in every layer, original weights under the mask, published presets, interrupted runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import ConfigError, XmsimError
from xmsim.reference.weights import frozen_weight_penalty, magnitude_keep, prox_two_four
from xmsim.workloads.evaluation import read_evaluation
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.pruning.pattern import parse_pattern, pattern_groups
from xmsim.workloads.pruning.proxsparse import ProxSparseLoop, SampleWindows, train_proxsparse
from xmsim.workloads.pruning.proxsparse_preset import ProxSparsePreset, load_preset, shipped_presets
from xmsim.workloads.pruning.proxsparse_prune import prune_proxsparse
from xmsim.workloads.pruning.record import read_pruning
from xmsim.workloads.pruning.text import read_calibration
from xmsim.workloads.tuning import resumable_steps
from xmsim.workloads.tuning.loop import TuningLoop, window_loss

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return path


def preset(**overrides: Any) -> ProxSparsePreset:
    return load_preset("xm-tiny", **{"length": 32, "batch": 2, "samples": 12, "rate": 1e-2} | overrides)


def stop_after(steps: int) -> Callable[[int, int, float], None]:
    def watch(done: int, in_all: int, loss: float) -> None:
        if done == steps:
            raise KeyboardInterrupt

    return watch


def weights(model: Path) -> dict[str, Any]:
    return {name: layer.weight.detach() for name, layer in linear_layers(load_model(str(model)).model).items()}


def loop(model: Path, text: Path, kind: type[TuningLoop], chosen: ProxSparsePreset) -> Any:
    loaded = load_model(str(model))
    samples = read_calibration(text, loaded.tokenizer, samples=chosen.config.samples, length=chosen.config.length, seed=0)
    windows = SampleWindows(samples.windows, batch=chosen.config.batch)
    if kind is ProxSparseLoop:
        return loaded, ProxSparseLoop(loaded, linear_layers(loaded.model), windows, chosen.config, seed=0)
    return loaded, TuningLoop(loaded, windows, chosen.config, seed=0)


def test_every_layer_is_two_four_and_what_stays_is_the_original_bit_for_bit(small_llama: Path, text: Path, tmp_path: Path):
    before = {path.name: path.read_bytes() for path in small_llama.iterdir()}
    record = prune_proxsparse(str(small_llama), out=tmp_path / "pruned", preset=preset(), text=text)
    original, pruned = weights(small_llama), weights(tmp_path / "pruned")
    for name, weight in pruned.items():
        kept = weight != 0
        assert (kept.reshape(-1, 4).sum(1) == 2).all(), name
        assert torch.equal(weight[kept], original[name][kept]), name
    groups = list(pattern_groups(load_model(str(tmp_path / "pruned")).model, parse_pattern("2:4")))
    assert [group.share for group in groups] == [1.0] * 28
    assert (record.pattern, record.sparsity, len(record.layers)) == ("2:4", 0.5, 28)
    assert {path.name: path.read_bytes() for path in small_llama.iterdir()} == before


def test_what_was_trained_decides_the_mask(small_llama: Path, text: Path, tmp_path: Path):
    prune_proxsparse(str(small_llama), out=tmp_path / "pruned", preset=preset(), text=text)
    _, trained = loop(small_llama, text, ProxSparseLoop, preset())
    for number in range(trained.steps):
        trained.step(number)
    original, pruned = weights(small_llama), weights(tmp_path / "pruned")
    for name, weight in pruned.items():
        assert torch.equal(weight != 0, magnitude_keep(trained.parameters[f"{name}.weight"].detach(), kept=2, block=4)), name
    assert any((magnitude_keep(original[name], kept=2, block=4) != (weight != 0)).any() for name, weight in pruned.items())


def test_a_step_is_that_of_adamw_and_then_the_proximal_operator_with_lambda_1_as_it_is(small_llama: Path, text: Path):
    chosen = preset(lambda1=0.7)
    loaded, with_prox = loop(small_llama, text, ProxSparseLoop, chosen)
    plain, without = loop(small_llama, text, TuningLoop, chosen)
    assert with_prox.step(0) == without.step(0)
    matrices = linear_layers(loaded.model)
    for name, parameter in plain.model.named_parameters():
        owner = name.removesuffix(".weight")
        expected = prox_two_four(parameter.detach(), 0.7) if owner in matrices else parameter
        assert torch.equal(loaded.model.get_parameter(name), expected), name


def test_lambda_2_adds_the_gradient_of_the_penalty(small_llama: Path, text: Path):
    chosen = preset(lambda1=0.0, lambda2=0.3, epsilon=0.2, clip=1e9, batch=1)
    loaded, training = loop(small_llama, text, ProxSparseLoop, chosen)
    name, layer = next(iter(linear_layers(loaded.model).items()))
    original = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(1.1)  # away from the original, where the penalty is zero
    training._accumulate_gradients(0)
    found = layer.weight.grad.clone()
    layer.weight.grad = None
    window = SampleWindows(read_calibration(text, loaded.tokenizer, samples=12, length=32, seed=0).windows, batch=1).at(0)[0]
    loss = window_loss(loaded.model, window, "float32") / 31 + 0.3 * frozen_weight_penalty(layer.weight, original, epsilon=0.2)
    loss.backward()
    assert torch.allclose(found, layer.weight.grad, rtol=1e-4, atol=1e-6), name


def test_lambda_1_of_zero_keeps_dense_what_is_trained(small_llama: Path, text: Path, tmp_path: Path):
    chosen = preset(lambda1=0.0)
    loaded = load_model(str(small_llama))
    samples = read_calibration(text, loaded.tokenizer, samples=12, length=32, seed=0)
    masks = train_proxsparse(loaded, linear_layers(loaded.model), samples, chosen, out=tmp_path / "pruned")
    plain, without = loop(small_llama, text, TuningLoop, chosen)
    for number in range(6):
        without.step(number)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name
    assert masks.settled_share == 0.0


def test_a_stronger_lambda_1_settles_more_blocks(small_llama: Path, text: Path, tmp_path: Path):
    shares = []
    for lambda1 in (0.1, 1.0, 10.0):
        record = prune_proxsparse(str(small_llama), out=tmp_path / str(lambda1), preset=preset(lambda1=lambda1), text=text)
        shares.append(record.method["settled_share"])
    assert shares == sorted(shares) and shares[2] > shares[0] + 0.3


def test_a_killed_run_goes_on_and_ends_like_one_at_once(small_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = preset(lambda2=0.1)
    at_once = prune_proxsparse(str(small_llama), out=tmp_path / "at once", preset=chosen, text=text)
    monkeypatch.setattr(resumable_steps, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(resumable_steps, "_CHECKPOINT_SHARE", 1e9)
    out = tmp_path / "pruned"
    with pytest.raises(KeyboardInterrupt):
        prune_proxsparse(str(small_llama), out=out, preset=chosen, text=text, watch=stop_after(4))
    assert not out.exists()
    seen: list[int] = []
    resumed = prune_proxsparse(str(small_llama), out=out, preset=chosen, text=text, watch=lambda done, steps, loss: seen.append(done))
    assert seen == [3, 4, 5, 6]
    assert (resumed.layers, resumed.method) == (at_once.layers, at_once.method)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files and all((out / name).read_bytes() == (tmp_path / "at once" / name).read_bytes() for name in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at once", "fox.txt", "pruned"]


def test_an_unfinished_training_of_another_plan_is_not_mixed_in(small_llama: Path, text: Path, tmp_path: Path):
    out = tmp_path / "pruned"
    with pytest.raises(KeyboardInterrupt):
        prune_proxsparse(str(small_llama), out=out, preset=preset(), text=text, watch=stop_after(1))
    with pytest.raises(XmsimError, match=r"pruned\.training\.part: holds an unfinished ProxSparse training with another lambda1"):
        prune_proxsparse(str(small_llama), out=out, preset=preset(lambda1=0.5), text=text)


def test_the_record_says_how_it_was_trained(small_llama: Path, text: Path, tmp_path: Path):
    chosen = preset(lambda1=0.4)
    record = prune_proxsparse(str(small_llama), out=tmp_path / "pruned", preset=chosen, text=text, seed=3)
    assert read_pruning(tmp_path / "pruned") == record
    assert record.calibration is not None
    assert (record.calibration.name, record.calibration.samples, record.calibration.length_tokens) == ("fox.txt", 12, 32)
    share = record.method["settled_share"]
    assert record.method == {"name": "proxsparse", "preset": "xm-tiny", **chosen.parameters, "settled_share": share}
    assert record.calibration.seed == 3


@pytest.mark.parametrize(
    ("name", "lambda1", "lambda2", "epsilon", "rate", "length"),
    [
        ("llama2-7b", 0.25, 0, 0.1, 1e-4, 4096),
        ("llama2-13b", 0.5, 0, 0.1, 1e-4, 4096),
        ("llama2-13b-full", 0.5, 0.25, 0.5, 1e-4, 4096),
        ("llama3.1-8b", 0.85, 0, 0.1, 5e-5, 4096),
        ("llama3.1-8b-full", 0.85, 1.0, 0.1, 5e-5, 4096),
        ("mistral-v0.1-7b", 20, 0, 0.1, 5e-5, 4096),
        ("mistral-v0.3-7b", 25, 0, 0.1, 5e-5, 4096),
        ("openllama-v2-7b", 1.0, 0, 0.1, 1e-4, 2048),
        ("qwen2.5-14b", 0.2, 0, 0.1, 1e-4, 4096),
    ],
)
def test_a_published_preset_is_as_published(name: str, lambda1: float, lambda2: float, epsilon: float, rate: float, length: int):
    config = load_preset(name).config
    assert (config.lambda1, config.lambda2, config.epsilon, config.rate, config.length) == (lambda1, lambda2, epsilon, rate, length)
    assert (config.samples, config.batch, config.steps, config.dtype) == (400, 1, 400, "bfloat16")
    assert (config.warm_up, config.weight_decay, config.betas, config.clip) == (0.1, 0.0, (0.9, 0.999), 1.0)


def test_shipped_presets_are_the_published_ones_and_that_of_xm_tiny():
    assert [load_preset(name).name for name in shipped_presets()] == list(shipped_presets())
    assert len(shipped_presets()) == 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length": 65}, r"model: reads at most 64 tokens, samples of 65 were asked for; use --length 64 or fewer"),
        ({"samples": 100}, r"fox.txt has 901 tokens, too short to calibrate on 100 samples of 32"),
        ({"rate": 1e30}, r"model: tuning cannot go on with step \d, .*; use a --lr below 1e\+30$"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence_and_writes_nothing(
    small_llama: Path, text: Path, tmp_path: Path, options: dict[str, Any], sentence: str
):
    with pytest.raises(XmsimError, match=sentence) as refusal:
        prune_proxsparse(str(small_llama), out=tmp_path / "pruned", preset=preset(**options), text=text)
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt"]


@pytest.mark.parametrize(
    ("shape", "value", "sentence"),
    [
        ((4, 6), 1.0, "its 6 inputs are not divided into blocks of 4"),
        ((4, 8), 0.0, "weight: all zero"),
        ((4, 8), torch.nan, "contains NaN"),
    ],
)
def test_a_layer_that_cannot_become_two_four_is_named_before_anything_is_trained(
    small_llama: Path, text: Path, tmp_path: Path, shape: tuple[int, int], value: float, sentence: str
):
    loaded = load_model(str(small_llama))
    layer = torch.nn.Linear(shape[1], shape[0])
    torch.nn.init.constant_(layer.weight, value)
    samples = read_calibration(text, loaded.tokenizer, samples=12, length=32, seed=0)
    with pytest.raises(XmsimError, match=f"model, layer odd: .*{sentence}"):
        train_proxsparse(loaded, {"odd": layer}, samples, preset(), out=tmp_path / "pruned")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"samples": 5}, "preset xm-tiny with its overrides: 5 samples are no whole number of batches of 2; choose a multiple"),
        ({"lambda1": -1.0}, r"preset xm-tiny with its overrides: lambda1: input should be greater than or equal to 0 \(got -1.0\)"),
        ({"epsilon": 0.0}, "preset xm-tiny with its overrides: epsilon: input should be greater than 0"),
    ],
)
def test_a_preset_that_cannot_be_is_named(options: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        preset(**options)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no preset llama2-7; did you mean llama2-7b\?"):
        load_preset("llama2-7")


def test_the_documented_perplexities_are_those_of_the_records():
    docs = Path(__file__).resolve().parents[3] / "docs" / "proxsparse.md"
    table = docs.read_text().partition("## xm-tiny at 2:4")[2]
    for name in ("magnitude", "wanda", "proxsparse", "sparsegpt", "admm"):
        (run,) = read_evaluation(docs.parents[1] / "reports" / "measured" / f"evaluation_xm_tiny_{name}_2of4.json").runs
        assert f"| `{name}` | {run.perplexity:.2f} |" in table


def test_a_published_preset_trains_in_bfloat16_with_both_lambdas(small_llama: Path, text: Path, tmp_path: Path):
    published = load_preset("llama2-13b-full", length=32, samples=4)
    record = prune_proxsparse(str(small_llama), out=tmp_path / "pruned", preset=published, text=text)
    original = weights(small_llama)
    for name, weight in weights(tmp_path / "pruned").items():
        assert weight.dtype == original[name].dtype == torch.float32
        assert torch.equal(weight[weight != 0], original[name][weight != 0]), name
    assert (record.dtype, record.method["dtype"], record.method["lambda2"]) == ("bfloat16", "bfloat16", 0.25)
