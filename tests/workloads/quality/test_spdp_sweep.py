"""Splitting a total sparsity between weights and activations."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import total_sparsity
from xmsim.reports.figures.perplexity_split import perplexity_split
from xmsim.workloads.evaluation import SparsitySplit
from xmsim.workloads.models.loading import load_model
from xmsim.workloads.quality.evaluate import evaluate_model
from xmsim.workloads.quality.spdp_sweep import SweepPlan, pruned_once, read_splits, sweep_splits, total_splits
from xmsim.workloads.texts.corpora import RunningText

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = RunningText("digits", "0123456789" * 40)


def test_the_splits_of_a_total_run_from_all_dynamic_to_all_static():
    assert total_splits([0.5], step=0.25) == ((0.0, 0.5), (0.25, pytest.approx(1 / 3)), (0.5, 0.0))
    pairs = total_splits([0.3, 0.6], step=0.1)
    assert len(pairs) == 4 + 7
    assert {round(total_sparsity(*pair), 9) for pair in pairs} == {0.3, 0.6}


@pytest.mark.parametrize(
    ("totals", "step", "sentence"), [([1.0], 0.1, r"total sparsity 1\.0 is not a share"), ([0.5], 0, "step 0 between")]
)
def test_a_total_that_cannot_be_split_is_refused(totals: list[float], step: float, sentence: str):
    with pytest.raises(XmsimError, match=sentence):
        total_splits(totals, step=step)


@pytest.fixture
def plan() -> SweepPlan:
    return SweepPlan(TEXT, calibration=[list(range(10, 42))], length=32, windows=2)


def test_each_pair_is_pruned_calibrated_and_scored_and_the_dense_model_comes_first(small_llama: Path, tmp_path: Path, plan: SweepPlan):
    load = pruned_once(str(small_llama), tmp_path, method="magnitude")
    seen: list[tuple[int, int]] = []
    dense, dynamic, static, both = sweep_splits(load, [(0.5, 0.0), (0.0, 0.5), (0.5, 0.4)], plan, lambda *step: seen.append(step))
    assert (dense.s1, dense.s2, dense.static_sparsity, dense.dynamic_sparsity, dense.total_sparsity) == (0, 0, 0, 0, 0)
    assert (dynamic.s1, dynamic.static_sparsity) == (0, 0) and dynamic.dynamic_sparsity == pytest.approx(0.5, abs=0.15)
    assert static.static_sparsity == pytest.approx(0.5, abs=0.01) and static.total_sparsity == pytest.approx(static.static_sparsity)
    assert both.total_sparsity == pytest.approx(total_sparsity(both.static_sparsity, both.dynamic_sparsity))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    pruned = load_model(str(tmp_path / "magnitude_0.5"))
    assert static.Uniform_PPL == evaluate_model(pruned, [], TEXT, lengths=(32,), windows=2).runs[0].perplexity


def test_a_pruned_model_is_found_again_but_not_another_one(small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"method": "wanda", "samples": 2, "length": 32, "seed": 0}
    pruned_once(str(small_llama), tmp_path, **options)(0.3)
    monkeypatch.setattr("xmsim.workloads.quality.spdp_sweep.prune_model", None)
    pruned_once(str(small_llama), tmp_path, **options)(0.3)
    with pytest.raises(XmsimError, match=r"wanda_0\.3: was pruned with another --samples \(2, not 3\)"):
        pruned_once(str(small_llama), tmp_path, **(options | {"samples": 3}))(0.3)
    with pytest.raises(XmsimError, match=r"was pruned with another model \(model, not xm-tiny\)"):
        pruned_once("xm-tiny", tmp_path, **options)(0.3)


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    row = SparsitySplit(0.2, 0.375, 35.5, 0.199, 0.357, 0.485)
    (tmp_path / "splits.csv").write_text(perplexity_split([row], "digits").csv())
    assert read_splits(tmp_path / "splits.csv") == (row,)
    (tmp_path / "splits.csv").write_text("s1,s2\n0.2,much\n")
    with pytest.raises(RecordError, match="not a table of sparsity splits"):
        read_splits(tmp_path / "splits.csv")


def test_shares_out_of_range_are_refused_before_a_model_is_loaded(plan: SweepPlan):
    with pytest.raises(XmsimError, match=r"sparsities 0\.5, 1\.0 are not two shares"):
        sweep_splits(lambda static: pytest.fail("loaded"), [(0.5, 1.0)], plan)
