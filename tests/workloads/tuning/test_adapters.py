"""Adapters: what is merged computes what was tuned, and only beside the model it was tuned beside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.workloads.methods.library import load_method
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.tuning.adapters import check_four_bit, merge_adapter
from xmsim.workloads.tuning.recipe import Recipe, load_recipe
from xmsim.workloads.tuning.record import read_tuning
from xmsim.workloads.tuning.tune import tune_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks transformers by an old name
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return path


def recipe(name: str = "lora", **overrides: Any) -> Recipe:
    return load_recipe(name, **{"length": 32, "batch": 2, "steps": 6, "held_out": 2, "rate": 1e-2, "dtype": "float32"} | overrides)


@pytest.fixture(scope="module")
def adapter(small_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter") / "tuned"
    tune_model(str(small_llama), text=text, out=out, method=load_method("xm", block=8, kept_high=4, kept_low=2), recipe=recipe())
    return out


def logits(model: Any) -> Any:
    """In float64, where only the rounding of merged weights is left to differ."""
    with torch.no_grad():
        return model.eval().double()(input_ids=torch.arange(40)[None]).logits


def test_an_adapter_is_small_holds_no_pickle_and_has_learned(adapter: Path):
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "tuning.json"]
    record = read_tuning(adapter)
    assert record.tuned_parameters == 4 * 8 * (2 * 64 + 2 * 48 + 3 * 80)  # rank 8 beside q, o; k, v; gate, up, down of 4 layers
    assert record.after.method < record.before.method - 0.2


def test_the_merged_model_computes_what_the_adapted_one_does(adapter: Path, small_llama: Path, tmp_path: Path):
    merge_adapter(adapter, out=tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = transformers.AutoModelForCausalLM.from_pretrained(small_llama)
    untouched = logits(base)
    adapted = logits(peft.PeftModel.from_pretrained(base.float(), adapter))
    assert (logits(merged) - adapted).abs().max() < 1e-5
    assert (adapted - untouched).abs().max() > 0.1
    loaded = load_model(str(tmp_path / "merged"))  # with its tokenizer
    assert loaded.tokenizer("fox")["input_ids"] == load_model(str(small_llama)).tokenizer("fox")["input_ids"]
    assert read_tuning(tmp_path / "merged") == read_tuning(adapter)


def test_a_base_that_was_moved_is_found_when_it_is_named(adapter: Path, small_llama: Path, tmp_path: Path):
    config = adapter / "adapter_config.json"
    assert json.loads(config.read_text())["base_model_name_or_path"] == str(small_llama)
    moved = tmp_path / "moved"
    moved.symlink_to(small_llama)
    merge_adapter(adapter, out=tmp_path / "merged", base=str(moved))
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_an_adapter_is_not_merged_into_other_weights(adapter: Path, small_llama: Path, tmp_path: Path):
    other = load_model(str(small_llama))
    with torch.no_grad():
        other.model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(XmsimError, match="tuned beside model of other weights than other; name that model before --merge"):
        merge_adapter(adapter, out=tmp_path / "merged", base=str(tmp_path / "other"))
    assert not (tmp_path / "merged").exists()


def test_what_is_no_adapter_of_ours_is_not_merged(adapter: Path, tmp_path: Path):
    with pytest.raises(XmsimError, match=r"tuning\.json: cannot be read"):
        merge_adapter(tmp_path, out=tmp_path / "merged")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "tuning.json").write_bytes((adapter / "tuning.json").read_bytes())
    with pytest.raises(XmsimError, match=r"whole: no adapter, it has no adapter_model\.safetensors"):
        merge_adapter(whole, out=tmp_path / "merged")
    with pytest.raises(XmsimError, match="whole: exists and is not empty"):
        merge_adapter(adapter, out=whole)


def test_gpt2_whose_weights_lie_the_other_way_is_adapted_and_merged(small_llama: Path, text: Path, tmp_path: Path):
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, bos_token_id=0, eos_token_id=0
    )
    model = tmp_path / "gpt2"
    transformers.GPT2LMHeadModel(config).save_pretrained(model)
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(model)
    tune_model(str(model), text=text, out=tmp_path / "tuned", method="topk", recipe=recipe(steps=2))
    merge_adapter(tmp_path / "tuned", out=tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    adapted = logits(peft.PeftModel.from_pretrained(base, tmp_path / "tuned"))
    assert (logits(merged) - adapted).abs().max() < 1e-5


def test_without_peft_the_command_that_adds_it_is_named(small_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(XmsimError, match=r"adapters need peft: pip install 'xmsim\[tune\]'"):
        tune_model(str(small_llama), text=text, out=tmp_path / "tuned", recipe=recipe())
    assert not (tmp_path / "tuned").exists() and not (tmp_path / "tuned.part").exists()


def test_without_bitsandbytes_the_command_that_adds_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(XmsimError, match=r"need bitsandbytes: pip install 'xmsim\[qlora\]'"):
        check_four_bit("cuda")


def test_an_adapter_that_peft_cannot_put_beside_experts_is_one_sentence(small_llama: Path, text: Path, tmp_path: Path):
    sizes = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, num_local_experts=2)).save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(small_llama).save_pretrained(tmp_path / "model")
    with pytest.raises(XmsimError, match=r"^mixtral: peft puts no adapter beside its layers \(.*\); tune it whole, without --lora$"):
        tune_model(str(tmp_path / "model"), text=text, out=tmp_path / "tuned", method=load_method("xm"), recipe=recipe())
    assert not (tmp_path / "tuned").exists()
