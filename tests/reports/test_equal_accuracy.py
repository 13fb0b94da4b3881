"""Machines at equal accuracy: who belongs to a target, against whom, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xmsim.configs.densities import Densities
from xmsim.reports.collection import collect
from xmsim.reports.equal_accuracy import accuracy_groups, unused_targets
from xmsim.reports.figures.speedup_simulated import speedup_at_equal_accuracy
from xmsim.reports.quality import quality_of
from xmsim.reports.tables import accuracy_table
from xmsim.reports.verdict import verdict
from xmsim.sim.result import read_result, write_result
from xmsim.workloads.evaluation import (
    EvaluatedActivations,
    EvaluatedRun,
    EvaluatedText,
    EvaluationRecord,
    SolvedFor,
    TriedValue,
    write_evaluation,
)
from xmsim.workloads.measurement import read_measurement

DENSE = {"name": "dense", "block": 32}  # as the made-up dense machine runs it


def run(method, increase, *, target=None, note="", activations=None):
    solved = None if target is None else SolvedFor(target, "block", method["block"], not note, (TriedValue(1.0, increase),), note)
    densities = Densities(0.1, 0.05, 0.2)
    loss = 3.0 + increase
    return EvaluatedRun(
        method,
        256,
        256,
        2,
        100,
        None,
        loss,
        20 * (1 + increase),
        None,
        increase,
        increase,
        0.001,
        densities,
        (),
        (loss, loss),
        activations,
        solved,
    )


@pytest.fixture
def files(tmp_path, simulated, measured, estimated):
    """Dense; a machine at +1 % with 2 methods, another at +5 %, and one whose method costs 30 %."""
    found = [simulated("dense.json", machine="dense", method="dense", head_cycles=9000, costs=estimated(area_mm2=4.0))]
    for name, machine, block, cycles in (("a", "one", 1, 3000), ("b", "one", 2, 2000), ("c", "two", 5, 1000), ("d", "three", 30, 100)):
        path = simulated(f"{name}.json", machine=machine, view="same mask", head_cycles=cycles, costs=estimated(area_mm2=2.0))
        write_result(path, replace(read_result(path), method={"name": f"xm_{block}", "block": block}))
        found.append(path)
    host = read_measurement(measured("host.json")).host
    runs = (
        run(DENSE, 0.0),
        run({"name": "xm_plus1", "block": 1}, 0.0099, target=0.01),
        run({"name": "same", "block": 2}, 0.0105),
        run({"name": "xm_plus5", "block": 5}, 0.049, target=0.05),
        run({"name": "other_plus5", "block": 6}, 0.2, target=0.05, note="even its least pruning costs more"),
        run({"name": "xm_30", "block": 30}, 0.3),
    )
    record = EvaluationRecord(host, "cpu", "float32", {"name": "made-up model"}, EvaluatedText("a text", "c" * 64, ""), "dynax", runs)
    write_evaluation(tmp_path / "evaluation.json", record)
    return [*found, tmp_path / "evaluation.json"]


def test_a_target_holds_what_was_solved_for_it_or_is_there_as_it_is_and_the_dense_baseline(files):
    one, five = accuracy_groups(collect(files).main)
    assert (one.name, five.name) == ("equal accuracy (+1 %)", "equal accuracy (+5 %)")
    assert [member.label for member in one.group.members] == ["dense", "one · xm_1", "one · xm_2"]  # two methods of one machine
    assert [member.label for member in five.group.members] == ["dense", "two"]
    assert one.group.baseline.label == "dense"
    assert five.notes[:1] == ("other_plus5 does not meet +5 % and is left out: even its least pruning costs more.",)


def test_speedup_energy_and_area_stand_beside_perplexity_and_density(files):
    table = accuracy_table(accuracy_groups(collect(files).main)[0])
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["speedup over dense"].value == pytest.approx(3.0)  # 9000 / 3000 cycles a head
    assert row["speedup at equal area over dense"].value == pytest.approx(6.0)  # with half of the area
    assert row["perplexity (over dense)"].text == "20.2 (+1.0 ± 0.1 %)" and row["density"].value == pytest.approx(0.09)
    assert row["energy, µJ"].value == pytest.approx(10.0) and row["area, mm²"].value == 2.0


def test_the_figure_draws_one_block_a_target(files):
    figure = speedup_at_equal_accuracy(collect(files).main)
    blocks = {row.view.partition(":")[0] for row in figure.rows}
    assert blocks == {"equal accuracy (+1 %)", "equal accuracy (+5 %)"}
    assert all(row.perplexity_increase is not None and row.density > 0 for row in figure.rows)
    assert figure.svg()


def test_the_verdict_names_the_fastest_at_each_target(files):
    which = verdict(collect(files))[0].answer
    assert "At equal accuracy (+1 %) the fastest is one · xm_2, 4.50× dense." in which
    assert "At equal accuracy (+5 %) the fastest is two with xm_5, 9.00× dense." in which


def test_a_target_that_no_result_runs_is_said(files):
    dense, *_, evaluation = files
    (part,) = collect([dense, evaluation]).parts
    assert accuracy_groups(part) == ()
    assert [sentence.partition(" perplexity")[0] for sentence in unused_targets(part)] == [
        "Methods solved for +1 %",
        "Methods solved for +5 %",
    ]


def test_without_a_dense_machine_there_is_no_equal_accuracy(files):
    assert accuracy_groups(collect(files[1:]).main) == ()


def test_an_evaluation_with_dropped_activations_says_nothing_of_attention_alone(files, tmp_path):
    from xmsim.workloads.evaluation import read_evaluation

    record = read_evaluation(files[-1])
    dropped = EvaluatedActivations(0.5, "teal", "uniform", "first_half_dense", "d" * 64, None, 0.0, 0.5, 0.5)
    write_evaluation(files[-1], replace(record, runs=(record.runs[0], replace(record.runs[1], activations=dropped, solved_for=None))))
    part = collect(files).main
    assert quality_of(part.simulated[1], part) is None
