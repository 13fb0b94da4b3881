"""Measured decoding beside simulated decoding of the same tokens, and never beside a prefill."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from xmsim.configs.errors import RecordError
from xmsim.reports.collection import collect
from xmsim.reports.compare import contents_of, draw
from xmsim.reports.figures.speedup_measured import COLD, speedup_measured
from xmsim.reports.long_table import collection_table
from xmsim.reports.verdict import HOW_MUCH, verdict
from xmsim.workloads.measurement import read_measurement, write_measurement

TOKENS = (198, 199)


@pytest.fixture
def prefill(simulated, measured):
    return [simulated("a.json"), simulated("b.json", machine="dense", method="dense"), measured("cpu.json")]


@pytest.fixture
def decode(simulated, measured):
    return [
        simulated("a.decode.json", decoded=TOKENS),
        simulated("b.decode.json", machine="dense", method="dense", decoded=TOKENS, head_cycles=4000),
        measured("cpu.decode.json", decoded=TOKENS),
    ]


def test_each_phase_has_its_machines_and_its_measurement(prefill, decode):
    first, second = collect([*prefill, *decode]).parts
    assert [one.phase for one in (*first.simulated, *first.measured)] == ["prefill"] * 3
    assert [one.phase for one in (*second.simulated, *second.measured)] == ["decode"] * 3
    assert {(place.layer, place.token) for place in second.work} == {(layer, token) for layer in (0, 1, 2) for token in TOKENS}
    assert second.left_out == ()


def test_a_decode_has_the_figures_of_a_prefill_and_ratios_of_its_own(prefill, decode):
    contents = contents_of(collect([*prefill, *decode]))
    first, second = contents.parts
    assert second.figures.keys() == first.figures.keys() >= {"speedup_measured", "simulated_against_measured"}
    assert {figure.name for figure in second.figures.values()} == {f"{name}_2" for name in first.figures}
    rows = [row for row in second.figures["simulated_against_measured"].rows if row.machine == "dynax_s"]
    assert {row.view for row in rows} == {"native view, decoding: each machine with its own method"}
    # 2 tokens of layers of 8000, 8800 and 9600 cycles at 500 MHz; dense 2 ms a layer and token, sparse with its mask 1.5 ms
    assert [row.speedup for row in rows] == pytest.approx([12 / 0.1056, 9 / 0.1056])
    speedups = {row.what: row.speedup for row in second.figures["speedup_measured"].rows}
    assert speedups == pytest.approx(
        {"dense attention": 1.0, "sparse attention xm, mask given": 2.0, "sparse attention xm, mask made too": 4 / 3}
    )
    rows = csv.DictReader(io.StringIO(collection_table(contents.collection)))
    operations = {row["operation"] for row in rows if row["source"] == "measured"}
    assert {"dense attention, torch sdpa, flash, float32", "dense attention, torch sdpa, flash, float32, decode"} <= operations


def test_the_first_answer_tells_of_both_phases(prefill, decode):
    (answer,) = [one.answer for one in verdict(collect([*prefill, *decode])) if one.question == HOW_MUCH]
    assert "dynax_s needs 0.0528 ms (simulated)" in answer and "Decode of attention: dynax_s needs 0.106 ms (simulated)" in answer


def test_a_decode_alone_asks_for_a_measured_one(decode):
    (answer,) = [one.answer for one in verdict(collect(decode[:2])) if one.question == HOW_MUCH]
    assert answer.startswith("Not known: no measurement of the same decode is here.") and "xmsim measure TRACE --decode N" in answer


def test_a_measured_phase_that_nobody_simulated_stands_alone_and_says_so(prefill, measured):
    collection = collect([*prefill, measured("cpu.decode.json", decoded=TOKENS)])
    assert [len(part.simulated) for part in collection.parts] == [2, 0]
    assert collection.left_out == (
        "cpu.decode.json: times decode of attention without its projections, which no result here simulates, so it stands beside none of "
        "them.",
    )
    assert "simulated_against_measured" not in [figure.name for figure in draw(collection.parts[1])]


def test_other_tokens_are_left_out_and_none_in_common_is_refused(simulated, measured):
    simulation = simulated("a.decode.json", decoded=TOKENS)
    (part,) = collect([simulation, measured("more.json", decoded=(197, *TOKENS))]).parts
    assert part.decoded_tokens == 2 and part.left_out == (
        "more.json: 3 runs (one token through one layer each) left out, because not every file has the same.",
    )
    with pytest.raises(RecordError, match="have no layer and window in common, or no decoded token of it"):
        collect([simulation, measured("other.json", decoded=(100,))])


def test_a_measured_decode_of_another_trace_is_refused(simulated, measured):
    other = {"path": "elsewhere", "sha256": "b" * 64, "model": "made-up model", "text": "made-up.txt"}
    with pytest.raises(RecordError, match=r"made from different traces \(aaaaaaaaaaaa and bbbbbbbbbbbb\)"):
        collect([simulated("a.decode.json", decoded=TOKENS), measured("cpu.json", decoded=TOKENS, trace=other)])


def test_the_figure_says_where_keys_came_from(measured):
    path = measured("cpu.json", decoded=TOKENS)
    assert COLD not in speedup_measured(collect([path]).parts[0]).notes
    record = read_measurement(path)
    write_measurement(path, replace(record, conditions=record.conditions | {"read_before_each_call_bytes": {"cpu": 1 << 26}}))
    assert COLD in speedup_measured(collect([path]).parts[0]).notes
