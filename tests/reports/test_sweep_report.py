"""The table and the Pareto figure of a sweep."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from xmsim.reports.figures.pareto import DesignPoint, pareto, undominated
from xmsim.reports.sweep import SweptPoint, points_csv, write_sweep_report


def design(latency: float, energy: float | None, area: float | None = 1.0, perplexity: float | None = None) -> DesignPoint:
    return DesignPoint("dynax_s", "xm", f"clock_mhz {latency}", latency, energy, area, perplexity)


def swept(trace: str, clock: int, metrics: dict[str, float] | None, error: str | None = None) -> SweptPoint:
    return SweptPoint("dynax_s", trace, "xm", {"clock_mhz": clock}, metrics, error, None)


def test_undominated_rows_are_those_that_no_other_beats() -> None:
    random = np.random.default_rng(0)
    for columns in (1, 2, 3):
        values = random.integers(0, 6, (60, columns)).astype(float)
        expected = [not any((other <= row).all() and (other < row).any() for other in values) for row in values]
        assert undominated(values).tolist() == expected


def test_equal_points_stand_together() -> None:
    assert undominated(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [True, True, False]


def test_an_objective_that_one_point_lacks_counts_for_none() -> None:
    figure = pareto([design(1, 5, perplexity=9), design(2, 1, perplexity=8), design(3, 4, perplexity=None)], "trace")
    assert [row.on_front for row in figure.rows] == [True, True, False]
    assert "2 of 3 points are beaten by no other in latency, energy and area." in figure.claim
    assert "Least latency: 1.00 ms, dynax_s with xm (clock_mhz 1)." in figure.claim
    with_perplexity = pareto([design(1, 5, perplexity=9), design(2, 1, perplexity=8), design(3, 4, perplexity=7)], "trace")
    assert [row.on_front for row in with_perplexity.rows] == [True, True, True]


@pytest.mark.parametrize("points", [[design(1, None, None)], [design(1, 2), design(2, 1)], [design(1, 2, 3, 4), design(2, 1, 3, 5)]])
def test_it_is_drawn_with_any_number_of_objectives(points: list[DesignPoint], tmp_path: Path) -> None:
    figure = pareto(points, "trace")
    figure.save_png(tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.csv().splitlines()) == len(points) + 1


def test_the_table_has_every_point_in_order_and_says_why_one_failed() -> None:
    table = points_csv([swept("a", 500, None, "too slow, by half"), swept("a", 400, {"total_cycles": 7, "latency_ms": 0.1})])
    failed, fine = csv.DictReader(table.splitlines())
    assert (failed["clock_mhz"], failed["total_cycles"], failed["error"]) == ("500", "", "too slow, by half")
    assert (fine["clock_mhz"], fine["total_cycles"], fine["latency_ms"], fine["error"]) == ("400", "7", "0.1", "")


def test_traces_are_not_mixed_in_a_figure_and_an_unchanged_one_is_not_drawn_again(tmp_path: Path) -> None:
    points = [swept("a/b", 500, {"latency_ms": 1.0}), swept("c", 500, {"latency_ms": 2.0}), swept("c", 400, None, "no")]
    figures, files = write_sweep_report(points, tmp_path)
    assert [len(figure.rows) for figure in figures] == [1, 1]
    assert {path.name for path in files} == {"points.csv", "pareto_a_b.csv", "pareto_a_b.png", "pareto_c.csv", "pareto_c.png"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pareto*")}
    write_sweep_report(points, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("pareto*")} == before
