"""Histograms of what linear layers read, by one command, and the thresholds that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import magnitude_threshold
from xmsim.workloads.extraction.activation_histograms import (
    FILE_NAME,
    activation_histograms,
    activation_thresholds,
    column_norms,
    load_histograms,
)
from xmsim.workloads.extraction.extract import extract_trace, run_layers
from xmsim.workloads.models.linear_exchange import sparsify
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
WINDOWS = ((5, 9, 30, 4, 77, 8, 120, 3), (1, 2, 3, 4, 5, 6))


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


def read_by(loaded: LoadedModel, name: str) -> np.ndarray:
    seen = []
    layer = loaded.model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten()))
    with torch.inference_mode():
        for window in WINDOWS:
            run_layers(loaded.model, [window])
    handle.remove()
    return torch.cat(seen).numpy()


def test_each_linear_layer_has_the_histogram_of_all_it_read(loaded: LoadedModel):
    found = activation_histograms(loaded, WINDOWS)
    assert len(found) == 4 * 7 and "lm_head" not in found
    for name in ("model.layers.0.self_attn.o_proj", "model.layers.3.mlp.down_proj"):
        values = read_by(loaded, name)
        assert found[name].counts.sum() == values.size
        threshold = activation_thresholds(found, 0.5, threshold=magnitude_threshold)[name]
        assert (abs(values) <= threshold).mean() == pytest.approx(0.5, abs=0.01)


def test_layers_that_read_one_tensor_share_its_histogram(loaded: LoadedModel):
    found = activation_histograms(loaded, WINDOWS)
    attention, mlp = "model.layers.1.self_attn.", "model.layers.1.mlp."
    assert found[attention + "q_proj"] is found[attention + "k_proj"] is found[attention + "v_proj"]
    assert found[mlp + "gate_proj"] is found[mlp + "up_proj"] is not found[attention + "q_proj"]


def test_the_hooks_are_gone_after_the_run(loaded: LoadedModel):
    activation_histograms(loaded, WINDOWS[:1])
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_histograms_of_winas_scores_count_inputs_times_the_norms_of_their_columns(loaded: LoadedModel):
    norms = column_norms(loaded)
    found = activation_histograms(loaded, WINDOWS, column_norms=norms)
    name = "model.layers.1.self_attn.k_proj"
    scores = read_by(loaded, name).reshape(-1, 32) * norms[name].numpy()
    assert norms[name].numpy() == pytest.approx(np.linalg.norm(loaded.model.get_submodule(name).weight.detach().numpy(), axis=0), rel=1e-6)
    assert found[name].edges[[0, -1]] == pytest.approx([scores.min(), scores.max()])
    assert found[name] is not found["model.layers.1.self_attn.q_proj"]


def test_layers_of_our_kernels_have_the_norms_of_the_matrices_they_stand_for(loaded: LoadedModel, small_llama: Path):
    ours = column_norms(sparsify(load_model(str(small_llama))))
    for name, norms in column_norms(loaded).items():
        torch.testing.assert_close(ours[name], norms)


@pytest.mark.parametrize("name", ["histograms.pt", "layer-0/mlp/histograms.pt"])
def test_published_histograms_are_pickles_and_the_answer_says_what_to_do(tmp_path: Path, name: str):
    path = tmp_path / "published" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK")
    for asked in (path, tmp_path / "published"):
        with pytest.raises(RecordError, match=r"are pickles.*never opened here; docs/activation_sparsity\.md has the lines"):
            load_histograms(asked)


def test_extract_stores_them_in_the_trace_once(loaded: LoadedModel, short_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def extract(**options):
        return extract_trace(loaded, text=short_text, tokens=40, windows=2, out=tmp_path / "trace", **options)

    before = extract()
    assert not (tmp_path / "trace" / FILE_NAME).exists()
    trace = extract(activations=True)
    assert trace.sha256 == before.sha256
    stored = load_histograms(tmp_path / "trace")
    assert load_histograms(tmp_path / "trace" / FILE_NAME).keys() == stored.keys()
    fresh = activation_histograms(loaded, trace.manifest.token_ids)
    np.testing.assert_array_equal(stored["model.layers.2.mlp.down_proj"].counts, fresh["model.layers.2.mlp.down_proj"].counts)
    monkeypatch.setattr("xmsim.workloads.extraction.activation_histograms.run_layers", None)
    extract(activations=True)


def test_a_trace_without_histograms_names_the_way_to_them(tmp_path: Path):
    with pytest.raises(RecordError, match=r"no activation histograms; make them with xmsim extract MODEL --activations"):
        load_histograms(tmp_path)


def test_sparsities_are_uniform_or_of_each_layer(loaded: LoadedModel):
    found = activation_histograms(loaded, WINDOWS)
    name = "model.layers.0.mlp.down_proj"
    assert set(activation_thresholds(found, 0).values()) == {0.0}
    assert activation_thresholds(found, {name: 0.3}) == {name: activation_thresholds(found, 0.3)[name]}
    with pytest.raises(XmsimError, match=r"activation sparsity 1\.0 is not a share"):
        activation_thresholds(found, 1.0)
    with pytest.raises(XmsimError, match="lm_head: no histogram of this layer"):
        activation_thresholds(found, {"lm_head": 0.5})


def test_a_layer_that_reads_nan_is_named(small_llama: Path):
    broken = load_model(str(small_llama))
    with torch.no_grad():
        broken.model.model.layers[2].self_attn.v_proj.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"model\.layers\.2\.self_attn\.o_proj: .*NaN"):
        activation_histograms(broken, WINDOWS)
