"""Measured kernels against measured dense attention on the same host, with the making of the mask shown apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from xmsim.reports.bench import DENSE, SPARSE, Bench, Series, TotalTime, benches
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import HATCH, MEASURED, SOFT_INK, canvas, heading, horizontal_bars, write_value, write_whisker
from xmsim.reports.load import Comparison
from xmsim.reports.words import capitalised, factor, milliseconds

COLD = (
    "Kernels took turns on each token, and other data was read between them: keys and values come from memory, as in a model whose weights "
    "pass through the caches between two tokens."
)
ATTENTION_COLOUR, MASK_COLOUR = MEASURED[0], MEASURED[1]


@dataclass(frozen=True, slots=True)
class MeasuredBar:
    """One kernel on one host, over all layers and windows."""

    host: str
    what: str  # the operation, its method, and whether the making of the mask is in the time
    means: str  # backend and dtype
    attention_ms: float
    mask_ms: float  # 0 where the mask is given or none is needed
    time_ms: float  # the sum of both: medians
    first_quartile_ms: float
    third_quartile_ms: float
    n: int  # fewest repetitions behind any of the medians
    speedup: float | None  # None: no dense attention was measured
    baseline: str


def speedup_measured(comparison: Comparison) -> Figure:
    """Speedup bars and times of the measured kernels, one row of panels for each host, device and number of threads."""
    rows = tuple(bar for bench in benches(comparison) for bar in _bars(bench))
    return Figure(
        name="speedup_measured",
        title="Measured speedup",
        claim=" ".join(_claim(bench) for bench in benches(comparison)),
        rows=rows,
        draw=partial(_draw, rows),
        notes=(
            "Times are sums over layers and windows of medians; whiskers are the sums of quartiles. Those of a speedup are the dense "
            "attention's median over these quartiles.",
            "Only a time that includes the making of the mask is a fair speedup: a mask is not given to anyone for free.",
            *((COLD,) if any("read_before_each_call_bytes" in one.record.conditions for one in comparison.measured) else ()),
        ),
    )


def _bars(bench: Bench) -> list[MeasuredBar]:
    bars = []
    for series in bench.series:
        if series.operation == DENSE:
            bars.append(_bar(bench, series, series.name, series.total, mask_ms=0.0))
        elif series.operation == SPARSE:
            bars.append(_bar(bench, series, f"{series.name}, mask given", series.total, mask_ms=0.0))
            if mask := bench.mask_of(series):
                total = bench.with_mask(series)
                bars.append(_bar(bench, series, f"{series.name}, mask made too", total, mask_ms=mask.total.median_ms))
    return bars


def _bar(bench: Bench, series: Series, what: str, total: TotalTime, *, mask_ms: float) -> MeasuredBar:
    base = bench.dense
    return MeasuredBar(
        host=bench.title,
        what=what,
        means=series.means,
        attention_ms=series.total.median_ms,
        mask_ms=mask_ms,
        time_ms=total.median_ms,
        first_quartile_ms=total.first_quartile_ms,
        third_quartile_ms=total.third_quartile_ms,
        n=total.n,
        speedup=base.total.median_ms / total.median_ms if base else None,
        baseline=f"{base.name}, {base.means}" if base else "",
    )


def _claim(bench: Bench) -> str:
    dense, sparse = bench.dense, bench.sparse
    place = capitalised(bench.title)
    if not sparse:
        return f"{place}: no sparse attention was timed."
    if not dense:
        return f"{place}: no dense attention was timed, so there is no speedup to state."
    alone, whole = sparse.total.median_ms, bench.with_mask(sparse).median_ms
    given = f"{place}: {sparse.name} runs at {factor(dense.total.median_ms / alone)} the speed of dense attention when the mask is given"
    if not bench.mask_of(sparse):
        return f"{given}; the making of the mask was not timed."
    return f"{given}, at {factor(dense.total.median_ms / whole)} when it has to be made too."


def _draw(rows: tuple[MeasuredBar, ...]) -> Canvas:
    hosts = list(dict.fromkeys(row.host for row in rows))
    heights = [1.7 + 0.4 * sum(row.host == host for row in rows) for host in hosts]
    figure = canvas(sum(heights))
    parts = figure.subfigures(len(hosts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for host, part in zip(hosts, parts, strict=True):
        heading(part, capitalised(host), MEASURED[0])
        speed, time = part.subplots(1, 2, sharey=True)
        here = [row for row in rows if row.host == host]
        _draw_speedups(speed, here)
        _draw_times(time, here)
        speed.invert_yaxis()
        if any(row.mask_ms for row in here):
            part.legend(handles=_legend(), loc="outside lower right", ncols=2)
    return figure


def _draw_speedups(axes: Axes, rows: list[MeasuredBar]) -> None:
    reach = max((row.speedup * row.time_ms / row.first_quartile_ms for row in rows if row.speedup), default=1.0)
    for place, row in enumerate(rows):
        if row.speedup is None:
            axes.text(0, place, " no dense attention measured", va="center", style="italic", color=SOFT_INK, fontsize=8)
            continue
        _bar_on(axes, place, row.speedup, ATTENTION_COLOUR)
        low, high = (row.speedup * row.time_ms / quartile_ms for quartile_ms in (row.third_quartile_ms, row.first_quartile_ms))
        write_whisker(axes, row.speedup, low, high, place)
        write_value(axes, factor(row.speedup), high, place)
    axes.set_yticks(range(len(rows)), [f"{row.what}\n{row.means}" for row in rows])
    axes.axvline(1, color=SOFT_INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 1.25 * max(reach, 1))
    axes.set_title("raw")
    axes.set_xlabel("measured speedup over the fastest dense\nattention (×; whiskers: quartiles)")
    horizontal_bars(axes)


def _draw_times(axes: Axes, rows: list[MeasuredBar]) -> None:
    reach = max(row.third_quartile_ms for row in rows)
    for place, row in enumerate(rows):
        _bar_on(axes, place, row.attention_ms, ATTENTION_COLOUR)
        if row.mask_ms:
            _bar_on(axes, place, row.mask_ms, MASK_COLOUR, left=row.attention_ms)
        write_whisker(axes, row.time_ms, row.first_quartile_ms, row.third_quartile_ms, place)
        write_value(axes, f"{milliseconds(row.time_ms)}, n = {row.n}", max(row.third_quartile_ms, row.time_ms), place)
    axes.set_xlim(0, 1.5 * reach)
    axes.set_title("where the time goes")
    axes.set_xlabel("measured time, ms\n(median; whiskers: quartiles)")
    horizontal_bars(axes)


def _legend() -> list[Patch]:
    parts = {"attention": ATTENTION_COLOUR, "making the mask": MASK_COLOUR}
    return [Patch(facecolor=colour, hatch=HATCH, label=text) for text, colour in parts.items()]


def _bar_on(axes: Axes, place: int, length: float, colour: str, *, left: float = 0.0) -> None:
    axes.barh(place, length, left=left, height=0.62, color=colour, hatch=HATCH, edgecolor="white", linewidth=0)
