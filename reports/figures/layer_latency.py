"""Latency of every layer: simulated and measured in panels of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from xmsim.reports.bench import benches, total_time
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import MEASURED, SIMULATED, canvas, colours, logarithmic, markers
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import sample_notes
from xmsim.reports.views import view_groups
from xmsim.reports.words import capitalised, factor

TITLE_LETTERS = 44  # what fits above half the width
LOGARITHMIC_ABOVE = 20  # largest over smallest: a linear axis would press the small ones onto zero


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, all its windows one after the other."""

    source: str  # simulated or measured
    panel: str
    series: str
    layer: int
    time_ms: float  # of a measured series: the median
    first_quartile_ms: float | None  # None: simulated, there is no spread
    third_quartile_ms: float | None


def layer_latency(comparison: Comparison) -> Figure:
    """A line for each simulated machine and each measured series."""
    rows = (*_simulated(comparison), *_measured(comparison))
    return Figure(
        name="layer_latency",
        title="Latency of every layer",
        claim=_claim(rows),
        rows=rows,
        draw=partial(_draw, rows),
        notes=sample_notes(comparison.simulated),
    )


def layer_cycles(one: Simulated, layer: int) -> int:
    """Cycles of one layer, over its windows and decoded tokens; an estimate where heads were sampled."""
    return sum(run.cycles for run in one.record.runs if run.layer == layer)


def _simulated(comparison: Comparison) -> list[LayerTime]:
    return [
        LayerTime("simulated", group.title, one.label, layer, one.record.milliseconds(layer_cycles(one, layer)), None, None)
        for group in view_groups(comparison)
        for one in group.members
        for layer in comparison.layers
    ]


def _measured(comparison: Comparison) -> list[LayerTime]:
    rows = []
    for bench in benches(comparison):
        for series in bench.series:
            for layer in comparison.layers:
                time = total_time(run for run in series.runs if run.layer == layer)
                name = f"{series.name}, {series.means}"
                rows.append(LayerTime("measured", bench.title, name, layer, time.median_ms, time.first_quartile_ms, time.third_quartile_ms))
    return rows


def _claim(rows: tuple[LayerTime, ...]) -> str:
    """Which series varies most from layer to layer: sparsity is uneven, and so is its time."""
    spreads: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        spreads.setdefault((row.source, row.series), []).append(row.time_ms)
    (source, series), times = max(spreads.items(), key=lambda item: max(item[1]) / min(item[1]))
    return f"Layers differ most for {series} ({source}): the slowest takes {factor(max(times) / min(times))} the time of the fastest."


def _draw(rows: tuple[LayerTime, ...]) -> Canvas:
    machines = [row.series for row in rows if row.source == "simulated"]
    colour, marker = colours(machines, SIMULATED), markers(machines)  # a machine has one of each in all panels
    panels = list(dict.fromkeys((row.source, row.panel) for row in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = canvas(3.6 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        here = [row for row in rows if (row.source, row.panel) == panel]
        if panel[0] == "simulated":
            _draw_panel(axes, here, colour, marker)
        else:
            measured = [row.series for row in here]
            _draw_panel(axes, here, colours(measured, MEASURED), markers(measured))
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    return figure


def _draw_panel(axes: Axes, rows: list[LayerTime], colour: dict[str, str], marker: dict[str, str]) -> None:
    source, family = rows[0].source, SIMULATED if rows[0].source == "simulated" else MEASURED
    for series in dict.fromkeys(row.series for row in rows):
        mine = [row for row in rows if row.series == series]
        layers, times = [row.layer for row in mine], [row.time_ms for row in mine]
        below = [max(0.0, row.time_ms - row.first_quartile_ms) if row.first_quartile_ms is not None else 0.0 for row in mine]
        above = [max(0.0, row.third_quartile_ms - row.time_ms) if row.third_quartile_ms is not None else 0.0 for row in mine]
        axes.errorbar(
            layers,
            times,
            yerr=[below, above] if source == "measured" else None,
            color=colour[series],
            marker=marker[series],
            markersize=5,
            linewidth=1.3,
            linestyle="-" if source == "simulated" else (0, (4, 2)),
            elinewidth=0.9,
            capsize=2.5,
            label=series,
        )
    times = [row.time_ms for row in rows]
    scale = ""
    if max(times) > LOGARITHMIC_ABOVE * min(times):
        scale = " (logarithmic)"
        logarithmic(axes.yaxis, steps=(1, 2, 5))
    else:
        axes.set_ylim(0, 1.08 * max(row.third_quartile_ms or row.time_ms for row in rows))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer")
    axes.set_ylabel(f"{source} latency, ms{scale}")
    title = f"Simulated · {rows[0].panel}" if source == "simulated" else f"{capitalised(rows[0].panel)}; median and quartiles"
    axes.set_title(fill(title, TITLE_LETTERS), color=family[0])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1 if source == "measured" else 3)
