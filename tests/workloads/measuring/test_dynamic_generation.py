"""Static and dynamic sparsity timed together: a packed folder, histograms of a trace, and kernel spdp."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.attachment.greedy_record import read_greedy, write_greedy
from xmsim.workloads.extraction.activation_histograms import activation_thresholds, load_histograms
from xmsim.workloads.extraction.extract import extract_trace
from xmsim.workloads.measuring.generation import GenerationPlan, measure_generation
from xmsim.workloads.measuring.linear_variants import LinearVariants
from xmsim.workloads.models.convert import convert_model
from xmsim.workloads.pruning.prune import prune_model

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plan(small_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerationPlan:
    folder = tmp_path_factory.mktemp("spdp")
    prune_model(str(small_llama), out=folder / "pruned", method="magnitude", sparsity=0.5)
    convert_model(str(folder / "pruned"), out=folder / "packed", format="spdp")
    extract_trace(str(folder / "packed"), out=folder / "trace", tokens=40, activations=True)
    return GenerationPlan(
        model=str(folder / "packed"),
        kernels=("torch", "spdp"),
        sparsity=None,
        dynamic_sparsity=0.5,
        histograms=folder / "trace",
        dtype="float32",
        input_tokens=6,
        new_tokens=2,
        warmup=0,
        repeat=2,
        threads=1,
        layer_repeats=0,
        allow_dense=native.library() is None,
    )


def test_a_packed_folder_is_timed_with_the_thresholds_of_a_trace(plan: GenerationPlan, monkeypatch: pytest.MonkeyPatch):
    made: list[LinearVariants] = []
    prepare = LinearVariants.__init__

    def remember(self: LinearVariants, *args, **options) -> None:
        made.append(self)
        prepare(self, *args, **options)

    monkeypatch.setattr(LinearVariants, "__init__", remember)
    record = measure_generation(plan)
    assert record.conditions["dynamic_sparsity"] == 0.5
    assert [run.kernel for run in record.generations] == ["torch", "spdp"]
    assert record.generations[1].weight_bytes < record.generations[0].weight_bytes
    thresholds = activation_thresholds(load_histograms(Path(str(plan.histograms))), 0.5)
    assert {name: layer.threshold for name, layer in made[0].layers["spdp"].items()} == thresholds
    torch_run, spdp_run = record.generations
    assert torch_run.static_sparsity == spdp_run.static_sparsity == pytest.approx(0.5, abs=0.01) and torch_run.dynamic_sparsity == 0
    assert 0.3 < spdp_run.dynamic_sparsity < 0.7
    assert 1 - spdp_run.total_sparsity == pytest.approx((1 - spdp_run.static_sparsity) * (1 - spdp_run.dynamic_sparsity))


def test_what_kernel_spdp_left_out_is_counted_in_decoding_alone(plan: GenerationPlan, monkeypatch: pytest.MonkeyPatch):
    record = measure_generation(replace(plan, dynamic_sparsity=None, histograms=None))
    assert record.generations[1].dynamic_sparsity == 0  # no input is zero
    monkeypatch.setattr("xmsim.reference.kernels.SpdpLinear.threshold", float("inf"))
    record = measure_generation(replace(plan, dynamic_sparsity=None, histograms=None))
    assert record.generations[1].dynamic_sparsity == record.generations[1].total_sparsity == 1


@pytest.mark.parametrize("scoring", ["teal", "wina"])
def test_thresholds_follow_greedy_sparsities_and_scoring(plan: GenerationPlan, tmp_path: Path, scoring: str):
    greedy = replace(plan, dynamic_sparsity=0.05, greedy=tmp_path / "greedy.json", scoring=scoring)
    record = measure_generation(greedy)
    found = read_greedy(tmp_path / "greedy.json")
    assert (found.scoring, record.conditions["scoring"]) == (scoring, scoring)
    assert record.conditions["greedy_sha256"] == hashlib.sha256((tmp_path / "greedy.json").read_bytes()).hexdigest()
    assert 0 < record.generations[1].dynamic_sparsity < 0.3
    write_greedy(tmp_path / "greedy.json", replace(found, policy="sinks_dense"))  # of no consequence in decoding
    again = measure_generation(greedy)
    assert again.generations[1].dynamic_sparsity == record.generations[1].dynamic_sparsity


def test_dynamic_sparsity_needs_its_kernel_and_its_histograms(plan: GenerationPlan, small_llama: Path, tmp_path: Path):
    with pytest.raises(XmsimError, match="give both or neither"):
        replace(plan, histograms=None)
    with pytest.raises(XmsimError, match="kernels spdp and teal alone skip inputs, and none is among torch, bitmap"):
        replace(plan, kernels=("torch", "bitmap"))
    with pytest.raises(XmsimError, match="greedy sparsities and scoring are for dynamic sparsity"):
        replace(plan, dynamic_sparsity=None, histograms=None, scoring="wina")
    with pytest.raises(XmsimError, match="no activation histograms"):
        measure_generation(replace(plan, histograms=tmp_path))
