"""Where the cycles of each unit went: at work, stalled and why, idle and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import SIMULATED, WIDTH_INCHES, canvas, horizontal_bars
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import DRAM, dram_bytes, machine_totals
from xmsim.reports.words import percent, spaced

FULL = "_full"  # a stall cause that ends so waits for the next unit to make room; any other waits for data

KINDS = {  # kind: (colour, hatch, legend)
    "busy": (SIMULATED[0], "", "busy"),
    "waiting for data": ("#b0458f", "", "stalled: waiting for data"),
    "next unit full": ("#dba3cc", "\\\\\\\\", "stalled: the next unit is full"),
    "fill": ("#d9dde3", "", "idle, fill: before its first work"),
    "starved": ("#aeb6c1", "", "idle, starved: no work has arrived"),
    "drain": ("#eceff3", "", "idle, drain: after its last work"),
}
NARROWEST_LABEL = 0.07  # share of the bar below which a word does not fit


@dataclass(frozen=True, slots=True)
class CycleShare:
    """What one unit of one machine did in some of its server-cycles, over all layers and windows."""

    machine: str
    view: str
    method: str
    bound_by: str
    stage: str
    kind: str  # one of KINDS
    cause: str  # as the result names it
    cycles: int
    share: float  # of servers × cycles


def cycle_account(comparison: Comparison) -> Figure:
    """A bar for each unit of each result."""
    rows = tuple(row for one in comparison.simulated for row in _shares(one))
    return Figure(
        name="cycle_account",
        title="Where the cycles went",
        claim=" ".join(_claim(one) for one in comparison.simulated),
        rows=rows,
        draw=partial(_draw, rows),
        notes=(f"{DRAM}: bytes moved / bandwidth; the channel has no account of its waiting.",),
    )


def _shares(one: Simulated) -> list[CycleShare]:
    results = [run.result for run in one.record.runs]
    bound_by = machine_totals(one.record).bound_by
    rows = []
    for stage in results[0].servers:
        account: Counter[tuple[str, str]] = Counter()
        for result in results:
            account["busy", "busy"] += result.busy[stage]
            for cause, cycles in result.stalls.get(stage, {}).items():
                account["next unit full" if cause.endswith(FULL) else "waiting for data", cause] += cycles
            for cause in ("fill", "starved", "drain"):
                account[cause, cause] += result.idle.get(stage, {}).get(cause, 0)
        whole = sum(result.servers[stage] * result.cycles for result in results)
        rows += [
            CycleShare(one.label, one.record.view, one.method, bound_by, stage, kind, cause, cycles, cycles / whole)
            for (kind, cause), cycles in sorted(account.items(), key=lambda item: list(KINDS).index(item[0][0]))
            if cycles
        ]
    cycles = sum(result.cycles for result in results)
    transfer = sum(dram_bytes(result) for result in results) / one.record.machine.dram_bytes_per_cycle
    name = (one.label, one.record.view, one.method, bound_by)
    return [*rows, CycleShare(*name, DRAM, "busy", "transfer", round(transfer), transfer / cycles)]


def _claim(one: Simulated) -> str:
    totals = machine_totals(one.record)
    busiest = totals.busiest_unit
    return f"{one.label} ({one.record.view}): {spaced(busiest.name)} busy {percent(busiest.share)}, bound by {totals.bound_by}."


def _draw(rows: tuple[CycleShare, ...]) -> Canvas:
    panels: dict[tuple[str, str, str], list[CycleShare]] = {}
    for row in rows:
        panels.setdefault((row.machine, row.view, row.method), []).append(row)
    heights = [0.5 + 0.27 * len({row.stage for row in here}) for here in panels.values()]
    figure = canvas(sum(heights) + 0.95)
    every_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, here in zip(every_axes, panels.values(), strict=True):
        _draw_panel(axes, here)
    every_axes[-1].set_xlabel("share of the unit's simulated server-cycles")
    used = {row.kind for row in rows}
    figure.legend(
        handles=[Patch(facecolor=colour, hatch=hatch, label=text) for kind, (colour, hatch, text) in KINDS.items() if kind in used],
        loc="outside lower left",
        ncols=3,
    )
    return figure


def _draw_panel(axes: Axes, rows: list[CycleShare]) -> None:
    stages = list(dict.fromkeys(row.stage for row in rows))
    for place, stage in enumerate(stages):
        left = 0.0
        for row in (row for row in rows if row.stage == stage):
            colour, hatch, _ = KINDS[row.kind]
            axes.barh(place, row.share, left=left, height=0.74, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6)
            if row.share >= NARROWEST_LABEL:
                axes.text(left + row.share / 2, place, _word(row), ha="center", va="center", fontsize=7.5, color=_ink(row))
            left += row.share
    axes.set_yticks(range(len(stages)), [spaced(stage) for stage in stages])
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    horizontal_bars(axes)
    axes.set_title(f"Simulated · {rows[0].machine} · {rows[0].view}, {rows[0].method} · bound by {rows[0].bound_by}", color=SIMULATED[0])


def _word(row: CycleShare) -> str:
    """As much as fits: the share, and the cause of a stall where the bar is wide enough."""
    cause = spaced(row.cause)
    room = row.share * WIDTH_INCHES * 72 * 0.85 / 4.6  # letters at this size
    named = f"{cause} {percent(row.share)}"
    return named if row.kind != "busy" and len(named) < room else percent(row.share)


def _ink(row: CycleShare) -> str:
    return "white" if row.kind in ("busy", "waiting for data") else "black"
