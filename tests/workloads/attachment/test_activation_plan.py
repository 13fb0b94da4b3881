"""What is asked of activation sparsity, and the thresholds that a model then has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.traces.store import Trace
from xmsim.workloads.attachment import activation_plan
from xmsim.workloads.attachment.activation_plan import ActivationPlan
from xmsim.workloads.attachment.greedy_record import read_greedy
from xmsim.workloads.extraction.activation_histograms import FILE_NAME
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.models.loading import LoadedModel, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


@pytest.fixture
def trace(loaded: LoadedModel, short_text: Path, tmp_path: Path) -> Trace:
    return extract_trace(loaded, text=short_text, tokens=40, windows=1, out=tmp_path / "trace", activations=True)


def test_a_uniform_plan_has_one_threshold_a_layer(loaded: LoadedModel, trace: Trace):
    prepared = ActivationPlan(0.5, trace.path).prepare(loaded)
    assert len(prepared.thresholds) == 28 and prepared.greedy_sha256 is None
    assert ActivationPlan(0.5, trace.path / FILE_NAME).prepare(loaded).thresholds == prepared.thresholds
    with prepared.attach(loaded) as attached, torch.inference_mode():
        loaded.model(torch.arange(3, 43)[None])
    assert attached.sparsity == pytest.approx(0.5, abs=0.1)


def test_winas_histograms_are_made_of_the_traces_windows_and_found_again(loaded: LoadedModel, trace: Trace):
    plan = ActivationPlan(0.5, trace.path, scoring="wina")
    prepared = plan.prepare(loaded)
    assert prepared.thresholds[UP].shape == (32,)
    made = trace.path / "activation_scores.safetensors"
    before = made.stat().st_mtime_ns
    again = plan.prepare(loaded)
    assert made.stat().st_mtime_ns == before and torch.equal(again.thresholds[UP], prepared.thresholds[UP])


def test_greedy_sparsities_are_searched_once_and_serve_smaller_targets(
    loaded: LoadedModel, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "greedy.json"
    prepared = ActivationPlan(0.2, trace.path, greedy=file).prepare(loaded)
    shares = read_greedy(file).sparsities(0.2)
    assert len(set(shares.values())) > 2 and prepared.greedy_sha256 is not None
    monkeypatch.setattr(activation_plan, "search_greedy_sparsities", None)
    smaller = ActivationPlan(0.1, trace.path, greedy=file).prepare(loaded)
    assert sum(smaller.thresholds.values()) < sum(prepared.thresholds.values())
    for changed, sentence in (
        ({"sparsity": 0.5}, r"they reach 0\.2, 0\.5 was asked for"),
        ({"policy": "sinks_dense"}, "was searched with teal and first_half_dense; ask for the same"),
    ):
        with pytest.raises(XmsimError, match=sentence):
            ActivationPlan(**({"sparsity": 0.1, "histograms": trace.path, "greedy": file} | changed)).prepare(loaded)
    other = load_model("xm-tiny")
    with pytest.raises(XmsimError, match="sparsities of another model"):
        ActivationPlan(0.1, trace.path, greedy=file).prepare(other)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"sparsity": 1.0}, r"activation sparsity 1\.0 is not a share"),
        ({"sparsity": float("nan")}, "activation sparsity nan is not a share"),
        ({"scoring": "wanda"}, "no scoring wanda; did you mean wina"),
        ({"policy": "half"}, "no policy half"),
        ({"sparsity": 0.0, "greedy": Path("greedy.json")}, "leaves nothing to share out greedily"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_a_model_is_loaded(changed: dict[str, Any], sentence: str):
    with pytest.raises(XmsimError, match=sentence):
        ActivationPlan(**({"sparsity": 0.5, "histograms": Path("trace")} | changed))


def test_histograms_that_are_not_there_are_one_sentence(loaded: LoadedModel, trace: Trace, tmp_path: Path):
    with pytest.raises(RecordError, match="no activation histograms; make them with xmsim extract"):
        ActivationPlan(0.5, tmp_path).prepare(loaded)
    with pytest.raises(XmsimError, match=r"greedy\.json: is not there, and is searched on the windows of a trace"):
        ActivationPlan(0.5, trace.path / FILE_NAME, greedy=tmp_path / "greedy.json").prepare(loaded)
