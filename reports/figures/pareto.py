"""Which designs are worth building: points of a sweep that no other beats in everything, by latency, energy, area and perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xmsim.reports.figures.figure import Figure
from xmsim.reports.words import counted, listed, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

OBJECTIVES = {  # field: what an axis calls it; less is better
    "latency_ms": "latency, ms",
    "energy_uj": "energy, µJ (nominal)",
    "area_mm2": "area, mm² (nominal)",
    "perplexity": "perplexity a token (measured)",
}
PANEL_INCHES = 3.6


@dataclass(frozen=True, slots=True)
class DesignPoint:
    """One point of a sweep. What is not known is None, and then no objective of the figure."""

    machine: str
    method: str
    values: str  # of the axes
    latency_ms: float
    energy_uj: float | None  # nominal, as are latency and area
    area_mm2: float | None
    perplexity: float | None
    on_front: bool = False  # no other point is as good in every objective and better in one


def pareto(points: Sequence[DesignPoint], subject: str, name: str = "pareto") -> Figure:
    """Every point in every pair of objectives that latency is part of, and energy against area.

    An objective that some point does not know is left out for all.
    """
    objectives = [field for field in OBJECTIVES if all(getattr(point, field) is not None for point in points)]
    values = np.array([[getattr(point, field) for field in objectives] for point in points], float)
    rows = tuple(replace(point, on_front=bool(best)) for point, best in zip(points, undominated(values), strict=True))
    return Figure(
        name=name,
        title="Designs that no other beats",
        claim=_claim(rows, objectives),
        rows=rows,
        draw=partial(_draw, rows, objectives, subject),
        notes=("Filled: on the front of all objectives together. Line: the front of the two of a panel.",),
    )


def undominated(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Rows that no other row beats: one as low in every column and lower in one. Equal rows stand or fall together; bool [rows]."""
    best = np.zeros(len(values), bool)
    places = np.lexsort(values.T[::-1])
    rows = values[places]  # who beats a row comes before it, so that the first of those left is beaten by none
    while len(rows):
        best[places[(rows == rows[0]).all(axis=1)]] = True
        left = (rows < rows[0]).any(axis=1)
        places, rows = places[left], rows[left]
    return best


def _claim(rows: Sequence[DesignPoint], objectives: Sequence[str]) -> str:
    front = [row for row in rows if row.on_front]
    said = f"{len(front)} of {counted(len(rows), 'point')} are beaten by no other in {_names(objectives)}."
    for field in objectives:
        best = min(front, key=lambda row: getattr(row, field))
        what, _, unit = OBJECTIVES[field].partition(", ")
        said += f" Least {what.partition(' (')[0]}: {significant(getattr(best, field))}{f' {unit}' if unit else ''}, {_said(best)}."
    return said


def _names(objectives: Sequence[str]) -> str:
    return listed(OBJECTIVES[field].partition(",")[0].partition(" (")[0] for field in objectives)


def _said(row: DesignPoint) -> str:
    return f"{row.machine} with {row.method}{f' ({row.values})' if row.values else ''}"


def _draw(rows: Sequence[DesignPoint], objectives: Sequence[str], subject: str) -> Canvas:
    from xmsim.reports.figures.style import INK, SIMULATED, canvas, colours, heading, logarithmic, markers  # slow, as matplotlib is

    pairs = [("latency_ms", other) for other in objectives[1:]]
    if {"energy_uj", "area_mm2"} <= set(objectives):
        pairs.append(("area_mm2", "energy_uj"))
    pairs = pairs or [("latency_ms", "latency_ms")]
    lines = -(-len(pairs) // 2)
    figure = canvas(0.9 + PANEL_INCHES * lines)
    heading(figure, f"Simulated · {subject}", INK)
    panels = figure.subplots(lines, min(2, len(pairs)), squeeze=False).ravel()
    series = list(dict.fromkeys((row.machine, row.method) for row in rows))
    labels = [f"{machine}, {method}" for machine, method in series]
    colour, shape = colours(labels, SIMULATED), markers(labels)
    for axes, (across, up) in zip(panels, pairs, strict=False):
        for one, label in zip(series, labels, strict=True):
            for filled in (False, True):
                here = [row for row in rows if (row.machine, row.method) == one and row.on_front == filled]
                axes.scatter(
                    [getattr(row, across) for row in here],
                    [getattr(row, up) for row in here],
                    s=30 if filled else 12,
                    marker=shape[label],
                    facecolor=colour[label] if filled else "none",
                    edgecolor=colour[label],
                    linewidth=0.7,
                    alpha=1.0 if filled else 0.45,
                    label=label if filled else None,
                    zorder=3 if filled else 2,
                )
        _draw_front(axes, np.array([[getattr(row, across), getattr(row, up)] for row in rows], float))
        axes.set_xlabel(f"{OBJECTIVES[across]} (logarithmic)")
        axes.set_ylabel(f"{OBJECTIVES[up]} (logarithmic)")
        for axis in (axes.xaxis, axes.yaxis):
            logarithmic(axis, steps=(1, 2, 3, 5, 7))
    for axes in panels[len(pairs) :]:
        axes.remove()
    title = f"Filled: beaten by no other in {_names(objectives)}. Line: beaten by no other in the two of its panel."
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, title=title, title_fontsize=8, alignment="left"
    )
    return figure


def _draw_front(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    from xmsim.reports.figures.style import SOFT_INK

    front = np.unique(values[undominated(values)], axis=0)  # from left to right, and so from top to bottom
    axes.step(front[:, 0], front[:, 1], where="post", color=SOFT_INK, linewidth=0.8, zorder=1)
