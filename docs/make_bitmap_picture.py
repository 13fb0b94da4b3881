"""Draw how a small matrix lies in a SparseBitmap: python docs/make_bitmap_picture.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from xmsim.reference.formats import SparseBitmap
from xmsim.reference.formats.tile_order import TILE_COLUMNS, TILE_ROWS

PICTURE = Path(__file__).parent / "figures" / "sparse_bitmap.png"
OUTPUTS, INPUTS, SPARSITY = 64, 96, 0.5
TILE, ROWS_SHOWN = 0, 4
EMPTY, STORED, EDGE, TILE_EDGE = "#ffffff", "#174a7c", "#c9ced6", "#c2571a"
ROW_COLOURS = ("#174a7c", "#c2571a", "#3f7d4e", "#7a4a8c")


def draw_matrix(axes: Axes, kept: np.ndarray, packed: SparseBitmap) -> None:
    """Which weights are stored, and in which order the tiles are."""
    axes.imshow(kept, cmap=ListedColormap([EMPTY, "#b9c8d8"]), interpolation="none", extent=(0, INPUTS, OUTPUTS, 0))
    inputs = TILE_ROWS * packed.order.per_word
    for tile, (block, k_tile, half) in enumerate(np.ndindex(packed.order.shape[:3])):
        left, top = k_tile * inputs, (2 * block + half) * TILE_COLUMNS
        axes.add_patch(Rectangle((left, top), inputs, TILE_COLUMNS, fill=False, edgecolor=TILE_EDGE, linewidth=1))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        look = {"color": TILE_EDGE, "fontweight": "bold", "ha": "center", "va": "center"}
        axes.text(left + inputs / 2, top + TILE_COLUMNS / 2, str(tile), bbox=box, **look)
    axes.set(xlabel="input", ylabel="output", xticks=range(0, INPUTS + 1, inputs), yticks=range(0, OUTPUTS + 1, TILE_COLUMNS))
    axes.set_title(f"{OUTPUTS} × {INPUTS} bfloat16 weights, half zero;\ntiles in the order of memory")


def draw_tile(axes: Axes, words: np.ndarray, bits: int) -> None:
    """The bits of one tile: a row is one word."""
    rows = (words[:, None] >> np.arange(bits, dtype=words.dtype) & 1).astype(bool)
    axes.imshow(rows, cmap=ListedColormap([EMPTY, STORED]), interpolation="none", extent=(0, bits, len(rows), 0))
    axes.set_xticks(range(0, bits + 1, 2), minor=True)
    axes.set_yticks(range(len(rows)), minor=True)
    axes.grid(which="minor", color=EDGE, linewidth=0.6)
    axes.set(xticks=np.arange(1, bits, 8), xticklabels=range(0, TILE_COLUMNS, 4), xlabel="output (two neighbouring inputs each)")
    pairs = [f"{2 * row}, {2 * row + 1}" for row in range(0, len(rows), 4)]
    axes.set(yticks=np.arange(0.5, len(rows), 4), yticklabels=pairs, ylabel="inputs")
    axes.tick_params(which="minor", length=0)
    axes.set_title(f"bitmap of tile {TILE}: a word of {bits} bits for each row\n(an AMX tile row, an AVX-512 register)")


def draw_values(axes: Axes, words: np.ndarray) -> None:
    """The first words as numbers, and whose values follow each other."""
    counts = np.bitwise_count(words[:ROWS_SHOWN]).astype(int)
    total = int(counts.sum())
    cursor = 0
    for row, (word, count, colour) in enumerate(zip(words, counts, ROW_COLOURS, strict=False)):
        axes.add_patch(Rectangle((cursor, 0), count, 1, facecolor=colour, edgecolor="white"))
        axes.text(cursor + count / 2, 0.5, f"{count} values", ha="center", va="center", color="white")
        axes.text(cursor + count / 2, 1.25, f"row {row}: 0x{word:08x}", ha="center", va="bottom", color=colour, family="monospace")
        axes.plot([cursor, cursor], [-0.15, 0], color=colour)
        axes.text(cursor, -0.25, str(cursor), ha="center", va="top")
        cursor += count
    axes.text(cursor + 0.5, 0.5, "…", va="center")
    axes.text(total / 2, -1.3, "index in values; the block's offset says where the first one is", ha="center", va="top")
    axes.set(xlim=(-0.5, total + 2), ylim=(-2.2, 2.2))
    axes.axis("off")
    axes.set_title("values, one word after the other: the next row starts where popcount(word) says")


def main() -> None:
    mpl.rcParams.update({"font.size": 8, "axes.titlesize": 9})
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((OUTPUTS, INPUTS), dtype=np.float32)
    weights[rng.random(weights.shape) < SPARSITY] = 0
    packed = SparseBitmap.from_dense(weights, dtype="bfloat16")
    words = packed.bitmap.reshape(-1, TILE_ROWS)[TILE]
    figure, axes = plt.subplot_mosaic(
        [["matrix", "tile"], ["values", "values"]], figsize=(9, 4.9), height_ratios=(3, 1), width_ratios=(1, 1.25), layout="constrained"
    )
    draw_matrix(axes["matrix"], weights != 0, packed)
    draw_tile(axes["tile"], words, packed.order.row_elements)
    draw_values(axes["values"], words)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
