"""Folders with packed linear layers: written once, opened like any model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.formats import read_format
from xmsim.workloads.extraction.extract import model_facts
from xmsim.workloads.models.convert import PACKERS, convert_model
from xmsim.workloads.models.linear_exchange import exchanged_layers, linear_layers
from xmsim.workloads.models.loading import ModelError, load_model
from xmsim.workloads.models.packed_folder import LAYERS_FILE, REST_FILE
from xmsim.workloads.pruning.prune import prune_model
from xmsim.workloads.tuning.limits import check_trainable

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = torch.arange(3, 23)[None]
KERNEL = {"macko": "bitmap"}  # of a format on the CPU, where it is not its own


@pytest.fixture(scope="module")
def pruned(small_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of 2:4, which every format can hold."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    prune_model(str(small_llama), out=folder, method="magnitude", pattern="2:4")
    return folder


def logits(model):
    with torch.inference_mode():
        return model(TOKENS).logits


@pytest.mark.parametrize("format", PACKERS)
def test_a_folder_of_each_format_computes_what_the_model_computed(pruned: Path, tmp_path: Path, format: str):
    plain = load_model(str(pruned))
    done = convert_model(str(pruned), out=tmp_path / "packed", format=format)
    assert (done.name, done.format, done.dtype, done.layers) == ("model", format, "float32", 4 * 7)
    assert done.density == pytest.approx(0.5)
    opened = load_model(str(tmp_path / "packed"))
    assert {layer.format for layer in exchanged_layers(opened)} == {KERNEL.get(format, format)}
    difference = (logits(opened.model) - logits(plain.model)).norm() / logits(plain.model).norm()
    assert difference < (0.1 if format == "bitmap_int8" else 1e-5)
    assert opened.tokenizer("abc") == plain.tokenizer("abc")
    if format != "bitmap_int8":  # which rounds
        with torch.no_grad():
            for weight in plain.model.parameters():
                weight += 0.0  # -0 is stored as 0
        assert model_facts(opened).weights_sha256 == model_facts(plain).weights_sha256


def test_layers_are_one_versioned_file_and_the_rest_another_that_plain_transformers_does_not_take_for_a_model(pruned: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    convert_model(str(pruned), out=tmp_path / "packed", format="tcabme", dtype="float16")
    matrices = read_format(tmp_path / "packed" / LAYERS_FILE)
    assert list(matrices) == list(linear_layers(load_model(str(pruned)).model))
    assert {type(matrix).__name__ for matrix in matrices.values()} == {"TcaBme"}
    assert (tmp_path / "packed" / REST_FILE).is_file()
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed")


def test_another_number_format_may_be_asked_for_when_it_is_opened(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "packed", format="bitmap")
    opened = load_model(str(tmp_path / "packed"), dtype="bfloat16").model
    plain = load_model(str(pruned), dtype="bfloat16").model
    for name, layer in linear_layers(plain).items():
        assert torch.equal(opened.get_submodule(name).to_dense(), layer.weight)


def test_a_packed_folder_can_be_packed_anew(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "first", format="spdp")
    convert_model(str(tmp_path / "first"), out=tmp_path / "second", format="2:4")
    assert torch.equal(
        load_model(str(tmp_path / "second")).model.model.layers[1].mlp.up_proj.to_dense(),
        load_model(str(pruned)).model.model.layers[1].mlp.up_proj.weight,
    )


def test_what_cannot_be_converted_leaves_nothing(small_llama: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="no format marlin"):
        convert_model(str(small_llama), out=tmp_path / "packed", format="marlin")
    with pytest.raises(ModelError, match=r"model\.layers\.0\.self_attn\.q_proj cannot be stored as 2:4"):
        convert_model(str(small_llama), out=tmp_path / "packed", format="2:4")
    spoilt = load_model(str(small_llama))
    spoilt.model.model.layers[0].self_attn.q_proj.weight.data[0, 0] = float("nan")
    spoilt.model.save_pretrained(tmp_path / "nan")
    spoilt.tokenizer.save_pretrained(tmp_path / "nan")
    with pytest.raises(ModelError, match="q_proj cannot be stored as bitmap: weights: there is a NaN"):
        convert_model(str(tmp_path / "nan"), out=tmp_path / "packed", format="bitmap")
    assert not (tmp_path / "packed").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(XmsimError, match="exists and is not empty"):
        convert_model(str(small_llama), out=tmp_path / "full", format="bitmap")


def test_a_damaged_file_of_layers_is_named(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "packed", format="bitmap")
    file = tmp_path / "packed" / LAYERS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(XmsimError, match=r"linear_layers\.safetensors: not a whole safetensors file"):
        load_model(str(tmp_path / "packed"))


def test_packed_weights_are_not_trained(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "packed", format="bitmap")
    with pytest.raises(ModelError, match="its linear layers are packed, and those are not trained"):
        check_trainable(load_model(str(tmp_path / "packed")), 32, asked_by="recipe", option="--length")


def test_a_damaged_packed_folder_is_refused_by_the_name_of_its_file(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "packed", format="bitmap")
    rest = tmp_path / "packed" / REST_FILE
    rest.write_bytes(rest.read_bytes()[:100])
    with pytest.raises(RecordError, match=f"{REST_FILE}: cannot be read .*; convert the model again"):
        load_model(str(tmp_path / "packed"))
    rest.unlink()
    os.mkfifo(rest)
    with pytest.raises(RecordError, match="a pipe or device"):
        load_model(str(tmp_path / "packed"))


def test_matrices_of_another_shape_than_the_configuration_says_are_refused(pruned: Path, tmp_path: Path):
    convert_model(str(pruned), out=tmp_path / "packed", format="bitmap")
    config = tmp_path / "packed" / "config.json"
    sizes = json.loads(config.read_text())
    config.write_text(json.dumps(sizes | {"intermediate_size": sizes["intermediate_size"] // 2}))
    with pytest.raises(ModelError, match=r"is stored as .* and the configuration asks for"):
        load_model(str(tmp_path / "packed"))


def test_a_model_that_would_take_forever_to_build_is_refused_at_once(pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "endless")
    config = tmp_path / "endless" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 2**31 - 1}))
    with pytest.raises(ModelError, match="asks for 2147483647 layers"):
        load_model(str(tmp_path / "endless"))


def test_a_tokenizer_of_another_model_is_refused(pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "mixed")
    words = tmp_path / "mixed" / "tokenizer.json"
    content = json.loads(words.read_text())
    entry = next(name for name in content["model"]["vocab"] if len(name) == 1)
    content["model"]["vocab"][entry] = 10**6
    words.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="the tokenizer has a token 1000000, the model reads tokens 0 to"):
        load_model(str(tmp_path / "mixed"))
