"""What papers claim, as a series of its own, and our simulated and measured values of the same quantity beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from xmsim.reports.collection import Collection
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MEASURED, SIMULATED, SOFT_INK, canvas, horizontal_bars, logarithmic, write_value
from xmsim.reports.measured_tables import claims_note
from xmsim.reports.own_values import Compared, compared_claims
from xmsim.reports.words import counted, factor

PUBLISHED = "published"
LABEL_LETTERS = 52  # what fits beside the panel
COLOURS = {PUBLISHED: "#ffffff", "simulated": SIMULATED[1], "measured": MEASURED[1]}
SHAPES = {PUBLISHED: "D", "simulated": "o", "measured": "s"}


@dataclass(frozen=True, slots=True)
class ClaimPoint:
    """A published speedup, or one of ours."""

    claim: str
    quantity: str
    source: str  # published, simulated or measured
    name: str  # of the conditions
    speedup: float
    low: float
    high: float


def published_beside_ours(collection: Collection) -> Figure | None:
    """The claims of whose quantity we have a value; None where we have none."""
    known = [compared for compared in compared_claims(collection) if compared.ours]
    if not known:
        return None
    rows = tuple(point for compared in known for point in _points(compared))
    differences = [f"{one.claim.subject}, {one.claim.quantity}: {one.claim.conditions}; {one.claim.difference}." for one in known]
    return Figure(
        name="published_beside_ours",
        title="Published claims beside our values",
        claim=_claim(known),
        rows=rows,
        draw=partial(_draw, rows),
        notes=(claims_note(), *differences),
    )


def _points(compared: Compared) -> list[ClaimPoint]:
    claim = compared.claim
    place = claim.subject, claim.quantity
    name = "as its paper says" if not claim.up_to else "as its paper says, at best"
    points = [ClaimPoint(*place, PUBLISHED, name, claim.value, claim.value, claim.value)]
    return points + [ClaimPoint(*place, own.kind, own.name, own.value, own.low, own.high) for own in compared.ours]


def _claim(known: list[Compared]) -> str:
    """How many of the claims lie within what we find."""
    inside = [one for one in known if min(own.low for own in one.ours) <= one.claim.value <= max(own.high for own in one.ours)]
    verb = "lies" if len(inside) == 1 else "lie"
    return (
        f"Of {counted(len(known), 'claim')} of which we have the same quantity, {len(inside)} {verb} between our smallest and our largest "
        "value; conditions differ, as the notes say, so neither confirms nor refutes a paper."
    )


def _draw(rows: tuple[ClaimPoint, ...]) -> Canvas:
    panels = list(dict.fromkeys((row.claim, row.quantity) for row in rows))
    sizes = [sum((row.claim, row.quantity) == panel for row in rows) for panel in panels]
    figure = canvas(1.0 + sum(0.42 + 0.36 * size for size in sizes))
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[0.6 + size for size in sizes])[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, [row for row in rows if (row.claim, row.quantity) == panel])
    grid[-1].set_xlim(min(0.8, 0.7 * low), 1.7 * high)
    figure.supxlabel("times as fast, or times less energy (logarithmic)", fontsize=8.5, color=SOFT_INK)
    drawn = {row.source for row in rows}
    figure.legend(handles=[_mark(source) for source in SHAPES if source in drawn], loc="outside upper right", ncols=3)
    return figure


def _draw_panel(axes: Axes, rows: list[ClaimPoint]) -> None:
    for place, row in enumerate(rows):
        reached = [[max(0.0, row.speedup - row.low)], [max(0.0, row.high - row.speedup)]]
        axes.errorbar(
            row.speedup,
            place,
            xerr=reached,
            fmt=SHAPES[row.source],
            markersize=6.5,
            markerfacecolor=COLOURS[row.source],
            markeredgecolor=INK,
            ecolor=INK,
            elinewidth=1,
            capsize=2.5,
        )
        write_value(axes, factor(row.speedup), row.high, place)
    axes.set_yticks(range(len(rows)), [fill(f"{row.source}: {row.name}", LABEL_LETTERS) for row in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    logarithmic(axes.xaxis, steps=(1, 2, 5))
    axes.axvline(1, color=SOFT_INK, linewidth=0.9)
    axes.set_title(f"{rows[0].claim}: {rows[0].quantity}")
    horizontal_bars(axes)


def _mark(source: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker=SHAPES[source], markerfacecolor=COLOURS[source], markeredgecolor=INK, label=source)
