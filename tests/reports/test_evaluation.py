"""The files of an evaluation, from records made by hand: the numbers are round on purpose, nothing was evaluated."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.text import Annotation, Text

from xmsim.configs.densities import Densities
from xmsim.reports.evaluation import COLUMNS, evaluation_csv, write_evaluation_report
from xmsim.reports.figures.perplexity_density import perplexity_density
from xmsim.reports.figures.style import house_style
from xmsim.workloads.evaluation import EvaluatedRun, EvaluatedText, EvaluationRecord, LayerDensities
from xmsim.workloads.measurement import Host

HOST = Host("Made-up CPU 9000", 2, (), 24 * 10**9, "", "Linux 6.1", "3.11.7", {})


def run(name: str, perplexity: float, density: float, *, length: int = 1024, dense: float = 20.0, **facts: Any) -> EvaluatedRun:
    kept = Densities(density, density / 2, density)
    return EvaluatedRun(
        **{
            "method": {"name": name, "prediction": None},
            "length_tokens": length,
            "window_tokens": length,
            "windows": 4,
            "scored_tokens": 4 * (length - 1),
            "scored_bytes": None,
            "loss": math.log(perplexity),
            "perplexity": perplexity,
            "bits_per_byte": None,
            "perplexity_increase": perplexity / dense - 1,
            "loss_increase": math.log(perplexity / dense),
            "loss_increase_error": 0.01,
            "densities": kept,
            "layers": (LayerDensities(0, kept),),
            "window_losses": (math.log(perplexity),) * 4,
        }
        | facts
    )


def record(*runs: EvaluatedRun, note: str = "") -> EvaluationRecord:
    text = EvaluatedText("made-up text", "a" * 64, note)
    return EvaluationRecord(HOST, "cpu", "float32", {"name": "made-up model"}, text, "dynax", runs)


SOME = (run("dense", 20, 1.0), run("sanger", 20.05, 0.5), run("nm", 20.1, 0.25), run("xm", 22, 0.1))


def test_the_table_has_a_row_for_each_method_at_each_length_and_its_own_numbers():
    low_bit = {"name": "xm", "prediction": {"group": 4, "bits": 6}}
    rows = list(
        csv.DictReader(io.StringIO(evaluation_csv(record(*SOME, run("x", 24, 0.2, length=2048, method=low_bit, bits_per_byte=1.5)))))
    )
    assert [(row["method"], row["length_tokens"]) for row in rows] == [
        ("dense", "1024"), ("sanger", "1024"), ("nm", "1024"), ("xm", "1024"), ("xm, 6-bit 1:4", "2048")
    ]  # fmt: skip
    assert set(rows[0]) == set(COLUMNS)
    assert (rows[3]["density"], rows[3]["full_density"], rows[3]["perplexity"]) == ("0.1", "0.05", "22")
    assert (rows[3]["model"], rows[3]["text"], rows[3]["protocol"]) == ("made-up model", "made-up text", "dynax")
    assert (rows[3]["bits_per_byte"], rows[4]["bits_per_byte"]) == ("", "1.5")
    assert rows[4]["loss_increase_standard_error_nats_per_token"] == "0.01"


def test_whiskers_are_one_standard_error_of_the_loss():
    dots = {row.method: row for row in perplexity_density(record(*SOME)).rows}
    assert dots["xm"].upper_perplexity == pytest.approx(22 * math.exp(0.01))
    assert dots["xm"].lower_perplexity == pytest.approx(22 / math.exp(0.01))
    alone = perplexity_density(record(run("dense", 20, 1.0), run("xm", 22, 0.1, loss_increase_error=None))).rows[1]
    assert (alone.lower_perplexity, alone.upper_perplexity) == (None, None)


def test_the_claim_names_the_sparsest_method_within_one_percent_of_dense():
    assert perplexity_density(record(*SOME)).claim == (
        "At 1024 tokens, perplexity 20.00 when dense, sanger and nm stay within 1 %; the sparsest of them, nm, keeps 0.250 of the pairs."
    )


def test_the_claim_names_the_nearest_where_none_is_within_one_percent():
    assert perplexity_density(record(run("dense", 20, 1.0), run("a", 25, 0.3), run("b", 22, 0.2))).claim == (
        "At 1024 tokens, perplexity 20.00 when dense, no method stays within 1 %; b, which keeps 0.200 of the pairs, comes nearest."
    )
    assert perplexity_density(record(run("dense", 20, 1.0))).claim.endswith("; no sparse method was tried.")


def test_each_length_has_its_own_claim_and_panel_with_its_own_dense_line():
    figure = perplexity_density(record(*SOME, run("dense", 18, 1.0, length=2048), run("xm", 19, 0.1, length=2048)))
    assert "At 1024 tokens" in figure.claim and "At 2048 tokens, perplexity 18.00 when dense" in figure.claim
    panels = figure.draw().axes
    assert [axes.get_title() for axes in panels] == ["length 1024 tokens, 4 windows", "length 2048 tokens, 4 windows"]
    texts = [{text.get_text() for text in axes.findobj(Annotation)} for axes in panels]
    assert texts == [{"dense 20.00", "sanger", "nm", "xm"}, {"dense 18.00", "xm"}]


def test_a_text_that_is_not_the_one_asked_for_is_told_in_the_notes():
    assert perplexity_density(record(*SOME)).notes[1:] == ()
    assert perplexity_density(record(*SOME, note="dataset wikitext2: not here")).notes[1:] == ("Dataset wikitext2: not here.",)


@pytest.mark.parametrize("step", [0.0, 0.0005, 0.01])
def test_names_cover_neither_each_other_nor_points_nor_the_dense_line(step: float):
    crowd = [run(f"method_{at}", 20.5 + 10 * step * at, 0.2 + step * at) for at in range(9)]
    figure = perplexity_density(record(*SOME, *crowd))
    with rc_context(house_style(figure.name)):
        canvas = figure.draw()
        canvas.draw_without_rendering()
        (axes,) = canvas.axes
        boxes = {name.get_text(): Text.get_window_extent(name) for name in axes.findobj(Annotation)}  # without the lines to them
        height = axes.transData.transform((1, 20))[1]
        points = [axes.transData.transform((row.density, row.perplexity)) for row in figure.rows if row.method != "dense"]
    assert len(boxes) == 1 + len(points)
    for name, box in boxes.items():
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1, name
        assert not any(box.contains(x, y) for x, y in points), name
        assert name.startswith("dense") or not box.y0 < height < box.y1, name
        for other, its in boxes.items():
            assert other == name or not box.overlaps(its), (name, other)


def test_four_files_are_written_and_the_drawing_stands_alone(tmp_path: Path):
    files = write_evaluation_report(record(*SOME), tmp_path / "new" / "folder")
    assert [path.name for path in files] == [
        "evaluation.csv", "perplexity_density.svg", "perplexity_density.png", "perplexity_density.csv"
    ]  # fmt: skip
    assert files[2].read_bytes().startswith(b"\x89PNG")
    root = ElementTree.parse(files[1]).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(files[3].read_text().splitlines()) == 1 + len(SOME)
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(path.name for path in files)


def test_the_same_record_gives_the_same_files(tmp_path: Path):
    first, second = (write_evaluation_report(record(*SOME), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
