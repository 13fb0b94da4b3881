"""What sparsity costs in text quality: perplexity against density, one panel for each length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Annotation
from matplotlib.ticker import NullLocator

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.labels import Label, write_labels
from xmsim.reports.figures.style import INK, MEASURED, SOFT_INK, canvas, colours, heading, logarithmic, markers
from xmsim.reports.words import capitalised, counted, listed, percent, significant
from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord

TOLERANCE = 0.01  # the loss that DynaX's authors call acceptable
DENSE = "dense"
INCREASES = (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100, 1000)  # ticks, over dense
PANEL_INCHES = 3.8


@dataclass(frozen=True, slots=True)
class PerplexityDot:
    """One method at one length."""

    length_tokens: int
    method: str
    density: float
    perplexity: float
    lower_perplexity: float | None  # one standard error of the loss difference to dense below and above; None for one window
    upper_perplexity: float | None
    perplexity_increase: float  # relative to dense


def perplexity_density(record: EvaluationRecord) -> Figure:
    """Every method of an evaluation; the dense model is the line that the others are measured by."""
    rows = tuple(_dot(run) for run in record.runs)
    subject = f"{record.model['name']} on {record.text.name}, protocol {record.protocol}, {record.dtype}"
    windows = {run.length_tokens: run.windows for run in record.runs}
    return Figure(
        name="perplexity_density",
        title="Perplexity against density",
        claim=" ".join(_claim([row for row in rows if row.length_tokens == length]) for length in _lengths(rows)),
        rows=rows,
        draw=partial(_draw, rows, subject, windows),
        notes=(
            "Density: kept / allowed pairs of attention, over all layers, heads and windows. Whiskers: one standard error of the loss "
            "difference to dense, which pairs the windows.",
            *([f"{capitalised(record.text.note)}."] if record.text.note else []),
        ),
    )


def _dot(run: EvaluatedRun) -> PerplexityDot:
    error = run.loss_increase_error
    return PerplexityDot(
        length_tokens=run.length_tokens,
        method=run.label,
        density=run.densities.density,
        perplexity=run.perplexity,
        lower_perplexity=None if error is None else run.perplexity * math.exp(-error),
        upper_perplexity=None if error is None else run.perplexity * math.exp(error),
        perplexity_increase=run.perplexity_increase,
    )


def _lengths(rows: tuple[PerplexityDot, ...]) -> list[int]:
    return list(dict.fromkeys(row.length_tokens for row in rows))


def _claim(rows: list[PerplexityDot]) -> str:
    (dense,) = (row for row in rows if row.method == DENSE)
    others = [row for row in rows if row is not dense]
    where = f"At {dense.length_tokens} tokens, perplexity {significant(dense.perplexity, 4)} when dense"
    near = [row for row in others if row.perplexity_increase <= TOLERANCE]
    if near:
        sparsest = min(near, key=lambda row: row.density)
        kept = f"the sparsest of them, {sparsest.method}, keeps {significant(sparsest.density)} of the pairs"
        return f"{where}, {listed(row.method for row in near)} stay within {percent(TOLERANCE)}; {kept}."
    if others:
        best = min(others, key=lambda row: row.perplexity)
        kept = f"{best.method}, which keeps {significant(best.density)} of the pairs, comes nearest"
        return f"{where}, no method stays within {percent(TOLERANCE)}; {kept}."
    return f"{where}; no sparse method was tried."


def _draw(rows: tuple[PerplexityDot, ...], subject: str, windows: dict[int, int]) -> Canvas:
    lengths = _lengths(rows)
    figure = canvas(0.6 + PANEL_INCHES * len(lengths))
    heading(figure, f"Measured · {subject}", INK)
    panels = figure.subplots(len(lengths), 1, squeeze=False, sharex=True)[:, 0]
    colour = colours(map(str, lengths), MEASURED)
    shape = markers(row.method for row in rows if row.method != DENSE)
    drawn = []
    for axes, length in zip(panels, lengths, strict=True):
        here = [row for row in rows if row.length_tokens == length]
        drawn.append((axes, here, _draw_panel(axes, here, colour[str(length)], shape)))
        axes.set_title(f"length {length} tokens, {counted(windows[length], 'window')}", color=colour[str(length)])
    densities = [row.density for row in rows if row.method != DENSE] or [1.0]
    panels[0].set_xlim(0.8 * min(densities), min(1.3, 1.6 * max(densities)))
    panels[-1].set_xlabel("density: kept / allowed pairs of attention (logarithmic)")
    whiskers = "; whiskers: standard error" if any(row.lower_perplexity is not None for row in rows) else ""
    figure.supylabel(
        f"measured perplexity a token, and increase over dense\n(linear to {percent(TOLERANCE)}, then logarithmic{whiskers})",
        fontsize=8.5,
        color=SOFT_INK,
    )
    figure.draw_without_rendering()  # settles the layout, on which the places of the names depend
    figure.set_layout_engine("none")
    for axes, here, dense_name in drawn:
        _write_names(axes, here, dense_name)
    return figure


def _draw_panel(axes: Axes, rows: list[PerplexityDot], colour: str, shape: dict[str, str]) -> Annotation:
    """Points, whiskers and the line of the dense model; gives the name of that line."""
    (dense,) = (row for row in rows if row.method == DENSE)
    axes.axhline(dense.perplexity, color=colour, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    name = axes.annotate(
        f"dense {significant(dense.perplexity, 4)}",
        (1, dense.perplexity),
        xycoords=("axes fraction", "data"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color=colour,
    )
    for row in rows:
        if row.method == DENSE:
            continue
        if row.lower_perplexity is not None and row.upper_perplexity is not None:
            axes.vlines(row.density, row.lower_perplexity, row.upper_perplexity, color=colour, linewidth=1, zorder=2)
        axes.plot(
            row.density,
            row.perplexity,
            marker=shape[row.method],
            color=colour,
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
        )
    axes.tick_params(labelbottom=True)
    logarithmic(axes.xaxis, steps=(1, 2, 3, 5, 7))
    _set_perplexity_scale(axes, rows, dense.perplexity)
    return name


def _set_perplexity_scale(axes: Axes, rows: list[PerplexityDot], dense: float) -> None:
    """Distance from dense: linear up to the tolerance, logarithmic beyond, so that a poor method leaves room for the good ones."""

    def height(perplexity: Any) -> Any:
        return np.arcsinh((np.asarray(perplexity) / dense - 1) / TOLERANCE)

    def perplexity(height: Any) -> Any:
        return dense * (1 + TOLERANCE * np.sinh(height))

    reach = [height(end) for row in rows for end in (row.lower_perplexity or row.perplexity, row.upper_perplexity or row.perplexity)]
    axes.set_yscale("function", functions=(height, perplexity))
    axes.set_ylim(perplexity(min(reach) - 0.6), perplexity(max(reach) + 0.3))
    low, high = axes.get_ylim()
    ticks = [step for step in INCREASES if low <= dense * (1 + step) <= high]
    axes.set_yticks(
        [dense * (1 + step) for step in ticks], [f"{significant(dense * (1 + step), 4)} ({100 * step:+.0f} %)" for step in ticks]
    )
    axes.yaxis.set_minor_locator(NullLocator())


def _write_names(axes: Axes, rows: list[PerplexityDot], dense_name: Annotation) -> None:
    (dense,) = (row for row in rows if row.method == DENSE)
    height = axes.transData.transform((1, dense.perplexity))[1]
    line = (axes.bbox.x0, height - 1, axes.bbox.x1, height + 1)
    name = dense_name.get_window_extent()
    whiskers = []
    for row in rows:
        if row.lower_perplexity is not None and row.upper_perplexity is not None:
            (x, low), (_, high) = axes.transData.transform([(row.density, row.lower_perplexity), (row.density, row.upper_perplexity)])
            whiskers.append((x - 1, low, x + 1, high))
    labels = [Label(row.method, row.density, row.perplexity) for row in rows if row.method != DENSE]
    write_labels(axes, labels, avoid=[line, (name.x0, name.y0, name.x1, name.y1), *whiskers])
