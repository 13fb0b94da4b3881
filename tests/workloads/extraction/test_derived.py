"""What extract stores besides Q, K and V: masks by this host's kernels, and the nonzero elements of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xmsim.configs.errors import XmsimError
from xmsim.traces.store import open_trace
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.methods.library import load_method, stored_mask
from xmsim.workloads.models.loading import LoadedModel, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("xm:1_2_4bit", "nm", "sanger:1_4_6bit", "topk", "salo:1_2_4bit", "window")


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


def test_stored_masks_are_those_of_the_methods(loaded: LoadedModel, tmp_path: Path):
    trace = extract_trace(loaded, tokens=40, windows=2, out=tmp_path / "trace", masks=NAMES)
    assert trace.has_masks
    for layer in (0, 3):
        captured = trace.read_layer(layer)
        for name in NAMES:
            method = load_method(name)
            facts, stored = trace.find_mask(layer, method.parameters), stored_mask(trace, method, layer)
            assert facts is not None and stored is not None
            assert facts.method == method.name and facts.made.seconds > 0
            keeps = [method.keep(captured, window) for window in (0, 1)]
            assert facts.kept_pairs == sum(int(keep.sum()) for keep in keeps)
            for window, keep in enumerate(keeps):
                np.testing.assert_array_equal(stored.keep(window, captured), keep)
    assert stored_mask(trace, load_method("xm"), 0) is None  # exact scores: other parameters


def test_masks_are_added_to_a_finished_trace_without_running_the_model(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = extract_trace(loaded, tokens=40, out=tmp_path / "trace")
    monkeypatch.setattr("xmsim.workloads.extraction.extract.run_layers", None)
    seen: list[tuple[int, int]] = []
    trace = extract_trace(loaded, tokens=40, out=tmp_path / "trace", masks=["nm"], progress=lambda *step: seen.append(step))
    assert trace.sha256 == before.sha256 and all(len(facts.masks) == 1 for facts in trace.manifest.layers)
    assert seen == [(5, 8), (6, 8), (7, 8), (8, 8)]


def test_an_interrupted_making_of_masks_is_resumed(loaded: LoadedModel, tmp_path: Path):
    def stop(done: int, steps: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_trace(loaded, tokens=40, out=tmp_path / "trace", masks=["nm", "topk"], progress=stop)
    assert [len(facts.masks) for facts in open_trace(tmp_path / "trace").manifest.layers] == [2, 2, 0, 0]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "trace").glob("*.mask_*")}
    trace = extract_trace(loaded, tokens=40, out=tmp_path / "trace", masks=["nm", "topk"])
    assert [len(facts.masks) for facts in trace.manifest.layers] == [2, 2, 2, 2]
    assert before == {name: (tmp_path / "trace" / name).stat().st_mtime_ns for name in before}


def test_weights_are_stored_for_each_layer_s_linear_modules(small_llama: Path, tmp_path: Path):
    pruned = load_model(str(small_llama))
    weight = pruned.model.model.layers[2].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, ::2] = 0
    trace = extract_trace(pruned, tokens=40, layers=[2], out=tmp_path / "trace", weights=True)
    bits = trace.read_weights(2)
    assert [name.rsplit(".", 1)[1] for name in bits] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    np.testing.assert_array_equal(bits["model.layers.2.mlp.up_proj"], weight.detach().numpy() != 0)
    matrix = next(one for one in trace.manifest.facts(2).weights.matrices if one.name.endswith("up_proj"))
    assert (matrix.out_features, matrix.in_features, matrix.nonzeros) == (48, 32, 48 * 16)


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [(("xm", "nn"), "no method nn"), (("xm", "nm", "xm"), "--masks: xm and xm keep the same pairs; name one of them")],
)
def test_methods_that_cannot_be_stored_are_refused_before_anything_is_written(
    loaded: LoadedModel, tmp_path: Path, masks: tuple[str, ...], sentence: str
):
    with pytest.raises(XmsimError, match=sentence):
        extract_trace(loaded, tokens=40, out=tmp_path / "trace", masks=masks)
    assert not (tmp_path / "trace").exists()
