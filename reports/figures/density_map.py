"""Where the sparsity is: density of every head of every layer, one map for each method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from math import nan

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import SIMULATED, canvas
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import sample_notes
from xmsim.reports.words import significant

COLOUR_MAP = colormaps["Blues"].resampled(40)  # one hue, dark is dense; from 50 shades on, the colour bar would be a bitmap
BAR_INCHES = 0.16  # width of the colour bar
MOST_NUMBERED_CELLS = 160  # in a larger map the numbers would touch


@dataclass(frozen=True, slots=True)
class DensityCell:
    """One head of one layer under one method; the mean over windows."""

    method: str
    layer: int
    head: int
    density: float  # kept / allowed


def density_map(comparison: Comparison) -> Figure | None:
    """A map for each distinct method; None if every method keeps everything."""
    maps = {name: cells for name, cells in _maps(comparison).items() if any(cell.density < 1 for cell in cells)}
    rows = tuple(cell for cells in maps.values() for cell in cells)
    if not rows:
        return None
    return Figure(
        name="density_map",
        title="Density of every head",
        claim=" ".join(_claim(name, cells) for name, cells in maps.items()),
        rows=rows,
        draw=partial(_draw, rows),
        notes=(
            "Density = kept / allowed pairs; allowed is what the dense model computes. Methods that keep every pair have no map.",
            *sample_notes(comparison.simulated),
        ),
    )


def _maps(comparison: Comparison) -> dict[str, list[DensityCell]]:
    """Each distinct set of densities once, named by its method and, where one name stands for several, by machine."""
    distinct: dict[str, tuple[Simulated, dict[tuple[int, int], float]]] = {}
    for one in comparison.simulated:
        densities = _head_densities(one)
        key = json.dumps([one.record.method, sorted(densities.items())], sort_keys=True)
        distinct.setdefault(key, (one, densities))
    names = [one.method for one, _ in distinct.values()]
    maps: dict[str, list[DensityCell]] = {}
    for one, densities in distinct.values():
        name = one.method if names.count(one.method) == 1 else f"{one.method} ({one.label}, {one.record.view})"
        maps[name] = [DensityCell(name, layer, head, density) for (layer, head), density in densities.items()]
    return maps


def _head_densities(one: Simulated) -> dict[tuple[int, int], float]:
    """Density by (layer, head): the mean over windows, weighted by queries × keys."""
    pairs: dict[tuple[int, int], int] = {}
    kept: dict[tuple[int, int], float] = {}
    for run in one.record.runs:
        for head in run.result.heads:
            place = (run.layer, head.head)
            size = run.query_tokens * run.key_tokens
            pairs[place] = pairs.get(place, 0) + size
            kept[place] = kept.get(place, 0.0) + size * head.densities.density
    return {place: kept[place] / pairs[place] for place in sorted(pairs)}


def _claim(name: str, cells: list[DensityCell]) -> str:
    low, high = min(cells, key=lambda cell: cell.density), max(cells, key=lambda cell: cell.density)
    return (
        f"Under {name} density runs from {significant(low.density, 2)} (layer {low.layer}, head {low.head}) "
        f"to {significant(high.density, 2)} (layer {high.layer}, head {high.head})."
    )


def _draw(rows: tuple[DensityCell, ...]) -> Canvas:
    methods = list(dict.fromkeys(row.method for row in rows))
    layers, heads = len({row.layer for row in rows}), len({row.head for row in rows})
    columns = min(len(methods), 3 if heads <= 12 else 2 if heads <= 20 else 1)
    lines = -(-len(methods) // columns)
    line_inches = min(7.0, 1.0 + 0.34 * max(layers, 4))
    figure = canvas(lines * line_inches)
    grid = figure.subplots(lines, columns, squeeze=False)
    top = max(row.density for row in rows) or 1.0
    for axes, method in zip(grid.flat, methods, strict=False):
        _draw_map(axes, [row for row in rows if row.method == method], top)
    for axes in grid.flat[len(methods) :]:
        axes.remove()
    scale = ScalarMappable(Normalize(0, top), COLOUR_MAP)
    figure.colorbar(scale, ax=list(grid[0]), pad=0.02, aspect=line_inches / BAR_INCHES, label="density, kept / allowed")
    return figure


def _draw_map(axes: Axes, cells: list[DensityCell], top: float) -> None:
    layers = sorted({cell.layer for cell in cells})
    heads = sorted({cell.head for cell in cells})
    density = {(cell.layer, cell.head): cell.density for cell in cells}
    values = [[density.get((layer, head), nan) for head in heads] for layer in layers]
    axes.pcolormesh(values, cmap=COLOUR_MAP, vmin=0, vmax=top, edgecolors="white", linewidth=1.2)
    if len(cells) <= MOST_NUMBERED_CELLS:
        for (layer, head), value in density.items():
            middle = heads.index(head) + 0.5, layers.index(layer) + 0.5
            axes.text(*middle, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > 0.6 * top else "black")
    step = max(1, len(layers) // 16)
    axes.set_yticks([i + 0.5 for i in range(0, len(layers), step)], [str(layer) for layer in layers[::step]])
    step = max(1, len(heads) // 16)
    axes.set_xticks([j + 0.5 for j in range(0, len(heads), step)], [str(head) for head in heads[::step]])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(f"method {cells[0].method}", color=SIMULATED[0])
