"""How close each layer comes to what its machine's arithmetic and memory allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import RULE, SIMULATED, SOFT_INK, canvas, colours, logarithmic
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import dram_bytes, dram_gigabytes, peak_gmacs
from xmsim.reports.words import listed, percent, ranges, significant

LINE_SHARE = 0.055  # the height of a line of text, as a share of a panel's height


@dataclass(frozen=True, slots=True)
class RooflineDot:
    """One layer on one machine, all windows."""

    machine: str
    view: str
    method: str
    peak_gmac_per_s: float
    dram_gb_per_s: float
    layer: int
    useful_macs: int
    dram_bytes: int
    intensity_macs_per_byte: float
    rate_gmac_per_s: float

    @property
    def roof_gmac_per_s(self) -> float:
        return min(self.peak_gmac_per_s, self.dram_gb_per_s * self.intensity_macs_per_byte)


def roofline(comparison: Comparison) -> Figure | None:
    """A panel for each result; None if no layer moves a byte or asks for a multiplication."""
    rows = tuple(dot for one in comparison.simulated for layer in comparison.layers for dot in _dots(one, layer))
    if not rows:
        return None
    drawn = {(row.machine, row.view, row.layer) for row in rows}
    missing = len(comparison.simulated) * len(comparison.layers) - len(drawn)
    return Figure(
        name="roofline",
        title="Roofline of each simulated machine",
        claim=_claim(rows),
        rows=rows,
        draw=partial(_draw, rows, colours((one.label for one in comparison.simulated), SIMULATED)),
        notes=(
            "Useful MACs are those that the keep mask asks for, 2 × kept pairs × head_dim; what a machine computes beyond them, "
            "prediction included, does not count.",
            *([f"{missing} layers without useful MACs or DRAM traffic have no place on these axes."] if missing else []),
        ),
    )


def _dots(one: Simulated, layer: int) -> list[RooflineDot]:
    runs = [run for run in one.record.runs if run.layer == layer]
    macs = sum(run.result.useful_macs for run in runs)
    traffic = sum(dram_bytes(run.result) for run in runs)
    time_ms = one.record.milliseconds(sum(run.result.cycles for run in runs))
    if not (macs and traffic):
        return []
    return [
        RooflineDot(
            machine=one.label,
            view=one.record.view,
            method=one.method,
            peak_gmac_per_s=peak_gmacs(one.record.machine),
            dram_gb_per_s=dram_gigabytes(one.record.machine),
            layer=layer,
            useful_macs=macs,
            dram_bytes=traffic,
            intensity_macs_per_byte=macs / traffic,
            rate_gmac_per_s=macs / time_ms / 1e6,
        )
    ]


def _claim(rows: tuple[RooflineDot, ...]) -> str:
    parts = []
    for machine, view in dict.fromkeys((row.machine, row.view) for row in rows):
        dots = [row for row in rows if (row.machine, row.view) == (machine, view)]
        shares = [dot.rate_gmac_per_s / dot.roof_gmac_per_s for dot in dots]
        reached = dict.fromkeys((percent(min(shares)), percent(max(shares))))
        parts.append(f"{machine} ({view}) {' to '.join(reached)}")
    return f"Of the rate that its roofline allows, each layer reaches: {listed(parts)}."


def _draw(rows: tuple[RooflineDot, ...], colour: dict[str, str]) -> Canvas:
    panels = list(dict.fromkeys((row.machine, row.view, row.method) for row in rows))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = canvas(0.25 + 3.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    knees = [row.peak_gmac_per_s / row.dram_gb_per_s for row in rows]
    low_x = min(*knees, *(row.intensity_macs_per_byte for row in rows)) / 5
    high_x = max(*knees, *(row.intensity_macs_per_byte for row in rows)) * 4
    low_y = min(row.rate_gmac_per_s for row in rows) / 3
    high_y = max(row.peak_gmac_per_s for row in rows) * 2
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_xlim(low_x, high_x)
        axes.set_ylim(low_y, high_y)
        _draw_panel(
            axes, [row for row in rows if (row.machine, row.view, row.method) == panel], colour[panel[0]], (low_x, high_x, low_y, high_y)
        )
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    figure.supxlabel("simulated useful MACs per DRAM byte (logarithmic)", fontsize=8.5, color=SOFT_INK)
    figure.supylabel("simulated useful GMAC/s (logarithmic)", fontsize=8.5, color=SOFT_INK)
    return figure


def _draw_panel(axes: Axes, dots: list[RooflineDot], colour: str, limits: tuple[float, float, float, float]) -> None:
    low_x, high_x, low_y, high_y = limits
    peak, bandwidth = dots[0].peak_gmac_per_s, dots[0].dram_gb_per_s
    knee = peak / bandwidth
    axes.plot([low_x, knee, high_x], [bandwidth * low_x, peak, peak], color=colour, linewidth=1.6, solid_joinstyle="miter")
    axes.axvline(knee, color=RULE, linewidth=0.8, linestyle=(0, (2, 2)))
    xs, ys = [dot.intensity_macs_per_byte for dot in dots], [dot.rate_gmac_per_s for dot in dots]
    axes.scatter(xs, ys, s=26, color=colour, edgecolor="white", zorder=3)
    _write(axes, "peak", (high_x, peak), (-3, 4), ha="right")
    foot = max(low_x, low_y / bandwidth)
    shoulder = foot * (knee / foot) ** 0.7  # above the roof, where no dot can be
    _write(axes, "DRAM", (shoulder, bandwidth * shoulder), (-6, 2), ha="right")
    for place, layers in _places(dots, line=(high_y / low_y) ** LINE_SHARE):
        _write(axes, ranges(layers), place, (7, -3))
    axes.tick_params(labelbottom=True)  # a panel may stand above an empty place
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    limit = f"peak {significant(peak)} GMAC/s, DRAM {significant(bandwidth)} GB/s"
    axes.set_title(f"{dots[0].machine} · {dots[0].view}, {dots[0].method}\n{limit}", color=SIMULATED[0], fontsize=8.5)


def _write(axes: Axes, text: str, place: tuple[float, float], offset_points: tuple[float, float], ha: str = "left") -> None:
    axes.annotate(text, place, xytext=offset_points, textcoords="offset points", fontsize=7.5, color=SOFT_INK, ha=ha)


def _places(dots: list[RooflineDot], line: float) -> list[tuple[tuple[float, float], list[int]]]:
    """Where to write layer numbers: dots of nearly one height share a label, and no two labels touch.

    `line` is the height of a label, as a factor on the logarithmic axis.
    """
    labels: list[list[RooflineDot]] = []
    for dot in sorted(dots, key=lambda dot: dot.rate_gmac_per_s):
        if labels and dot.rate_gmac_per_s < line * labels[-1][0].rate_gmac_per_s:
            labels[-1].append(dot)
        else:
            labels.append([dot])
    places = []
    lowest = 0.0
    for members in labels:
        height = max(lowest, math.sqrt(members[0].rate_gmac_per_s * members[-1].rate_gmac_per_s))
        places.append(((max(dot.intensity_macs_per_byte for dot in members), height), [dot.layer for dot in members]))
        lowest = line * height
    return places
