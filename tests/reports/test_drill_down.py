"""What stands beside the speedups: the price of prediction, the lower bound of each layer, the perplexity of the method."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from xmsim.configs.densities import Densities
from xmsim.reports.collection import collect, load
from xmsim.reports.compare import compare
from xmsim.reports.figures.speedup_simulated import speedup_simulated
from xmsim.reports.layer_bounds import bounding_resource, layer_bounds
from xmsim.reports.long_table import long_table
from xmsim.reports.prediction_cost import prediction_cost
from xmsim.reports.quality import quality_of
from xmsim.reports.tables import costs_table, layer_energy_table, layers_table, machines_table, prediction_table
from xmsim.reports.verdict import verdict
from xmsim.sim.result import read_result, write_result
from xmsim.workloads.evaluation import EvaluatedRun, EvaluatedText, EvaluationRecord, write_evaluation

DENSITIES = Densities(0.1, 0.05, 0.2)


def evaluated(path, host, *, model="made-up model", lengths=(256,), method=None):
    """Dense at perplexity 20, and a method at 21."""
    runs = []
    for length in lengths:
        for its, perplexity in (
            ({"name": "dense", "method": "dense"}, 20.0),
            (method or {"name": "mine", "block": 32}, 21.0 + length / 1e6),
        ):
            runs.append(
                EvaluatedRun(
                    its, length, length, 2, 100, None, 3.0, perplexity, None, perplexity / 20 - 1, 0.1, None, DENSITIES, (), (3.0, 3.0)
                )
            )
    record = EvaluationRecord(host, "cpu", "float32", {"name": model}, EvaluatedText("a text", "c" * 64, ""), "dynax", tuple(runs))
    write_evaluation(path, record)
    return path


@pytest.fixture
def host(measured):
    from xmsim.workloads.measurement import read_measurement

    return read_measurement(measured("host.json")).host


def test_perplexity_of_exactly_the_method_that_ran_stands_beside_the_speedup(tmp_path, simulated, host):
    # the made-up machine runs {"name": "xm_32", "block": 32}: names are labels, parameters decide
    evaluation = evaluated(tmp_path / "evaluation.json", host, lengths=(4096, 256))
    other = simulated("b.json", machine="other")
    write_result(other, replace(read_result(other), method={"name": "xm_32", "block": 64}))
    comparison = load([simulated("a.json"), other, evaluation])
    first, second = comparison.simulated
    assert quality_of(first, comparison).run.length_tokens == 256  # nearest to the trace's
    assert quality_of(first, comparison).words == "21.0 (+5.0 %)"
    assert quality_of(second, comparison) is None  # its parameters are those of no run
    row = speedup_simulated(comparison).rows[0]
    assert (row.perplexity, row.perplexity_increase) == pytest.approx((21.000256, 0.0500128))
    assert any("21.0 (+5.0 %)" in getattr(cell, "text", "") for cell in machines_table(comparison).rows[0])
    assert any("256 tokens of a text, evaluation.json" in note for note in speedup_simulated(comparison).notes)
    which = verdict(collect([simulated("a.json"), other, evaluation]))[0].answer
    assert which.startswith("dynax_s (perplexity +5.0 %) is the fastest")


def test_no_prediction_is_the_same_as_none_stated(tmp_path, simulated, host):
    evaluation = evaluated(tmp_path / "evaluation.json", host, method={"name": "x", "block": 32, "prediction": None})
    comparison = load([simulated("a.json"), evaluation])
    assert quality_of(comparison.simulated[0], comparison) is not None


def test_an_evaluation_of_another_model_is_left_out_in_a_sentence(tmp_path, simulated, host):
    comparison = load([simulated("a.json"), evaluated(tmp_path / "evaluation.json", host, model="another")])
    assert comparison.evaluated == () and comparison.left_out == ("evaluation.json: left out, it is of the model another.",)


def test_a_layer_states_its_bound_what_sets_it_and_what_is_left(simulated):
    # the prediction array works 85 % of 8000 cycles; the made-up roofline of 4000 is below that, so the array binds
    (one,) = load([simulated("s.json", layers=(0,))]).simulated
    (bound,) = layer_bounds(one)
    assert bound.words == "at most 2.00× left, bound by prediction array"
    assert bound.loss_words == "idle: drain 10 %, stalled: execution arrays full 5 %"


def test_a_layer_whose_units_work_less_than_the_roofline_is_bound_by_dram(simulated):
    path = simulated("s.json", layers=(0,))
    record = read_result(path)
    result = replace(record.runs[0].result, roofline_cycles=7500)
    assert bounding_resource(record.runs[0].result) == "prediction_array" and bounding_resource(result) == "DRAM"
    write_result(path, replace(record, runs=(replace(record.runs[0], result=result),)))
    (bound,) = layer_bounds(load([path]).simulated[0])
    assert bound.words == "at most 1.07× left, bound by DRAM" and bound.loss_words == ""


def test_prediction_costs_what_its_busiest_stage_and_its_units_do(tmp_path, simulated, estimated):
    path = simulated("s.json", layers=(0,), costs=estimated(chip_uj=6.0))
    (one,) = load([path]).simulated
    cost = prediction_cost(one)
    assert cost.stages == ("scheduler",)  # 10 % of 8000 cycles; the made-up array has a name of its own
    assert cost.cycles == 800 and cost.cycles_share == pytest.approx(0.1)
    assert cost.energy_uj.nominal == pytest.approx(3.0) and cost.energy_share == pytest.approx(0.5)
    assert cost.energy_uj.low < 3.0 < cost.energy_uj.high
    assert prediction_table(load([path])) is not None


def test_a_machine_without_prediction_has_no_such_cost(simulated):
    path = simulated("d.json", layers=(0,))
    record = read_result(path)
    result = record.runs[0].result
    kept = {name: {s: v for s, v in getattr(result, name).items() if s != "scheduler"} for name in ("servers", "busy", "stalls", "idle")}
    write_result(path, replace(record, runs=(replace(record.runs[0], result=replace(result, **kept)),)))
    comparison = load([path])
    assert prediction_cost(comparison.simulated[0]) is None and prediction_table(comparison) is None


def test_each_layer_shows_its_energy_and_that_of_its_units(simulated, made_up_models):
    comparison = collect([simulated("s.json")], made_up_models).parts[0]
    rows = [dict(zip(layers_table(one).columns, row, strict=True)) for one in comparison.simulated for row in layers_table(one).rows]
    assert [row["energy on chip, µJ"].value for row in rows] == pytest.approx([3.0] * 3)
    assert [row["energy of DRAM, µJ"].value for row in rows] == pytest.approx([1.0] * 3)
    units = layer_energy_table(comparison.simulated[0])
    assert units.columns == ("layer", "all", "execute array", "prediction array", "dram")
    assert [cell.value for cell in units.rows[0]] == pytest.approx([0, 4.0, 1.5, 1.5, 1.0])
    rows = csv.DictReader(io.StringIO(long_table(comparison)))
    found = [row for row in rows if row["layer"] == "1" and row["metric"] == "energy on chip: execute_array"]
    assert [float(row["value"]) for row in found] == pytest.approx([1.5e6])


def test_energy_of_a_layer_of_which_a_part_is_left_out_is_not_shown(simulated, measured, made_up_models):
    files = [simulated("s.json", windows=2), measured("cpu.json", windows=1, layers=(0, 1))]
    (one,) = collect(files, made_up_models).simulated
    assert one.layer_costs == {} and layer_energy_table(one) is None
    assert layers_table(one).rows[0][layers_table(one).columns.index("energy on chip, µJ")] == "not known"


def test_published_areas_stand_apart_from_the_estimated_ones(simulated, estimated):
    table = costs_table(load([simulated("s.json", area_mm2=1.08, area_source="the paper", costs=estimated(area_mm2=2.0))]))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["area, mm²"].value == 2.0 and "to" in row["area, mm²"].text
    assert row["published area, mm²"].value == 1.08 and row["published where"] == "the paper"
    assert row["energy, µJ"].value == pytest.approx(10.0)


def test_the_markdown_report_has_the_tables_and_escapes_names(tmp_path, simulated, estimated):
    files = [
        simulated("s.json", machine="a|b*c", costs=estimated()),
        simulated("d.json", machine="dense", method="dense", costs=estimated()),
    ]
    compare(files, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert r"a\|b\*c" in text and "a|b" not in text
    assert "## Estimated area, power and energy" in text and "](speedup_simulated.png)" in text
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert widths and min(widths) >= 3
    with (tmp_path / "out" / "speedup_simulated.csv").open(newline="") as file:
        assert {row["normalisation"] for row in csv.DictReader(file)} == {
            "raw",
            "equal peak MACs",
            "equal area",
            "equal power",
            "128 multipliers at 1 GHz",
            "energy",
        }
