"""Simulated machines against a simulated baseline, one panel a view: as they are, scaled to equal hardware, and by energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from xmsim.configs.costs import Bar
from xmsim.reports.comparison_views import ENERGY, EQUAL_AREA, EQUAL_PEAK, RAW, View, comparison_views, energy_ratios
from xmsim.reports.equal_accuracy import accuracy_groups
from xmsim.reports.estimates import PERCENTILES
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import SIMULATED, SOFT_INK, canvas, colours, heading, horizontal_bars, write_value, write_whisker
from xmsim.reports.load import Comparison
from xmsim.reports.quality import quality_notes, quality_of
from xmsim.reports.totals import machine_totals, sample_notes
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import MINUS, capitalised, factor, listed, milliseconds, significant

PANELS_ACROSS = 3
LABEL_LETTERS = 36  # what fits below a panel
METHOD_LETTERS = 22  # beside it


@dataclass(frozen=True, slots=True)
class SpeedupBar:
    """One machine in one view; low and high are the 5th and 95th percentile, and equal the value where nothing is estimated."""

    view: str
    normalisation: str  # the view of speed, or energy
    reference: str  # what every machine is scaled to
    machine: str
    method: str
    density: float
    perplexity: float | None  # None: no evaluation of this method was given
    perplexity_increase: float | None  # over dense, as a fraction
    perplexity_increase_error: float | None  # its standard error
    time_ms: float | None  # simulated, after normalisation; None: not known, or energy
    time_low_ms: float | None
    time_high_ms: float | None
    speedup: float | None  # baseline's time_ms / time_ms; of energy: the baseline's / its own
    speedup_low: float | None
    speedup_high: float | None
    baseline: str
    remark: str


def speedup_simulated(comparison: Comparison) -> Figure:
    """Bars of the simulated machines, one block of panels for each group."""
    return _figure("speedup_simulated", "Simulated speedup and energy", view_groups(comparison), comparison)


def speedup_at_equal_accuracy(comparison: Comparison) -> Figure | None:
    """The same at equal accuracy, one block a target; None where no machine meets one."""
    found = accuracy_groups(comparison)
    if not found:
        return None
    groups = tuple(one.group for one in found)
    missing = tuple(sentence for one in found for sentence in one.notes)
    return _figure("speedup_at_equal_accuracy", "Simulated speedup and energy at equal accuracy", groups, comparison, missing)


def _figure(name: str, title: str, groups: Sequence[ViewGroup], comparison: Comparison, notes: tuple[str, ...] = ()) -> Figure:
    rows = tuple(row for group in groups for row in speedup_bars(group, comparison))
    pitfalls: dict[str, dict[str, None]] = {}  # of a view, each once, whatever the number of groups
    for view in (view for group in groups for view in _views(group) if view.pitfalls):
        pitfalls.setdefault(view.name, {}).update(dict.fromkeys(view.pitfalls))
    return Figure(
        name=name,
        title=title,
        claim=" ".join(_claim(group, [row for row in rows if row.view == group.title]) for group in groups),
        rows=rows,
        draw=partial(_draw, rows, colours((one.label for group in groups for one in group.members), SIMULATED)),
        notes=(
            *notes,
            "Raw: cycles / clock. Every other view of speed is that time × (what the machine has / what the reference has), as if time "
            "fell in proportion to hardware, DRAM bandwidth included. "
            f"Whiskers: {PERCENTILES} of the ratio, by the error bars of the tables.",
            *(f"{capitalised(name)}: {' '.join(sentences)}" for name, sentences in pitfalls.items()),
            *quality_notes(comparison),
            *sample_notes(one for group in groups for one in group.members),
            *dict.fromkeys(f"{row.machine}: {row.remark}." for row in rows if row.remark),
        ),
    )


def speedup_bars(group: ViewGroup, comparison: Comparison) -> list[SpeedupBar]:
    """The bars of one group: every view of speed, and energy."""
    bars = []
    for view in _views(group):
        for one in group.members:
            quality = quality_of(one, comparison)
            why = view.missing.get(one.label)
            bars.append(
                SpeedupBar(
                    group.title,
                    view.name,
                    view.reference,
                    one.label,
                    one.method,
                    machine_totals(one.record).density,
                    quality.run.perplexity if quality else None,
                    quality.run.perplexity_increase if quality else None,
                    quality.run.loss_increase_error if quality else None,
                    *_numbers(view.times_ms.get(one.label)),
                    *_numbers(view.speedups.get(one.label)),
                    baseline=view.baseline,
                    remark=f"{view.name} not known: {why}" if why else "",
                )
            )
    return bars


def _views(group: ViewGroup) -> tuple[View, ...]:
    return (*comparison_views(group), energy_ratios(group))


def _numbers(bar: Bar | None) -> tuple[float | None, float | None, float | None]:
    return (bar.nominal, bar.low, bar.high) if bar else (None, None, None)


def _claim(group: ViewGroup, bars: list[SpeedupBar]) -> str:
    others = [bar for bar in bars if bar.normalisation == RAW and bar.machine != bar.baseline]
    view = capitalised(group.title.partition(":")[0])
    if not others:
        return f"{view}: {group.baseline.label} is the only machine, so there is no speedup to state."
    at_equal_peak, at_equal_area = ({bar.machine: bar for bar in bars if bar.normalisation == name} for name in (EQUAL_PEAK, EQUAL_AREA))
    parts = []
    for bar in others:
        scaled = [f"{_times(at_equal_peak[bar.machine])} at equal peak MACs"]
        if at_equal_area[bar.machine].speedup:
            scaled.append(f"{_times(at_equal_area[bar.machine])} at equal area")
        parts.append(f"{bar.machine} {_times(bar)} ({', '.join(scaled)})")
    lost = [bar.machine for bar in others if (bar.speedup or 0) > 1 >= (at_equal_peak[bar.machine].speedup or 0)]
    verdict = f" At equal peak MACs the advantage of {listed(lost)} is gone." if lost else ""
    return f"{view}, speed relative to {group.baseline.label}: {listed(parts)}.{verdict}"


def _times(bar: SpeedupBar) -> str:
    return factor(bar.speedup) if bar.speedup else "unknown"


def _draw(rows: tuple[SpeedupBar, ...], colour: dict[str, str]) -> Canvas:
    groups = list(dict.fromkeys(row.view for row in rows))
    views = list(dict.fromkeys(row.normalisation for row in rows))
    lines = -(-len(views) // PANELS_ACROSS)
    lines_each = max(_label(row).count("\n") + 1 for row in rows)
    each = 0.04 + 0.15 * lines_each
    heights = [lines * (1.15 + each * len({row.machine for row in rows if row.view == group})) + 0.3 for group in groups]
    figure = canvas(sum(heights))
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for group, part in zip(groups, parts, strict=True):
        heading(part, f"Simulated · {group}", SIMULATED[0])
        panels = part.subplots(lines, PANELS_ACROSS, sharey=True, squeeze=False)
        for axes, view in zip(panels.flat, views, strict=False):
            _draw_panel(axes, [row for row in rows if row.view == group and row.normalisation == view], colour)
        panels[0, 0].invert_yaxis()
    return figure


def _draw_panel(axes: Axes, rows: list[SpeedupBar], colour: dict[str, str]) -> None:
    known = [row for row in rows if row.speedup]
    reach = max((row.speedup_high or 0.0 for row in known), default=1.0)
    for place, row in enumerate(rows):
        if row.speedup is None or row.speedup_low is None or row.speedup_high is None:
            apart = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # from the line of the reference
            axes.text(0, place, " not estimated", va="center", style="italic", color=SOFT_INK, fontsize=8, bbox=apart, zorder=5)
            continue
        axes.barh(place, row.speedup, height=0.66, color=colour[row.machine])
        if row.speedup_high > row.speedup_low:
            write_whisker(axes, row.speedup, row.speedup_low, row.speedup_high, place)
        time = f" · {milliseconds(row.time_ms)}" if row.time_ms is not None and row.normalisation == RAW else ""
        write_value(axes, f"{factor(row.speedup)}{time}", max(row.speedup, row.speedup_high), place)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.axvline(1, color=SOFT_INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 1.6 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    horizontal_bars(axes)
    name, base = rows[0].normalisation, rows[0].baseline
    axes.set_title("energy, chip and DRAM" if name == ENERGY else name)
    what = f"times less simulated energy than {base}" if name == ENERGY else f"simulated speedup over {base}"
    lines = [what, rows[0].reference] if known else [f"simulated, {rows[0].reference}"]
    axes.set_xlabel("\n".join(fill(line, LABEL_LETTERS) for line in lines))


def _label(row: SpeedupBar) -> str:
    name, _, method = row.machine.partition(" · ")
    lines = [fill(name, METHOD_LETTERS), fill(method or row.method, METHOD_LETTERS), f"density {significant(row.density)}"]
    if row.perplexity is not None and row.perplexity_increase is not None:
        error = f" ± {100 * row.perplexity_increase_error:.1f}" if row.perplexity_increase_error is not None else ""
        increase = f"{100 * row.perplexity_increase:+.1f}".replace("-", MINUS)
        lines.append(f"perplexity {increase}{error} %" if row.perplexity_increase else "perplexity of dense")
    return "\n".join(lines)
