"""The one figure in which simulated and measured times meet: their raw ratio, and it says so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from xmsim.reports.bench import Bench, Series, TotalTime, benches
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MEASURED, SIMULATED, SOFT_INK, canvas, heading, horizontal_bars, logarithmic, write_value
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import machine_totals, sample_notes
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import factor, significant

TITLE_LETTERS = 110  # what fits above the panel
WARNING = "Simulated accelerator against measured {device}, raw milliseconds; different technologies, see note"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster a simulated machine is than a measured kernel."""

    view: str
    machine: str
    method: str
    simulated_ms: float
    host: str
    device: str
    measured: str  # the kernel
    measured_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    speedup: float  # measured_ms / simulated_ms


def simulated_against_measured(comparison: Comparison) -> Figure:
    """Every simulated machine against the fastest measured dense and sparse attention of every host."""
    rows = tuple(
        _ratio(group, one, bench, name, time)
        for group in view_groups(comparison)
        for bench in benches(comparison)
        for one in group.members
        for name, time in _opponents(bench)
    )
    best = max(rows, key=lambda row: row.speedup)
    return Figure(
        name="simulated_against_measured",
        title="Simulated against measured",
        claim=f"The largest raw ratio is {factor(best.speedup)}: {best.machine} (simulated) over {best.measured} ({best.host}).",
        rows=rows,
        draw=partial(_draw, rows),
        notes=(
            "A simulated time is cycles / clock of an accelerator that exists as a model, alone with its memory. A measured time is the "
            "wall clock of a general-purpose chip with another process, area, clock, memory system and power. The ratio says nothing about "
            "efficiency, and neither side is scaled.",
            "Methods and precision may differ between the two sides: each name says which method ran. Prediction is inside the simulated "
            "time, and inside the measured time where it says that the mask is made too.",
            *sample_notes(comparison.simulated),
        ),
    )


def _opponents(bench: Bench) -> list[tuple[str, TotalTime]]:
    opponents: list[tuple[str, TotalTime]] = []
    if dense := bench.dense:
        opponents.append((_name(dense, ""), dense.total))
    if sparse := bench.sparse:
        how = ", mask made too" if bench.mask_of(sparse) else ", mask given"
        opponents.append((_name(sparse, how), bench.with_mask(sparse)))
    return opponents


def _name(series: Series, how: str) -> str:
    return f"{series.name}{how} ({series.means})"


def _ratio(group: ViewGroup, one: Simulated, bench: Bench, name: str, time: TotalTime) -> Ratio:
    simulated_ms = machine_totals(one.record).time_ms
    return Ratio(
        view=group.title,
        machine=one.label,
        method=one.method,
        simulated_ms=simulated_ms,
        host=bench.title,
        device="CPU" if bench.device == "cpu" else "GPU",
        measured=name,
        measured_ms=time.median_ms,
        first_quartile_ms=time.first_quartile_ms,
        third_quartile_ms=time.third_quartile_ms,
        speedup=time.median_ms / simulated_ms,
    )


def _draw(rows: tuple[Ratio, ...]) -> Canvas:
    panels = list(dict.fromkeys((row.view, row.host) for row in rows))
    sizes = [len({row.machine for row in rows if (row.view, row.host) == panel}) for panel in panels]
    heights = [2.0 + 0.42 * size for size in sizes]
    figure = canvas(sum(heights))
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, panel in zip(parts, panels, strict=True):
        here = [row for row in rows if (row.view, row.host) == panel]
        heading(part, WARNING.format(device=here[0].device), INK)
        axes = part.subplots()
        _draw_panel(axes, here)
        bars, labels = axes.get_legend_handles_labels()
        part.legend([bar[0] for bar in bars], labels, loc="outside lower left")  # markers without whiskers
    return figure


def _draw_panel(axes: Axes, rows: list[Ratio]) -> None:
    machines = list(dict.fromkeys(row.machine for row in rows))
    opponents = list(dict.fromkeys(row.measured for row in rows))
    for number, opponent in enumerate(opponents):
        duels = [row for row in rows if row.measured == opponent]
        places = [machines.index(row.machine) + 0.26 * (number - (len(opponents) - 1) / 2) for row in duels]
        ratios = [row.speedup for row in duels]
        spread = [
            [max(0.0, (row.measured_ms - row.first_quartile_ms) / row.simulated_ms) for row in duels],
            [max(0.0, (row.third_quartile_ms - row.measured_ms) / row.simulated_ms) for row in duels],
        ]
        axes.hlines(places, 1, ratios, color=MEASURED[number], linewidth=1.4)
        axes.errorbar(
            ratios,
            places,
            xerr=spread,
            fmt="os"[number],
            markersize=6.5,
            markerfacecolor=SIMULATED[0],
            markeredgecolor=MEASURED[number],
            markeredgewidth=1.6,
            ecolor=INK,  # or the line from 1 would hide the lower quartile
            elinewidth=1,
            capsize=2.5,
            label=f"over {opponent}: {significant(duels[0].measured_ms)} ms",
        )
        for place, row, ratio in zip(places, duels, ratios, strict=True):
            end, side = (row.third_quartile_ms, "right") if ratio >= 1 else (row.first_quartile_ms, "left")
            write_value(axes, factor(ratio), end / row.simulated_ms, place, side=side)
    labels = {row.machine: f"{row.machine} · {row.method}\n{significant(row.simulated_ms)} ms simulated" for row in rows}
    axes.set_yticks(range(len(machines)), [labels[machine] for machine in machines])
    axes.set_ylim(len(machines) - 0.4, -0.6)
    horizontal_bars(axes)
    logarithmic(axes.xaxis, steps=(1, 2, 5))
    lowest = min(row.first_quartile_ms / row.simulated_ms for row in rows)
    highest = max(row.third_quartile_ms / row.simulated_ms for row in rows)
    axes.set_xlim(min(0.8, 0.5 * lowest), max(1.3, 1.9 * highest))
    axes.axvline(1, color=SOFT_INK, linewidth=0.9)
    axes.set_title(fill(f"{rows[0].view}; {rows[0].host}", TITLE_LETTERS), fontweight="normal")
    axes.set_xlabel("measured ms / simulated ms (×, logarithmic; whiskers: measured quartiles)")
