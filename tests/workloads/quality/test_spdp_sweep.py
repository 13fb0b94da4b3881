"""Splitting a total sparsity between weights and activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import total_sparsity
from xmsim.reports.figures.perplexity_split import perplexity_split
from xmsim.reports.figures.perplexity_tpot import perplexity_tpot
from xmsim.workloads.evaluation import SparsitySplit, SplitTiming, read_splits_record
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.models.loading import LoadedModel, load_model
from xmsim.workloads.quality.evaluate import evaluate_model
from xmsim.workloads.quality.spdp_sweep import SweepPlan, pruned_once, read_splits, sweep_splits, total_splits
from xmsim.workloads.quality.split_decoding import Decoding, DecodingPlan
from xmsim.workloads.quality.split_store import SplitStore
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
    (dense, dynamic, static, both), timings = sweep_splits(
        load, [(0.5, 0.0), (0.0, 0.5), (0.5, 0.4)], plan, lambda *step: seen.append(step)
    )
    assert (dense.s1, dense.s2, dense.static_sparsity, dense.dynamic_sparsity, dense.total_sparsity) == (0, 0, 0, 0, 0)
    assert (dynamic.s1, dynamic.static_sparsity) == (0, 0) and dynamic.dynamic_sparsity == pytest.approx(0.5, abs=0.15)
    assert static.static_sparsity == pytest.approx(0.5, abs=0.01) and static.total_sparsity == pytest.approx(static.static_sparsity)
    assert both.total_sparsity == pytest.approx(total_sparsity(both.static_sparsity, both.dynamic_sparsity))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)] and timings == ()
    pruned = load_model(str(tmp_path / "magnitude_0.5"))
    assert static.Uniform_PPL == evaluate_model(pruned, [], TEXT, lengths=(32,), windows=2).runs[0].perplexity


def test_an_interrupted_sweep_does_no_row_twice_and_ends_as_it_would_have(small_llama: Path, tmp_path: Path, plan: SweepPlan):
    def stop(done: int, pairs: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    load = pruned_once(str(small_llama), tmp_path, method="magnitude")
    pairs, path = [(0.0, 0.5), (0.5, 0.0), (0.5, 0.4)], tmp_path / "splits.json"
    whole, _ = sweep_splits(load, pairs, plan)
    with pytest.raises(KeyboardInterrupt):
        sweep_splits(load, pairs, plan, stop, store=SplitStore(path, {"method": "magnitude"}))
    assert read_splits_record(path).splits == whole[:3]
    loaded: list[float] = []

    def watched(static: float) -> LoadedModel:
        loaded.append(static)
        return load(static)

    again, _ = sweep_splits(watched, pairs, plan, store=SplitStore(path, {"method": "magnitude"}))
    assert again == whole and loaded == [0.5]
    more, _ = sweep_splits(watched, pairs[:1], plan, store=SplitStore(path, {"method": "magnitude"}))
    assert more == whole[:2] and loaded == [0.5]
    with pytest.raises(XmsimError, match=r"splits\.json: holds a sweep with another method; move it away"):
        SplitStore(path, {"method": "wanda"})


def test_decoding_is_timed_beside_perplexity_also_of_rows_that_are_there(small_llama: Path, tmp_path: Path, plan: SweepPlan):
    load = pruned_once(str(small_llama), tmp_path, method="magnitude")
    store = SplitStore(tmp_path / "splits.json", {})
    splits, _ = sweep_splits(load, [(0.5, 0.4)], plan, store=store)
    timed = replace(plan, decoding=DecodingPlan(input_tokens=8, new_tokens=3, warmup=0, repeat=2))
    again, timings = sweep_splits(load, [(0.5, 0.4)], timed, store=SplitStore(tmp_path / "splits.json", {}))
    assert again == splits and [(row.s1, row.s2, row.Uniform_PPL) for row in timings] == [
        (row.s1, row.s2, row.Uniform_PPL) for row in splits
    ]
    for row in timings:
        assert 0 < row.TPOT_first_quartile_ms <= row.TPOT_ms <= row.TPOT_third_quartile_ms
        assert row.TPOT_samples == 2 and row.torch_TPOT_ms > 0


def test_layers_that_are_timed_skip_by_the_thresholds_of_the_split_and_are_exchanged_back(small_llama: Path):
    model = load_model(str(small_llama)).model
    decoding = Decoding(model, DecodingPlan(input_tokens=4, new_tokens=2, warmup=0, repeat=2))
    down = "model.layers.0.mlp.down_proj"
    decoding.times({down: 0.25})
    spdp = decoding._variants.layers["spdp"]
    assert spdp[down].threshold == 0.25 and spdp["model.layers.1.mlp.down_proj"].threshold == 0.0
    assert all(type(layer) is torch.nn.Linear for layer in linear_layers(model).values())
    with pytest.raises(XmsimError, match="60 \\+ 32 tokens do not fit the 64 positions of this model"):
        Decoding(model, DecodingPlan(input_tokens=60))


@pytest.mark.parametrize("faster", [True, False])
def test_the_plot_of_times_says_which_split_is_fastest(faster: bool):
    def row(s1: float, s2: float, perplexity: float, milliseconds: float) -> SplitTiming:
        return SplitTiming(s1, s2, perplexity, milliseconds, milliseconds, milliseconds, 10, 5.0)

    figure = perplexity_tpot([row(0, 0, 30, 8.0), row(0.5, 0.4, 36, 4.0 if faster else 9.0), row(0.5, 0, 35, 9.0)], "digits")
    fastest = "fastest split, s1 0.5 and s2 0.4, decodes a token in 4.00 ms at perplexity 36.00"
    said = fastest if faster else "No split decodes faster than the dense model"
    assert said in figure.claim and figure.svg().startswith("<svg")
    assert figure.csv().splitlines()[0].startswith("s1,s2,Uniform_PPL,TPOT_ms,")


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
