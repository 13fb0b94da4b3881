"""Step by step from the cycles and the energy of one machine to those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from xmsim.reports.difference.difference import difference_sentences
from xmsim.reports.difference.record import Difference
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import RULE, SIMULATED, SOFT_INK, canvas, horizontal_bars, write_value
from xmsim.reports.words import MINUS, significant, spaced

FEWER, MORE = SIMULATED[2], "#b0458f"  # apart under every common kind of colour blindness, and the sign is written


@dataclass(frozen=True, slots=True)
class Step:
    """A bar: a total, or a step from where the one above ends."""

    panel: str  # cycles or energy
    name: str
    kind: str  # total, step, or the part of a step that a unit has, which is not drawn
    value: float  # of a step A − B
    low: float | None  # of an estimate: 5th and 95th percentile
    high: float | None
    unit: str


def waterfall(found: Difference) -> Figure:
    """Cycles by cause, and energy by phase where it is estimated."""
    rows = (*_cycle_rows(found), *_energy_rows(found))
    sentences = difference_sentences(found)
    return Figure(
        name="waterfall",
        title=f"From {found.b.machine} to {found.a.machine}, step by step",
        claim=sentences[0],
        rows=rows,
        draw=partial(_draw, [row for row in rows if row.kind != "part"]),
        notes=sentences[1:],
    )


def _cycle_rows(found: Difference) -> list[Step]:
    a, b = found.a, found.b
    rows = [Step("cycles", b.machine, "total", b.total_cycles, None, None, "cycles")]
    rows += [Step("cycles", step.cause, "step", step.step_cycles, None, None, "cycles") for step in found.cycles]
    return [*rows, Step("cycles", a.machine, "total", a.total_cycles, None, None, "cycles")]


def _energy_rows(found: Difference) -> list[Step]:
    a, b = found.a, found.b
    if a.total_energy_pj is None or b.total_energy_pj is None:
        return []
    rows = [Step("energy", b.machine, "total", b.total_energy_pj, None, None, "pJ")]
    for phase in found.phases:
        rows.append(Step("energy", phase.phase, "step", phase.step, phase.step_low, phase.step_high, "pJ"))
        rows += [
            Step("energy", f"{step.phase}: {spaced(step.unit)}", "part", step.step, step.step_low, step.step_high, "pJ")
            for step in found.energy
            if step.phase == phase.phase
        ]
    return [*rows, Step("energy", a.machine, "total", a.total_energy_pj, None, None, "pJ")]


def _draw(rows: Sequence[Step]) -> Canvas:
    panels = list(dict.fromkeys(row.panel for row in rows))
    heights = [0.9 + 0.28 * sum(row.panel == panel for row in rows) for panel in panels]
    figure = canvas(sum(heights))
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0], panels, strict=True):
        _draw_panel(axes, [row for row in rows if row.panel == panel])
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Step]) -> None:
    scale, unit = (1e-6, "µJ") if rows[0].panel == "energy" else (1.0, "cycles")
    reached = 0.0
    ends = [0.0]
    for place, row in enumerate(rows):
        value = scale * row.value
        start = 0.0 if row.kind == "total" else reached
        end = start + value
        colour = SIMULATED[0] if row.kind == "total" else FEWER if value < 0 else MORE
        axes.barh(place, value, left=start, height=0.66, color=colour)
        sign = "" if row.kind == "total" else "+" if value > 0 else MINUS if value < 0 else ""
        bar = (
            f" ({significant(scale * row.low)} to {significant(scale * row.high)})" if row.low is not None and row.high is not None else ""
        )
        write_value(axes, f"{sign}{significant(abs(value))}{bar}", max(start, end), place)
        if place + 1 < len(rows):
            axes.plot((end, end), (place, place + 1), color=RULE, linewidth=0.8, zorder=0)
        reached = end
        ends.append(end)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0, color=SOFT_INK, linewidth=0.8)
    axes.set_xlim(min(0.0, 1.15 * min(ends)), 1.4 * max(ends))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    horizontal_bars(axes)
    axes.set_title(f"Simulated {rows[0].panel}, from {rows[0].name} to {rows[-1].name}", color=SIMULATED[0])
    axes.set_xlabel(f"simulated {unit}" if unit == "cycles" else f"estimated {unit}, nominal; in brackets 5 to 95 % of the step")


def _tick(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 10 or not value else f"{value:g}").replace("-", MINUS)
