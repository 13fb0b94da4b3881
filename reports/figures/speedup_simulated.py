"""Simulated machines against a simulated baseline: as they are, at equal peak, at equal area."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import SIMULATED, SOFT_INK, canvas, colours, heading, horizontal_bars, write_value
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import machine_totals, peak_gmacs, sample_notes
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import capitalised, factor, listed, milliseconds, significant

RAW = "raw"
EQUAL_PEAK = "equal peak MACs"
EQUAL_AREA = "equal area"


@dataclass(frozen=True, slots=True)
class SpeedupBar:
    """One machine under one normalisation."""

    view: str
    normalisation: str  # raw, equal peak MACs or equal area
    reference: str  # what every machine is scaled to
    machine: str
    method: str
    time_ms: float | None  # simulated, after normalisation; None: the area is not known
    speedup: float | None  # baseline's time_ms / time_ms
    baseline: str
    remark: str


def speedup_simulated(comparison: Comparison) -> Figure:
    """Speedup bars of the simulated machines, one row of panels for each view."""
    groups = view_groups(comparison)
    rows = tuple(row for group in groups for row in speedup_bars(group))
    return Figure(
        name="speedup_simulated",
        title="Simulated speedup",
        claim=" ".join(_claim(group) for group in groups),
        rows=rows,
        draw=partial(_draw, rows, colours((one.label for one in comparison.simulated), SIMULATED)),
        notes=(
            "Raw: cycles / clock. Normalised: the same time × (the machine's peak or area / the reference's), as if time fell in "
            "proportion to hardware, DRAM bandwidth included.",
            "Peak MACs are full-precision multiply-accumulates; arrays that only predict scores are not counted.",
            *sample_notes(comparison.simulated),
            *dict.fromkeys(f"{row.machine}: {row.remark}." for row in rows if row.remark),
        ),
    )


def speedup_bars(group: ViewGroup) -> list[SpeedupBar]:
    """The bars of one group: raw, at equal peak MACs, and at equal area where the area is known."""
    base = group.baseline
    base_peak = peak_gmacs(base.record.machine)
    with_area = [one for one in (base, *group.members) if one.record.machine.area_mm2]
    base_area = with_area[0].record.machine.area_mm2 if with_area else None
    raw = {one.label: machine_totals(one.record).time_ms for one in group.members}
    at_equal_peak = {one.label: scaled(raw[one.label], peak_gmacs(one.record.machine), base_peak) for one in group.members}
    at_equal_area = {one.label: scaled(raw[one.label], one.record.machine.area_mm2, base_area) for one in group.members}
    area_text = f"{significant(base_area)} mm², that of {with_area[0].label}" if base_area else "no machine's area is known"
    return [
        *_bars(group, RAW, "milliseconds as simulated", raw, base),
        *_bars(group, EQUAL_PEAK, f"{significant(base_peak)} GMAC/s, that of {base.label}", at_equal_peak, base),
        *_bars(group, EQUAL_AREA, area_text, at_equal_area, with_area[0] if with_area else base),
    ]


def scaled(time_ms: float, amount: float | None, reference: float | None) -> float | None:
    """The time of a machine that has `amount` of something, had it `reference` of it and time fell in proportion.

    None where either is not known.
    """
    return time_ms * amount / reference if amount and reference else None


def _bars(group: ViewGroup, normalisation: str, reference: str, times: Mapping[str, float | None], base: Simulated) -> list[SpeedupBar]:
    base_time = times[base.label]
    bars = []
    for one in group.members:
        time = times[one.label]
        bars.append(
            SpeedupBar(
                view=group.title,
                normalisation=normalisation,
                reference=reference,
                machine=one.label,
                method=one.method,
                time_ms=time,
                speedup=base_time / time if base_time and time else None,
                baseline=base.label,
                remark="" if time else f"area not known: {one.record.machine.area_source}",
            )
        )
    return bars


def _claim(group: ViewGroup) -> str:
    bars = speedup_bars(group)
    others = [bar for bar in bars if bar.normalisation == RAW and bar.machine != bar.baseline]
    view = capitalised(group.title.partition(":")[0])
    if not others:
        return f"{view}: {group.baseline.label} is the only machine, so there is no speedup to state."
    at_equal_peak = {bar.machine: bar.speedup for bar in bars if bar.normalisation == EQUAL_PEAK}
    parts = [f"{bar.machine} {_times(bar.speedup)} ({_times(at_equal_peak[bar.machine])} at equal peak MACs)" for bar in others]
    lost = [bar.machine for bar in others if (bar.speedup or 0) > 1 >= (at_equal_peak[bar.machine] or 0)]
    verdict = f" At equal peak MACs the advantage of {listed(lost)} is gone." if lost else ""
    return f"{view}, speed relative to {group.baseline.label}: {listed(parts)}.{verdict}"


def _times(speedup: float | None) -> str:
    return factor(speedup) if speedup else "unknown"


def _draw(rows: tuple[SpeedupBar, ...], colour: dict[str, str]) -> Canvas:
    views = list(dict.fromkeys(row.view for row in rows))
    counts = [len({row.machine for row in rows if row.view == view}) for view in views]
    heights = [1.3 + 0.34 * count for count in counts]
    figure = canvas(sum(heights))
    parts = figure.subfigures(len(views), 1, squeeze=False, height_ratios=heights)[:, 0]
    for view, part in zip(views, parts, strict=True):
        heading(part, f"Simulated · {view}", SIMULATED[0])
        panels = part.subplots(1, 3, sharey=True)
        for axes, normalisation in zip(panels, (RAW, EQUAL_PEAK, EQUAL_AREA), strict=True):
            _draw_panel(axes, [row for row in rows if row.view == view and row.normalisation == normalisation], colour)
        panels[0].invert_yaxis()
    return figure


def _draw_panel(axes: Axes, rows: list[SpeedupBar], colour: dict[str, str]) -> None:
    known = [row.speedup for row in rows if row.speedup]
    reach = max(known, default=1.0)
    for place, row in enumerate(rows):
        if row.speedup is None or row.time_ms is None:
            apart = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # from the line of the reference
            axes.text(0, place, " area not known", va="center", style="italic", color=SOFT_INK, fontsize=8, bbox=apart, zorder=5)
            continue
        axes.barh(place, row.speedup, height=0.66, color=colour[row.machine])
        write_value(axes, f"{factor(row.speedup)} · {milliseconds(row.time_ms)}", row.speedup, place)
    axes.set_yticks(range(len(rows)), [f"{row.machine}\n{row.method}" for row in rows])
    axes.axvline(1, color=SOFT_INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 1.75 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    horizontal_bars(axes)
    axes.set_title({RAW: "raw", EQUAL_PEAK: "normalised to equal peak MACs", EQUAL_AREA: "equal area, where known"}[rows[0].normalisation])
    axes.set_xlabel(f"simulated speedup over {rows[0].baseline} (×)\n{rows[0].reference}" if known else rows[0].reference)
