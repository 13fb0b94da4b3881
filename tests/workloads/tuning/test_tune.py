"""Tuning with a method attached: it learns, what it writes is what was scored, and it can be interrupted."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from xmsim.configs.errors import XmsimError
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.tuning import resumable_steps, tune
from xmsim.workloads.tuning.loop import TuningLoop, predicted_tokens, rate_share, window_losses
from xmsim.workloads.tuning.recipe import Recipe, load_recipe
from xmsim.workloads.tuning.record import TuningRecord, read_tuning
from xmsim.workloads.tuning.text import TUNING_TEXT, RandomWindows, read_tuning_text
from xmsim.workloads.tuning.tune import tune_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return path


@pytest.fixture(scope="module")
def method() -> Method:
    """X:M in blocks small enough for 32 tokens; a third of the pairs."""
    return load_method("xm", block=8, kept_high=4, kept_low=2)


def recipe(name: str = "full", **overrides: Any) -> Recipe:
    return load_recipe(name, **{"length": 32, "batch": 2, "steps": 6, "held_out": 2, "rate": 3e-3, "dtype": "float32"} | overrides)


def stop_after(steps: int) -> Callable[[int, int, float], None]:
    def watch(done: int, in_all: int, loss: float) -> None:
        if done == steps:
            raise KeyboardInterrupt

    return watch


def facts(record: TuningRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("before", "after", "losses", "steps", "tuned_tokens")}


def test_loss_falls_and_the_folder_computes_what_was_scored(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    out = tmp_path / "tuned"
    record = tune_model(str(small_llama), text=text, out=out, method=method, recipe=recipe(steps=15))
    assert record.losses[-1] < record.losses[0] - 0.8
    assert record.after.method < record.before.method - 0.8
    assert (record.steps, record.tuned_tokens, len(record.after.dense_windows)) == (15, 15 * 2 * 31, 2)
    loaded = load_model(str(out))
    held_out = read_tuning_text(text, loaded.tokenizer, recipe().config, seed=0).held_out
    assert window_losses(loaded, held_out, "float32") == record.after.dense_windows
    with tune.attach(loaded, method):
        assert window_losses(loaded, held_out, "float32") == record.after.method_windows
    plain = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(plain.lm_head.weight, loaded.model.lm_head.weight)


def test_the_record_says_what_was_tuned_with_what(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    out = tmp_path / "tuned"
    record = tune_model(str(small_llama), text=text, out=out, method=method, recipe=recipe(steps=1), seed=5)
    assert read_tuning(out) == record
    written = json.loads((out / "tuning.json").read_text())
    assert (written["format"], written["version"]) == ("xmsim.tuning", 1)
    assert (written["base"]["name"], written["base"]["family"], written["base"]["dtype"]) == ("model", "llama", "float32")
    assert written["method"] == {"name": "xm", **method.parameters}
    assert (written["recipe"]["name"], written["recipe"]["rate"], written["recipe"]["steps"], written["seed"]) == ("full", 3e-3, 1, 5)
    assert (written["text"]["name"], written["text"]["tokens"]) == ("fox.txt", 1 + 45 * 20)  # a token a byte, and the first
    assert len(written["step_losses_nats_per_token"]) == 1
    assert str(tmp_path) not in (out / "tuning.json").read_text()


def test_gradients_reach_every_parameter_through_the_kept_pairs(small_llama: Path, text: Path, method: Method):
    loaded = load_model(str(small_llama))
    read = read_tuning_text(text, loaded.tokenizer, recipe().config, seed=0)
    loop = TuningLoop(loaded, read.windows, recipe().config, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in loop.parameters.items()}
    assert set(before) == {name for name, _ in loaded.model.named_parameters()}
    with tune.attach(loaded, method) as attached:
        loop.step(0)
        assert attached.densities().density < 0.7
    assert [name for name, parameter in loop.parameters.items() if torch.equal(parameter, before[name])] == []


def test_steps_are_done_with_the_method_attached(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    chosen = recipe(steps=1)
    tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=chosen)
    weights = {}
    for name, with_method in (("dense", load_method("dense")), ("xm", method)):
        loaded = load_model(str(small_llama))
        loop = TuningLoop(loaded, read_tuning_text(text, loaded.tokenizer, chosen.config, seed=0).windows, chosen.config, seed=0)
        with tune.attach(loaded, with_method):
            loop.step(0)
        weights[name] = loaded.model.lm_head.weight
    tuned = load_model(str(tmp_path / "tuned")).model.lm_head.weight
    assert torch.equal(tuned, weights["xm"]) and not torch.equal(tuned, weights["dense"])


def test_matrices_decay_and_gains_do_not(small_llama: Path, text: Path):
    chosen = recipe(rate=1e-3, weight_decay=100.0).config
    loaded = load_model(str(small_llama))
    loop = TuningLoop(loaded, read_tuning_text(text, loaded.tokenizer, chosen, seed=0).windows, chosen, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in loop.parameters.items()}
    loop.step(0)
    for name, parameter in loop.parameters.items():
        decayed = 0.9 if parameter.ndim == 2 else 1.0
        assert (parameter - decayed * before[name]).abs().max() < 1.01e-3, name  # Adam's first step is the rate


def test_a_seed_decides_the_result_to_the_bit(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    weights = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        tune_model(str(small_llama), text=text, out=tmp_path / name, method=method, recipe=recipe(steps=2), seed=seed)
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["one"] == weights["again"] != weights["other"]


@pytest.mark.parametrize(("name", "file"), [("full", "model.safetensors"), ("lora", "adapter_model.safetensors")])
def test_an_interrupted_tuning_goes_on_and_ends_like_one_at_once(
    small_llama: Path, text: Path, tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch, name: str, file: str
):
    if name == "lora":
        pytest.importorskip("peft")
    chosen = recipe(name)
    at_once = tune_model(str(small_llama), text=text, out=tmp_path / "at once", method=method, recipe=chosen)
    monkeypatch.setattr(resumable_steps, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(resumable_steps, "_CHECKPOINT_SHARE", 1e9)
    out = tmp_path / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tune_model(str(small_llama), text=text, out=out, method=method, recipe=chosen, watch=stop_after(4))
    assert not out.exists()
    seen: list[int] = []
    resumed = tune_model(
        str(small_llama), text=text, out=out, method=method, recipe=chosen, watch=lambda done, steps, loss: seen.append(done)
    )
    assert seen == [3, 4, 5, 6]
    assert facts(resumed) == facts(at_once)
    assert (out / file).read_bytes() == (tmp_path / "at once" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at once", "fox.txt", "tuned"]


def test_an_unfinished_tuning_of_another_plan_is_not_mixed_in(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    out = tmp_path / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tune_model(str(small_llama), text=text, out=out, method=method, recipe=recipe(), watch=stop_after(1))
    kept = (tmp_path / "tuned.part" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(XmsimError, match=r"tuned\.part: holds an unfinished tuning with another seed, rate; finish it"):
        tune_model(str(small_llama), text=text, out=out, method=method, recipe=recipe(rate=1e-3), seed=1)
    assert (tmp_path / "tuned.part" / "checkpoint.safetensors").read_bytes() == kept


def test_a_damaged_checkpoint_is_named(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    with pytest.raises(KeyboardInterrupt):
        tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe(), watch=stop_after(1))
    checkpoint = tmp_path / "tuned.part" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(XmsimError, match=r"checkpoint.safetensors: not a checkpoint of xmsim, or a damaged one .*; delete .*tuned.part"):
        tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe())


def test_recomputed_layers_and_kept_ones_give_the_same_model(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    for name, recompute in (("kept", False), ("recomputed", True)):
        chosen = recipe(steps=2, gradient_checkpointing=recompute)
        tune_model(str(small_llama), text=text, out=tmp_path / name, method=method, recipe=chosen)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("kept", "recomputed")]
    assert weights[0] == weights[1]


def test_bfloat16_computation_tunes_float32_weights(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    record = tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe(steps=10, dtype="bfloat16"))
    assert record.after.method < record.before.method - 0.5
    assert load_model(str(tmp_path / "tuned")).model.config.dtype == torch.float32


def bloom(small_llama: Path, folder: Path) -> Path:
    """BLOOM of random weights with the small Llama's tokenizer."""
    torch.manual_seed(4)
    config = transformers.BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    transformers.BloomForCausalLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["full", "dynax_lora_bloom"])
def test_bloom_is_tuned_too(small_llama: Path, text: Path, tmp_path: Path, method: Method, name: str):
    if name != "full":
        pytest.importorskip("peft")
    model = bloom(small_llama, tmp_path / "bloom")
    record = tune_model(
        str(model), text=text, out=tmp_path / "tuned", method=method, recipe=recipe(name, steps=10, rate=1e-2, weight_decay=0.01)
    )
    assert record.after.method < record.before.method - 0.1


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_nothing(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    with pytest.raises(XmsimError, match=r"model: tuning cannot go on with step \d, .*; use a --rate below 1e\+30$") as refusal:
        tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe(rate=1e30))
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "xn"}, "no method xn; did you mean xm?"),
        ({"recipe": "ful"}, "no recipe ful; did you mean full?"),
        ({"recipe": recipe(length=65)}, "model: reads at most 64 tokens, recipe full asks for 65; use --length 64 or fewer"),
        ({"recipe": recipe(held_out=40)}, "fox.txt has 901 tokens, too short for 40 held-out windows and one to tune on, of 32"),
        ({"recipe": recipe("dynax_lora_bloom")}, "model: no module of this llama is called query_key_value"),
        ({"recipe": recipe("qlora")}, r"4-bit weights \(--qlora\) need an NVIDIA GPU"),
        ({"text": Path("nowhere.txt")}, "nowhere.txt: cannot be read"),
        ({"text": Path("nowhere.txt.xz")}, "nowhere.txt.xz: cannot be read"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence_and_writes_nothing(
    small_llama: Path, text: Path, tmp_path: Path, method: Method, options: dict[str, Any], sentence: str
):
    if "bloom" in sentence or "query" in sentence:
        pytest.importorskip("peft")
    arguments = {"text": text, "out": tmp_path / "tuned", "method": method, "recipe": recipe()} | options
    with pytest.raises(XmsimError, match=sentence) as refusal:
        tune_model(str(small_llama), **arguments)
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt"]


def test_a_folder_that_holds_something_is_left_alone(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine").touch()
    with pytest.raises(XmsimError, match="tuned: exists and is not empty"):
        tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe())
    (tmp_path / "other.part").mkdir()
    (tmp_path / "other.part" / "mine").touch()
    with pytest.raises(XmsimError, match=r"other\.part: exists and is no unfinished tuning"):
        tune_model(str(small_llama), text=text, out=tmp_path / "other", method=method, recipe=recipe())


def test_a_full_disk_costs_nothing_but_the_time_since_the_last_checkpoint(
    small_llama: Path, text: Path, tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any, **options: Any) -> None:
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr("safetensors.torch.save_file", fail)
        with pytest.raises(XmsimError, match=r"checkpoint.safetensors: cannot be written .*; free some space and run the same"):
            tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt"]
    with monkeypatch.context() as full:
        full.setattr(tune, "write_model", fail)
        with pytest.raises(XmsimError, match=r"tuned: cannot be written .*; nothing was, free some space and run the same command again"):
            tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt", "tuned.part"]
    tune_model(str(small_llama), text=text, out=tmp_path / "tuned", method=method, recipe=recipe())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.txt", "tuned"]


def test_an_encoder_is_refused(small_llama: Path, text: Path, tmp_path: Path):
    config = transformers.BertConfig(vocab_size=257, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(tmp_path / "bert")
    with pytest.raises(XmsimError, match="bert: a model of family bert without a causal language head has no loss to tune by"):
        tune_model(str(tmp_path / "bert"), text=text, out=tmp_path / "tuned", recipe=recipe())


@pytest.mark.parametrize("steps", [1, 2, 10, 33])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 1.0])
def test_the_learning_rate_rises_to_its_highest_and_falls_without_reaching_zero(steps: int, warm_up: float):
    shares = [rate_share(step, steps, warm_up) for step in range(steps)]
    assert max(shares) == 1 and min(shares) > 0
    highest = shares.index(1)
    assert shares[: highest + 1] == sorted(shares[: highest + 1])
    assert shares[highest:] == sorted(shares[highest:], reverse=True)


def test_an_epoch_takes_every_token_outside_the_held_out_tail_once(small_llama: Path, text: Path):
    tokenizer = load_model(str(small_llama)).tokenizer
    read = read_tuning_text(text, tokenizer, load_recipe("full", length=32, batch=2, epochs=2, held_out=2).config, seed=0)
    whole = tokenizer(text.read_text())["input_ids"]
    tail = [token for window in read.held_out for token in window.tolist()]
    assert tail == whole[-64:]
    assert read.windows.steps == 2 * 14  # 837 tokens are 27 windows, in batches of 2
    epochs = [[window for step in steps for window in read.windows.at(step)] for steps in (range(14), range(14, 28))]
    for windows in epochs:
        assert sum(len(window) for window in windows) == len(whole) - 64
        assert sorted(token for window in windows for token in window.tolist()) == sorted(whole[:-64])
    assert [window.tolist() for window in epochs[0]] != [window.tolist() for window in epochs[1]]
    assert predicted_tokens(epochs[0]) == len(whole) - 64 - 27


def test_random_windows_depend_on_seed_and_step_alone(small_llama: Path, text: Path):
    tokenizer = load_model(str(small_llama)).tokenizer
    one, again = (read_tuning_text(text, tokenizer, recipe().config, seed=1).windows for _ in range(2))
    assert isinstance(one, RandomWindows)
    again.at(0)
    assert [window.tolist() for window in one.at(3)] == [window.tolist() for window in again.at(3)]
    assert [window.tolist() for window in one.at(3)] != [window.tolist() for window in one.at(4)]


def test_a_text_in_parts_is_encoded_like_one_at_once(small_llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch):
    text.write_text("a line\nand another, a longer one\n\n" * 10 + "the end")
    tokenizer = load_model(str(small_llama)).tokenizer
    whole = read_tuning_text(text, tokenizer, recipe().config, seed=0)
    monkeypatch.setattr("xmsim.workloads.tuning.text._CHUNK", 50)
    parts = read_tuning_text(text, tokenizer, recipe().config, seed=0)
    assert whole.tokens == parts.tokens == 1 + len(text.read_text())
    assert [window.tolist() for window in whole.held_out] == [window.tolist() for window in parts.held_out]


def test_without_a_text_the_shipped_one_is_tuned_on(
    small_llama: Path, text: Path, tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch
):
    assert len(lzma.decompress(TUNING_TEXT.read_bytes()).decode()) > 1_300_000
    packed = tmp_path / "packed.txt.xz"
    packed.write_bytes(lzma.compress(text.read_bytes()))
    monkeypatch.setattr(tune, "TUNING_TEXT", packed)
    record = tune_model(str(small_llama), out=tmp_path / "tuned", method=method, recipe=recipe(steps=1))
    assert (record.text.name, record.text.tokens) == ("packed.txt.xz", 1 + 45 * 20)
    assert record.text.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()


def test_a_damaged_xz_file_is_named(small_llama: Path, text: Path, tmp_path: Path, method: Method):
    damaged = tmp_path / "damaged.txt.xz"
    for content in (b"no xz", TUNING_TEXT.read_bytes()[:1000]):
        damaged.write_bytes(content)
        with pytest.raises(XmsimError, match=r"damaged.txt.xz: not an .xz file, or a damaged one"):
            tune_model(str(small_llama), text=damaged, out=tmp_path / "tuned", method=method, recipe=recipe())
