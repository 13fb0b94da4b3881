"""How our figures look. Simulated is blue to teal and plain, measured is orange to brown and hatched, everywhere.

Blue and orange stay apart under every common kind of colour blindness; shades within a family differ in lightness, and
the hatch carries the difference in print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

WIDTH_INCHES = 9.2

SIMULATED = ("#0b3c6f", "#3b8bc9", "#0f766e", "#8fc1e8", "#4b54b0", "#4fb3a4", "#a3a9e0")
MEASURED = ("#a63c06", "#f0913a", "#6b4423", "#f6c28b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # one more than colours, so that both start over together only after 56 labels
HATCH = "////"

INK = "#22262b"
SOFT_INK = "#5b636d"
RULE = "#c9ced6"


def house_style(name: str) -> dict[RcKeyType, Any]:
    """matplotlib settings of one figure; the name salts its ids, so that they repeat from run to run but not across figures."""
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # names from files may hold a dollar sign
        "axes.edgecolor": RULE,
        "axes.labelcolor": SOFT_INK,
        "axes.labelsize": 8.5,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e9ecf0",
        "grid.linewidth": 0.8,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": SOFT_INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8.5,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "hatch.color": "#ffffff",
        "hatch.linewidth": 0.7,
        "svg.fonttype": "path",  # the same letters on every machine
        "svg.hashsalt": name,
    }


def colours(labels: Iterable[str], family: tuple[str, ...]) -> dict[str, str]:
    """A colour of the family for each label, in order of appearance; a long list starts over."""
    return {label: family[i % len(family)] for i, label in enumerate(dict.fromkeys(labels))}


def markers(labels: Iterable[str]) -> dict[str, str]:
    return {label: MARKERS[i % len(MARKERS)] for i, label in enumerate(dict.fromkeys(labels))}


def canvas(height_inches: float) -> Canvas:
    return Canvas(figsize=(WIDTH_INCHES, height_inches), layout="constrained")


def heading(part: Canvas | SubFigure, text: str, colour: str) -> None:
    """A heading at the left of a row of panels."""
    part.suptitle(text, x=0.008, ha="left", fontsize=10, fontweight="bold", color=colour)


def write_value(axes: Axes, text: str, end: float, place: float, *, side: str = "right") -> None:
    """A number beside the end of a bar, readable over grid and reference lines."""
    axes.annotate(
        text,
        (end, place),
        xytext=(5, 0) if side == "right" else (-5, 0),
        textcoords="offset points",
        va="center",
        ha="left" if side == "right" else "right",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def write_whisker(axes: Axes, value: float, low: float, high: float, place: float) -> None:
    """From low to high around the end of a horizontal bar, edged in white, to be seen on dark bars."""
    reached = [[max(0.0, value - low)], [max(0.0, high - value)]]
    for colour, width in (("white", 3.0), (INK, 1.1)):
        axes.errorbar(value, place, xerr=reached, fmt="none", ecolor=colour, elinewidth=width, capsize=2.5)


def logarithmic(axis: XAxis | YAxis, *, steps: Sequence[float] = (1,)) -> None:
    """A logarithmic axis with plain numbers at steps × powers of ten."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def horizontal_bars(axes: Axes) -> None:
    """Rows without ticks or lines of their own; only the value axis has a grid."""
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
