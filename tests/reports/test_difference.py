"""The waterfall between two results: its steps add up exactly, for every pair of machines, and mean what they say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reports.collection import load
from xmsim.reports.difference.cycle_causes import cycle_causes, whole_numbers
from xmsim.reports.difference.difference import difference, difference_sentences
from xmsim.reports.phases import OTHER, stage_phase, unit_phase
from xmsim.sim.result import read_result, write_result

MACHINES = ("dynax_s", "dynax_l", "dynax_s_released", "sanger", "salo", "salo_v2", "dense", "dense_causal", "dense_ws")
GOLDEN_TRACE = Path(__file__).parents[1] / "golden" / "trace_v2"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every shipped kind of machine on the layers of a small stored trace."""
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import simulate_trace
    from xmsim.traces.store import open_trace

    folder, trace = tmp_path_factory.mktemp("results"), open_trace(GOLDEN_TRACE)
    for name in MACHINES:
        write_result(folder / f"{name}.json", simulate_trace(trace, load_accelerator(name)))
    return folder


def test_steps_add_up_to_the_difference_in_whole_cycles_and_picojoules_for_every_pair(results):
    for a, b in permutations(MACHINES, 2):
        found = difference(results / f"{a}.json", results / f"{b}.json")
        assert sum(step.step_cycles for step in found.cycles) == found.a.total_cycles - found.b.total_cycles, (a, b)
        for steps in (found.energy, found.phases):
            assert sum(step.a for step in steps) == found.a.total_energy_pj, (a, b)
            assert sum(step.b for step in steps) == found.b.total_energy_pj, (a, b)
            assert all(step.step == step.a - step.b for step in steps)


def test_causes_add_up_to_the_cycles_of_every_machine_and_none_is_negative(results):
    for name in MACHINES:
        (one,) = load([results / f"{name}.json"]).simulated
        causes = cycle_causes(one)
        assert sum(causes.values()) == one.record.cycles == read_result(results / f"{name}.json").cycles
        assert all(cycles >= 0 for cycles in causes.values()), name


def test_energy_of_the_units_is_that_of_the_record(results):
    costs = read_result(results / "dynax_s.json").costs
    found = difference(results / "dynax_s.json", results / "dense.json")
    by_unit = {step.unit: step.a for step in found.energy}
    for unit, bar in costs.on_chip_energy.by_unit.items():
        assert by_unit[unit] == pytest.approx(bar.nominal, abs=1)
    assert found.a.total_energy_pj == pytest.approx(costs.energy.nominal, abs=1)


def test_every_stage_and_unit_of_a_shipped_machine_has_a_phase(results):
    for name in MACHINES:
        record = read_result(results / f"{name}.json")
        assert OTHER not in {stage_phase(stage) for stage in record.runs[0].result.servers}, name
        assert OTHER not in {unit_phase(unit) for unit in record.costs.on_chip_energy.by_unit}, name


def test_a_step_forth_is_minus_the_step_back(results):
    there, back = (difference(results / f"{a}.json", results / f"{b}.json") for a, b in (("salo", "sanger"), ("sanger", "salo")))
    causes = {step.cause: step.step_cycles for step in back.cycles if step.a_cycles is not None}
    for step in there.cycles:
        if step.a_cycles is not None:
            assert step.step_cycles == -causes[step.cause]
    assert {step.unit: step.step for step in there.energy} == {step.unit: -step.step for step in back.energy}


def test_waiting_is_laid_to_the_busiest_stage_before_the_array(tmp_path, simulated, estimated):
    # of 8000 cycles the four execution arrays work 60 %, wait for DRAM 10 %, and are idle 12 % before, 16 % between, 2 % after their work
    path = simulated("s.json", layers=(0,), costs=estimated())
    record = read_result(path)
    stages = {"prediction_array": "predictor", "scheduler": "scheduler", "execution_arrays": "execute", "divider": "divider"}

    def renamed(of_stage):
        return {stages[name]: value for name, value in of_stage.items()}

    result = record.runs[0].result
    result = replace(result, **{name: renamed(getattr(result, name)) for name in ("servers", "busy", "stalls", "idle")})
    write_result(path, replace(record, runs=(replace(record.runs[0], result=result),)))
    (one,) = load([path]).simulated
    causes = cycle_causes(one)
    useful = result.useful_macs / 512
    assert causes["useful MACs at peak rate"] == pytest.approx(useful, abs=1)
    assert causes["array busy without a useful MAC"] == pytest.approx(4800 - useful, abs=1)
    assert causes["array stalled: waiting for DRAM"] == 800
    assert causes["array idle before its first work"] == 960
    assert causes["array idle: waiting behind predict"] == 1280
    assert causes["array idle after its last work"] == 160


def test_work_and_width_are_told_apart(simulated):
    # the same mask and time a MAC on half the multipliers: no other work, twice the time for it
    wide = simulated("wide.json", layers=(0,), peak_macs_per_cycle=512)
    narrow = simulated("narrow.json", layers=(0,), peak_macs_per_cycle=256, machine="narrow")
    work, width, *_ = difference(narrow, wide).cycles
    useful = sum(run.result.useful_macs for run in read_result(wide).runs) / 512
    assert work.step_cycles == 0 and "asked for by the mask" in work.cause
    assert width.step_cycles == pytest.approx(useful, abs=1) and width.cause == "fewer multipliers"


def test_parts_are_rounded_so_that_they_add_up():
    thirds = {name: Fraction(10, 3) for name in "abc"}
    assert sorted(whole_numbers(thirds, 10).values()) == [3, 3, 4]
    assert whole_numbers({"a": Fraction(5), "b": Fraction(0)}, 5) == {"a": 5, "b": 0}


def test_other_work_samples_and_one_file_twice_are_refused(simulated):
    one = simulated("one.json")
    with pytest.raises(XmsimError, match="two different result files"):
        difference(one, one)
    with pytest.raises(RecordError, match="different traces"):
        difference(one, simulated("other.json", trace={"sha256": "b" * 64, "model": "m"}))
    sample = simulated("sample.json", sampled_of=4)
    with pytest.raises(XmsimError, match="a sample"):
        difference(sample, simulated("other_sample.json", machine="dense", sampled_of=4))


def test_without_estimates_there_is_no_energy_and_a_note_says_why(simulated):
    found = difference(simulated("s.json"), simulated("d.json", machine="dense", method="dense", clock_mhz=1000.0))
    assert found.energy == () == found.phases and found.a.total_energy_pj is None
    said = " ".join(difference_sentences(found))
    assert "No energy: s.json: the machine's YAML has no technology." in said
    assert "The clocks differ" in said


def test_the_command_prints_the_tables_and_writes_record_table_and_figure(tmp_path, results):
    from xmsim.cli import _app

    out = tmp_path / "difference"
    files = [str(results / f"{name}.json") for name in ("dynax_s", "dense_causal")]
    answer = CliRunner().invoke(_app(), ["diff", *files, "--out", str(out)], catch_exceptions=False)
    assert answer.exit_code == 0
    assert "Cycles from dense_causal to dynax_s, simulated" in answer.stdout and "The largest steps" in answer.stdout
    record = json.loads((out / "waterfall.json").read_text())
    assert record["format"] == "xmsim.difference" and record["version"] == 1
    steps = sum(step["step_cycles"] for step in record["cycles"])
    assert steps == record["a"]["total_cycles"] - record["b"]["total_cycles"]
    with (out / "waterfall.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first, *walk, last = [row for row in rows if row["panel"] == "cycles"]
    assert int(first["value"]) + sum(int(row["value"]) for row in walk) == int(last["value"])
    assert (out / "waterfall.png").read_bytes().startswith(b"\x89PNG")
