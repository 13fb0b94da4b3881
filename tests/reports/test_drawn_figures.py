"""Figures as they are drawn: nothing is cut off, lines can be told apart, and every mark says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from tests.reports.test_evaluation import SOME, record
from tests.reports.test_sweep_report import design

from xmsim.reports.collection import collect, load
from xmsim.reports.difference.difference import difference_between
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.layer_latency import layer_latency
from xmsim.reports.figures.pareto import pareto
from xmsim.reports.figures.perplexity_density import perplexity_density
from xmsim.reports.figures.published_beside_ours import PUBLISHED, published_beside_ours
from xmsim.reports.figures.simulated_against_measured import simulated_against_measured
from xmsim.reports.figures.speedup_measured import speedup_measured
from xmsim.reports.figures.speedup_simulated import speedup_simulated
from xmsim.reports.figures.style import house_style
from xmsim.reports.figures.waterfall import waterfall

MEASURED = Path(__file__).resolve().parents[2] / "reports" / "measured"


def drawn(figure: Figure):
    with rc_context(house_style(figure.name)):
        canvas = figure.draw()
        canvas.draw_without_rendering()
    return canvas


def texts(canvas) -> list[str]:
    return [text.get_text() for text in canvas.findobj(Text)]


@pytest.fixture
def make(simulated, measured, estimated):
    comparison = load(
        [
            simulated("d.json", machine="dense", method="dense", costs=estimated()),
            simulated("s.json", costs=estimated()),
            measured("m.json"),
        ]
    )
    one, other = comparison.simulated
    return {
        "layer_latency": lambda: layer_latency(comparison),
        "speedup_simulated": lambda: speedup_simulated(comparison),
        "speedup_measured": lambda: speedup_measured(comparison),
        "simulated_against_measured": lambda: simulated_against_measured(comparison),
        "waterfall": lambda: waterfall(difference_between(other, one, comparison)),
        "published_beside_ours": lambda: published_beside_ours(collect([MEASURED / "linear_cpu.json", MEASURED / "attention_cpu.json"])),
        "perplexity_density": lambda: perplexity_density(record(*SOME)),
        "pareto": lambda: pareto([design(1, 2), design(2, 1)], "made-up trace"),
    }


NAMES = (
    "layer_latency",
    "speedup_simulated",
    "speedup_measured",
    "simulated_against_measured",
    "waterfall",
    "published_beside_ours",
    "perplexity_density",
    "pareto",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_off_at_the_edge(make, name):
    canvas = drawn(make[name]())
    width, height = canvas.get_size_inches()
    box = canvas.get_tightbbox()
    assert min(box.x0, box.y0) > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01


def test_more_machines_than_colours_are_told_apart_by_their_marks_the_same_in_every_panel(simulated):
    names = [f"machine_{number}" for number in range(8)]
    files = [simulated(f"{name}.json", machine=name) for name in names]
    same = [simulated(f"{name}.same.json", machine=name, view="same mask") for name in names[:0:-2]]
    native, given = drawn(layer_latency(load([*files, *same]))).axes
    looks = [{one.get_label(): (one[0].get_color(), one[0].get_marker()) for one in axes.containers} for axes in (native, given)]
    assert len(set(looks[0].values())) == len(names)
    assert len(looks[1]) == 4 and looks[1].items() <= looks[0].items()


def test_a_logarithmic_axis_says_so(simulated, make):
    fast, slow = simulated("f.json", machine="fast", head_cycles=20), simulated("s.json", machine="slow")
    (axes,) = drawn(layer_latency(load([fast, slow]))).axes
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "simulated latency, ms (logarithmic)"
    for axes in drawn(make["pareto"]()).axes:
        assert axes.get_xlabel().endswith("(logarithmic)") and axes.get_ylabel().endswith("(logarithmic)")


def test_the_legend_names_only_what_is_drawn(make):
    figure = make["published_beside_ours"]()
    (legend,) = drawn(figure).legends
    assert [text.get_text() for text in legend.get_texts()] == [PUBLISHED, "measured"]


def test_a_measured_speedup_has_the_quartiles_of_its_time(measured):
    figure = speedup_measured(load([measured("m.json")]))
    speed = drawn(figure).axes[0]
    whiskers = [one for one in speed.containers if isinstance(one, ErrorbarContainer)]
    reached = {tuple(segment[:, 0].round(6)) for one in whiskers for segment in one[2][0].get_segments()}
    base = next(row.time_ms for row in figure.rows if row.speedup == 1)
    assert reached == {(round(base / row.third_quartile_ms, 6), round(base / row.first_quartile_ms, 6)) for row in figure.rows}


def test_a_step_down_has_one_kind_of_minus(make):
    figure = make["waterfall"]()
    said = " ".join((*texts(drawn(figure)), figure.claim, *figure.notes))
    assert "−" in said and " -" not in said and "(-" not in said


def test_what_holds_for_a_view_is_said_once_for_all_groups(simulated, estimated):
    files = [
        simulated("d.json", machine="dense", method="dense", costs=estimated()),
        simulated("s.json", machine="dynax_s", costs=estimated()),
        simulated("d2.json", machine="dense", view="same mask", method="xm", costs=estimated()),
    ]
    notes = speedup_simulated(load(files)).notes
    heads = [note.partition(":")[0] for note in notes]
    assert len(heads) == len(set(heads))


def test_the_length_of_an_evaluation_has_its_number_of_windows_and_whiskers_are_explained(make):
    assert "length 1024 tokens, 4 windows" in texts(drawn(make["perplexity_density"]()))
    assert any("whiskers: standard error" in text for text in texts(drawn(make["perplexity_density"]())))
