"""Measured kernels that skip work against kernels that skip nothing: whole models, linear layers, attention of one shape each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MEASURED, SOFT_INK, canvas, horizontal_bars, write_value
from xmsim.reports.measured_work import DECODE, GENERATION, LINEAR, PREFILL, TPOT, MeasuredKernel, Work, threads_of, works
from xmsim.reports.words import counted, factor, milliseconds

OF_A_KIND = {GENERATION: 4, LINEAR: 3, PREFILL: 1, DECODE: 1}  # panels; the others are in the tables
TITLE_LETTERS = 105
TORCH, DENSE = "torch", "our dense kernel"
COLOURS, SHAPES = {TORCH: MEASURED[0], DENSE: MEASURED[1]}, {TORCH: "o", DENSE: "s"}


@dataclass(frozen=True, slots=True)
class KernelPoint:
    """A kernel over one baseline."""

    work: str
    conditions: str
    host: str
    file: str
    kernel: str
    over: str  # TORCH or DENSE
    speedup: float  # median of pairs
    first_quartile: float | None  # None: a ratio of medians
    third_quartile: float | None
    median_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    n: int


def kernel_speedups(kernels: Sequence[MeasuredKernel]) -> Figure | None:
    """A panel a work, the most telling ones; None where no kernel has a baseline beside it."""
    chosen = _chosen(kernels)
    rows = tuple(point for here in chosen.values() for kernel in here for point in _points(kernel))
    if not rows:
        return None
    left = len(works(kernels)) - len(chosen)
    others = (f"{counted(left, 'other shape')} and conditions of the same files are in the tables.",) if left else ()
    return Figure(
        name="kernel_speedups",
        title="Measured kernels over kernels that skip nothing",
        claim=_claim(rows),
        rows=rows,
        draw=partial(_draw, rows),
        notes=(
            "Ratios of pairs of runs that took turns: median and quartiles. Of the first token, the ratio of two medians. Over torch, a "
            "ratio holds what sparsity gives and what torch's kernel leaves; over our dense kernel it holds sparsity alone.",
            *others,
        ),
    )


def _chosen(kernels: Sequence[MeasuredKernel]) -> dict[Work, list[MeasuredKernel]]:
    """Work of few tokens and many threads first: it is what a user waits for."""
    found = {work: rows for work, rows in works(kernels).items() if any(_points(row) for row in rows)}
    picked: list[Work] = []
    for kind, most in OF_A_KIND.items():
        here = [work for work in found if work.kind == kind]
        here.sort(key=lambda work: (_tokens(found[work]), -threads_of(work), -_time(found[work])))
        picked += here[:most]
    return {work: found[work] for work in picked}


def _tokens(rows: list[MeasuredKernel]) -> int:
    return rows[0].shape[2] if rows[0].shape else 0


def _time(rows: list[MeasuredKernel]) -> float:
    return max(row.timing.median_ms for row in rows) if rows[0].work.kind != GENERATION else float(rows[0].work.what.startswith(TPOT))


def _points(row: MeasuredKernel) -> list[KernelPoint]:
    if row.kernel.startswith("torch") or row.is_part:
        return []  # how much slower torch is than ours is the same number, from the other side; a part does not do the work
    timing = row.timing
    return [
        KernelPoint(
            row.work.what,
            row.work.conditions,
            row.work.host,
            row.work.file,
            row.kernel,
            base,
            ratio.median,
            ratio.first_quartile,
            ratio.third_quartile,
            timing.median_ms,
            timing.first_quartile_ms,
            timing.third_quartile_ms,
            timing.n,
        )
        for base, ratio in ((TORCH, row.over_torch), (DENSE, row.over_dense))
        if ratio
    ]


def _claim(rows: Sequence[KernelPoint]) -> str:
    """The largest speedup over each baseline."""
    parts = []
    for base in (DENSE, TORCH):
        own = [row for row in rows if row.over == base]
        if own:
            best = max(own, key=lambda row: row.speedup)
            parts.append(f"over {base} {factor(best.speedup)} ({best.kernel}; {best.work}; {best.host})")
    return f"The largest measured speedups: {'; '.join(parts)}."


def _draw(rows: Sequence[KernelPoint]) -> Canvas:
    panels = list(dict.fromkeys((row.work, row.conditions, row.host, row.file) for row in rows))
    groups = [[row for row in rows if (row.work, row.conditions, row.host, row.file) == panel] for panel in panels]
    sizes = [len({row.kernel for row in here}) for here in groups]
    figure = canvas(0.9 + sum(0.75 + 0.34 * size for size in sizes))
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[0.8 + size for size in sizes])[:, 0]
    for axes, here in zip(grid, groups, strict=True):
        _draw_panel(axes, here)
    grid[-1].set_xlim(0, 1.3 * max(row.third_quartile or row.speedup for row in rows))
    grid[-1].set_xlabel("measured speedup (×; whiskers: quartiles)")
    handles = [Line2D([], [], linestyle="none", marker=SHAPES[base], color=COLOURS[base], label=f"over {base}") for base in SHAPES]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def _draw_panel(axes: Axes, rows: list[KernelPoint]) -> None:
    kernels = list(dict.fromkeys(row.kernel for row in rows))
    for row in rows:
        place = kernels.index(row.kernel) + (0.0 if row.over == DENSE else -0.26)
        low, high = row.first_quartile or row.speedup, row.third_quartile or row.speedup
        reached = [[max(0.0, row.speedup - low)], [max(0.0, high - row.speedup)]]
        axes.errorbar(
            row.speedup,
            place,
            xerr=reached,
            fmt=SHAPES[row.over],
            markersize=6.5,
            color=COLOURS[row.over],
            ecolor=INK,
            elinewidth=0.9,
            capsize=2.5,
        )
        write_value(axes, factor(row.speedup), high, place)
    times = {row.kernel: row.median_ms for row in rows}
    axes.set_yticks(range(len(kernels)), [f"{kernel}\n{milliseconds(times[kernel])}" for kernel in kernels], fontsize=7.5)
    axes.set_ylim(len(kernels) - 0.5, -0.75)
    axes.axvline(1, color=SOFT_INK, linewidth=0.8, linestyle=(0, (2, 2)))
    horizontal_bars(axes)
    axes.set_title(fill(f"{rows[0].work}; {rows[0].conditions}; {rows[0].host}", TITLE_LETTERS), fontweight="normal", fontsize=8)
