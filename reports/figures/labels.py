"""Names beside points, none of them over another name or point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from xmsim.reports.figures.style import SOFT_INK

DISTANCES_POINTS = (7, 13, 20, 28, 37, 47, 58, 70, 85, 100)  # from a point to the edge of its name
DIRECTIONS = 16  # tried at each distance
LEADER_POINTS = 10  # a name further away than this gets a line
GAP_POINTS = 4  # between names side by side
CLEARANCE_POINTS = 7  # around the other points, so that a name stands nearest to its own

Box = tuple[float, float, float, float]  # left, bottom, right, top; in pixels


@dataclass(frozen=True, slots=True)
class Label:
    """A name for a place in data coordinates."""

    text: str
    x: float
    y: float


def write_labels(axes: Axes, labels: Sequence[Label], avoid: Sequence[Box] = ()) -> None:
    """Write each name as near to its point as the others leave room, joined by a line where that is not near.

    The layout of the figure and the limits of the axes must be settled: places are found in the pixels of the final drawing.
    No name covers a box of `avoid`; lines may.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixels = figure.dpi / 72
    points = [tuple(axes.transData.transform((label.x, label.y))) for label in labels]
    radius = CLEARANCE_POINTS * pixels
    drawn = _Drawn(_box(axes.bbox), [(x - radius, y - radius, x + radius, y + radius) for x, y in points], list(avoid))
    for at in sorted(range(len(labels)), key=points.__getitem__):
        label, (x, y) = labels[at], points[at]
        written = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7.5,
            color=SOFT_INK,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT_INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
        size = Text.get_window_extent(written)  # without the line
        best = drawn.add_name(at, list(_places(x, y, size.width + GAP_POINTS * pixels, size.height, pixels)))
        written.set_position(((best.x - x) / pixels, (best.y - y) / pixels))
        if not best.far and written.arrow_patch is not None:
            written.arrow_patch.set_visible(False)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the middle of a name may stand, in pixels."""

    x: float
    y: float
    box: Box
    far: bool  # so far from its point that it gets a line


def _places(x: float, y: float, width: float, height: float, pixels: float) -> Iterator[_Place]:
    """Places around a point, nearest first: to the right, then alternately up and down from there."""
    for distance in DISTANCES_POINTS:
        for step in range(DIRECTIONS):
            angle = 2 * math.pi / DIRECTIONS * ((step + 1) // 2) * (1 if step % 2 else -1)
            there_x = x + math.cos(angle) * (distance * pixels + width / 2)
            there_y = y + math.sin(angle) * (distance * pixels + height / 2)
            box = (there_x - width / 2, there_y - height / 2, there_x + width / 2, there_y + height / 2)
            yield _Place(there_x, there_y, box, distance > LEADER_POINTS)


@dataclass(slots=True)
class _Drawn:
    """What is there already."""

    inside: Box
    points: list[Box]
    names: list[Box]
    lines: list[Path] = field(default_factory=list)

    def add_name(self, own: int, places: Sequence[_Place]) -> _Place:
        """Take the first place where the name of point `own` disturbs nothing, else that where it disturbs least."""
        costs = []
        for place in places:
            line = self._line(own, place)
            costs.append((self._covered(own, place.box), self._crossed(own, place.box, line)))
            if costs[-1] == (0, 0):
                break
        best = places[costs.index(min(costs))]
        self.names.append(best.box)
        if line := self._line(own, best):
            self.lines.append(line)
        return best

    def _line(self, own: int, place: _Place) -> Path | None:
        left, bottom, right, top = self.points[own]
        return Path([((left + right) / 2, (bottom + top) / 2), (place.x, place.y)]) if place.far else None

    def _covered(self, own: int, box: Box) -> float:
        """Area over names and other points, and outside the axes."""
        area = (box[2] - box[0]) * (box[3] - box[1])
        return sum(_shared(box, other) for other in (*self._others(own), *self.names)) + area - _shared(box, self.inside)

    def _crossed(self, own: int, box: Box, line: Path | None) -> int:
        """How many lines run over the name, and names and other points that its line runs over."""
        crossed = sum(_crosses(other, box) for other in self.lines)
        if line:
            crossed += sum(_crosses(line, other) for other in (*self._others(own), *self.names))
        return crossed

    def _others(self, own: int) -> list[Box]:
        return self.points[:own] + self.points[own + 1 :]


def _box(bbox: Bbox) -> Box:
    return float(bbox.x0), float(bbox.y0), float(bbox.x1), float(bbox.y1)


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _crosses(line: Path, box: Box) -> bool:
    return bool(line.intersects_bbox(Bbox.from_extents(*box)))
