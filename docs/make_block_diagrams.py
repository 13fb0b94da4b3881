"""Draw a block diagram of every machine model, with the sizes of its YAML: python docs/make_block_diagrams.py

A box is a unit: its name, its size, and in blue the stages of the Schedule that hold it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from PIL import Image

from xmsim.accel_models import load_accelerator

FOLDER = Path(__file__).parent / "figures" / "machines"
INK, STAGE_INK = "#1f2933", "#174a7c"
FILLS = {"memory": "#e4e7ec", "buffer": "#dbe8f5", "arithmetic": "#ffffff", "selection": "#fbe5d6"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A unit at its centre, in inches; `stages` are those of the Schedule that hold it."""

    name: str
    x: float
    y: float
    size: str = ""
    stages: tuple[str, ...] = ()
    kind: str = "arithmetic"
    width: float = 1.6
    height: float = 0.95

    def left(self, up: float = 0) -> Point:
        return self.x - self.width / 2, self.y + up

    def right(self, up: float = 0) -> Point:
        return self.x + self.width / 2, self.y + up

    def top(self, along: float = 0) -> Point:
        return self.x + along, self.y + self.height / 2

    def bottom(self, along: float = 0) -> Point:
        return self.x + along, self.y - self.height / 2


@dataclass(frozen=True)
class Wire:
    """Data on its way along `points`; `text` stands at `at`."""

    points: tuple[Point, ...]
    text: str = ""
    at: Point = (0, 0)
    both_ways: bool = False


@dataclass(frozen=True)
class Diagram:
    """Boxes and wires of a machine, in inches."""

    machine: str
    width: float
    height: float
    boxes: Sequence[Box]
    wires: Sequence[Wire] = field(default_factory=tuple)


def channel(dram: Any, y: float, height: float) -> Box:
    """The DRAM at the left edge."""
    return Box("DRAM", 0.6, y, f"{dram.gigabytes_per_second:g} GB/s\n{dram.latency_ns:g} ns", kind="memory", width=0.9, height=height)


def along(first: Point, last: Point, text: str = "", *, up: float = 0.11) -> Wire:
    """A straight wire with its text in the middle, a little above."""
    return Wire((first, last), text, ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2 + up))


def bend(first: Point, last: Point) -> Wire:
    """A wire that leaves level and arrives from above or below."""
    return Wire((first, (last[0], first[1]), last))


def _into(first: Point, last: Point, text: str) -> Wire:
    """A wire that leaves and arrives level, with a step halfway; its text stands on the outer side."""
    middle = (first[0] + last[0]) / 2
    outside = 0.11 if first[1] > last[1] else -0.12
    return Wire((first, (middle, first[1]), (middle, last[1]), last), text, (middle, first[1] + outside))


def size_of(buffer_bytes: int) -> str:
    return f"{buffer_bytes // 1024} KiB"


def dynax(name: str) -> Diagram:
    config = load_accelerator(name).config
    predict, prune, execute, scheduler = config.prediction_array, config.pruning, config.execute_array, config.scheduler
    dram = channel(config.dram, 2.35, 4.3)
    top, bottom = 3.55, 1.15
    queries = Box("query buffer", 2.35, top, "2 windows", ("query_load",), "buffer", width=1.35)
    keys = Box("key buffer", 2.35, 2.35, f"{size_of(predict.key_buffer_bytes)} of {predict.bits}-bit keys", kind="buffer", width=1.35)
    predictor = Box(
        "prediction array", 4.5, top, f"{predict.rows} × {predict.columns}, {predict.bits} bits\nexp, row and block sums", ("predictor",)
    )
    top_k = Box("top-k cascade", 6.5, top, f"{prune.kept} of {prune.block} keys", ("predictor_drain",), "selection")
    decision = Box("X:N decision", 8.45, top, f"X of a block ≤ {prune.kept}", ("decision",), "selection")
    index = Box("index buffer", 8.45, 2.35, "2 windows", kind="buffer", height=0.7)
    schedule = Box(
        "block scheduler",
        6.1,
        2.35,
        f"{scheduler.window_tiles} tiles a window\n{scheduler.rows_per_cycle} rows a cycle",
        ("scheduler",),
        "selection",
    )
    kv = Box("K/V buffer", 2.35, bottom, size_of(config.kv.buffer_bytes), ("kv_load",), "buffer", width=1.35)
    arrays = Box(
        "execution arrays",
        4.75,
        bottom,
        f"{execute.count} of {execute.rows} × {execute.columns}\nq·k, exp, p·v in place",
        ("execute", "execute_drain"),
        width=2.0,
        height=1.15,
    )
    divider = Box("accumulators, dividers", 7.0, bottom, f"{config.dividers} dividers", ("divider",), width=1.8)
    store = Box("output buffer", 8.95, bottom, "", ("store",), "buffer", width=1.1)
    return Diagram(
        name,
        9.7,
        4.7,
        (dram, queries, keys, predictor, top_k, decision, index, schedule, kv, arrays, divider, store),
        (
            along(dram.right(top - dram.y), queries.left(), "Q"),
            along(dram.right(), keys.left(), "low-bit K"),
            along(dram.right(bottom - dram.y), kv.left(), "K, V"),
            along(queries.right(), predictor.left(), f"1:{predict.group}"),
            bend(keys.right(), predictor.bottom(-0.4)),
            along(predictor.right(), top_k.left(), "exp"),
            along(top_k.right(), decision.left()),
            along(decision.bottom(), index.top()),
            along(index.left(), schedule.right(), "kept keys"),
            Wire((schedule.left(), (4.75, schedule.y), arrays.top()), "hardware\nblocks", (4.42, 2.0)),
            Wire((queries.right(-0.25), (3.35, top - 0.25), (3.35, bottom + 0.25), arrays.left(0.25)), "q", (3.45, 1.75)),
            along(kv.right(-0.15), arrays.left(-0.15), "k, v"),
            along(arrays.right(), divider.left()),
            along(divider.right(), store.left()),
            Wire((store.bottom(), (store.x, 0.3), dram.right(0.3 - dram.y)), "outputs", (5.0, 0.4)),
        ),
    )


def sanger(name: str) -> Diagram:
    config = load_accelerator(name).config
    predict, execute, pack = config.prediction_array, config.execute_array, config.pack
    dram = channel(config.dram, 2.35, 4.3)
    top, bottom = 3.55, 1.15
    queries = Box("query buffer", 2.35, top, "2 windows", ("query_load",), "buffer", width=1.35)
    keys = Box("key buffer", 2.35, 2.35, f"{size_of(predict.key_buffer_bytes)} of {predict.bits}-bit keys", kind="buffer", width=1.35)
    predictor = Box(
        "prediction array",
        4.6,
        top,
        f"{predict.rows} × {predict.columns}, {predict.bits} bits\nexp, row sums",
        ("predictor", "predictor_drain"),
        width=1.9,
        height=1.15,
    )
    packer = Box(
        "threshold, pack & split", 7.35, top, f"sub-rows of {execute.pes}, split by {pack.split}", ("pack",), "selection", width=2.2
    )
    masks = Box("mask buffer", 7.35, 2.35, "2 windows", kind="buffer", height=0.7)
    kv = Box("stripe of keys, values", 2.35, bottom, f"{execute.ports} ports", ("kv_load",), "buffer", width=1.75)
    array = Box(
        "execution array",
        4.85,
        bottom,
        f"{execute.rows} × {execute.pes}\nq·k, exp, p·v, sums in place",
        ("execute", "execute_drain"),
        width=2.0,
        height=1.15,
    )
    divider = Box("merge, dividers", 7.1, bottom, f"{config.dividers} dividers", ("divider",), width=1.6)
    store = Box("output buffer", 8.95, bottom, "2 windows", ("store",), "buffer", width=1.3)
    return Diagram(
        name,
        9.8,
        4.7,
        (dram, queries, keys, predictor, packer, masks, kv, array, divider, store),
        (
            along(dram.right(top - dram.y), queries.left(), "Q"),
            along(dram.right(), keys.left(), "low-bit K"),
            along(dram.right(bottom - dram.y), kv.left(), "K, V"),
            along(queries.right(), predictor.left()),
            bend(keys.right(), predictor.bottom(-0.4)),
            along(predictor.right(), packer.left(), "exp"),
            along(packer.bottom(), masks.top()),
            Wire((masks.left(), (4.85, masks.y), array.top()), "sub-rows of a pass", (5.75, 2.46)),
            Wire((queries.right(-0.25), (3.5, top - 0.25), (3.5, bottom + 0.25), array.left(0.25)), "q", (3.6, 1.75)),
            along(kv.right(-0.15), array.left(-0.15), "k, v"),
            along(array.right(), divider.left()),
            along(divider.right(), store.left()),
            Wire((store.bottom(), (store.x, 0.3), dram.right(0.3 - dram.y)), "outputs", (5.0, 0.4)),
        ),
    )


def salo(name: str) -> Diagram:
    config = load_accelerator(name).config
    dram = channel(config.dram, 1.6, 2.8)
    top, bottom = 2.45, 0.95
    queries = Box("query buffer", 2.45, top, "2 groups of rows", ("query_load",), "buffer", width=1.45)
    kv = Box("K/V buffer", 2.45, bottom, size_of(config.kv.buffer_bytes), ("kv_load",), "buffer", width=1.45)
    array, merge, store = _salo_pipeline(config, 5.15, (top + bottom) / 2)
    return Diagram(
        name,
        10.1,
        3.2,
        (dram, queries, kv, array, merge, store),
        (
            along(dram.right(top - dram.y), queries.left(), "Q"),
            along(dram.right(bottom - dram.y), kv.left(), "K, V"),
            _into(queries.right(), array.left(0.3), "q"),
            _into(kv.right(), array.left(-0.3), "k, v"),
            *_salo_outputs(dram, array, merge, store),
        ),
    )


def salo_v2(name: str) -> Diagram:
    config = load_accelerator(name).config
    matching = config.matching
    dram = channel(config.dram, 2.35, 4.3)
    top, middle, bottom = 3.75, 2.35, 0.95
    keys = Box(
        "key buffer", 2.45, top, f"{size_of(matching.key_buffer_bytes)} of {matching.bits}-bit keys", ("key_load",), "buffer", width=1.5
    )
    queries = Box("query buffer", 2.45, middle, f"{config.query_buffer_tiles} tiles", ("query_load",), "buffer", width=1.5)
    kv = Box("K/V buffer", 2.45, bottom, size_of(config.kv.buffer_bytes), ("kv_load",), "buffer", width=1.5)
    match = Box(
        "matching module",
        5.15,
        top,
        f"{matching.bits}-bit scores, window search,\nsorter for {matching.sorted_keys} of 64",
        ("matching", "matching_drain"),
        "selection",
        width=2.4,
        height=1.15,
    )
    patterns = Box("pattern buffer", 7.8, top, f"{matching.pattern_buffer_blocks} blocks", kind="buffer", height=0.7)
    array, merge, store = _salo_pipeline(config, 5.15, 1.55)
    return Diagram(
        name,
        10.1,
        4.7,
        (dram, keys, queries, kv, match, patterns, array, merge, store),
        (
            along(dram.right(top - dram.y), keys.left(), "low-bit K"),
            along(dram.right(middle - dram.y), queries.left(), "Q"),
            along(dram.right(bottom - dram.y), kv.left(), "K, V"),
            along(keys.right(), match.left()),
            Wire((queries.right(0.25), (3.55, middle + 0.25), (3.55, top - 0.35), match.left(-0.35)), "q", (3.45, 3.1)),
            along(match.right(), patterns.left()),
            Wire((patterns.bottom(), (patterns.x, 2.7), (array.x, 2.7), array.top()), "a pattern for each block of 64 × 64", (6.5, 2.81)),
            _into(queries.right(), array.left(0.3), "q"),
            _into(kv.right(), array.left(-0.3), "k, v"),
            *_salo_outputs(dram, array, merge, store),
        ),
    )


def _salo_pipeline(config: Any, x: float, y: float) -> tuple[Box, Box, Box]:
    """The array and what follows it, the same in both."""
    pe = config.pe_array
    private = f", {pe.random_columns} private" if pe.random_columns else ""
    columns = f"+ columns: {pe.global_columns} global{private}"
    size = f"{pe.rows} × {pe.columns}, {config.arithmetic.bits} bits\n{columns}\n+ rows: {pe.global_rows} global"
    array = Box("diagonal array", x, y, size, ("pe_array",), width=2.0, height=1.35)
    merge = Box("weighted sum", x + 2.3, y, "merges a row's passes", ("weighted_sum",), width=1.75)
    return array, merge, Box("output buffer", x + 4.15, y, "", ("store",), "buffer", width=1.15)


def _salo_outputs(dram: Box, array: Box, merge: Box, store: Box) -> tuple[Wire, ...]:
    return (
        along(array.right(), merge.left()),
        along(merge.right(), store.left()),
        Wire((store.bottom(), (store.x, 0.3), dram.right(0.3 - dram.y)), "outputs", (5.4, 0.41)),
    )


def systolic(name: str) -> Diagram:
    machine = load_accelerator(name)
    config = machine.config
    dram = channel(config.dram, 1.6, 2.8)
    top, bottom = 2.45, 0.95
    queries = Box("query buffer", 2.45, top, f"tiles of {machine.tile_queries} queries", ("load",), "buffer", width=1.6)
    kv = Box("K/V buffer", 2.45, bottom, size_of(config.kv_buffer_bytes), ("load",), "buffer")
    dataflow = "weight-stationary,\nwith accumulators" if machine.chain else "output-stationary"
    array = Box(
        "systolic array",
        5.0,
        (top + bottom) / 2,
        f"{config.pe_array.rows} × {config.pe_array.columns}\n{dataflow}",
        ("pe_array",),
        width=1.9,
        height=1.2,
    )
    scores = Box("score buffer", 7.55, top, f"{size_of(config.score_buffer_bytes)}, 2 tiles", kind="buffer", width=1.7)
    softmax = Box("softmax unit", 9.75, top, f"{config.softmax.elements_per_cycle} elements a cycle", ("softmax",), width=1.7)
    store = Box("output buffer", 7.55, bottom, "", ("store",), "buffer", width=1.7)
    return Diagram(
        name,
        10.75,
        3.2,
        (dram, queries, kv, array, scores, softmax, store),
        (
            along(dram.right(top - dram.y), queries.left(), "Q"),
            along(dram.right(bottom - dram.y), kv.left(), "K, V"),
            _into(queries.right(), array.left(0.3), "q"),
            _into(kv.right(), array.left(-0.3), "k, v"),
            Wire(
                (array.right(0.3), (6.3, array.y + 0.3), (6.3, top), scores.left()), "scores,\nprobabilities", (6.1, 2.72), both_ways=True
            ),
            Wire((scores.right(), softmax.left()), both_ways=True),
            Wire((array.right(-0.3), (6.3, array.y - 0.3), (6.3, bottom), store.left())),
            Wire((store.bottom(), (store.x, 0.3), dram.right(0.3 - dram.y)), "outputs", (5.0, 0.41)),
        ),
    )


DIAGRAMS = {"dynax_s": dynax, "dynax_l": dynax, "sanger": sanger, "salo": salo, "salo_v2": salo_v2, "dense": systolic, "dense_ws": systolic}


def draw(diagram: Diagram, path: Path) -> None:
    figure = plt.figure(figsize=(diagram.width, diagram.height + 0.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, diagram.width), ylim=(-0.25, diagram.height + 0.35))
    axes.axis("off")
    clock = load_accelerator(diagram.machine).config.clock_mhz
    axes.text(0.15, diagram.height + 0.12, f"{diagram.machine}, {clock:g} MHz", va="center", weight="bold", fontsize=11)
    for wire in diagram.wires:
        _draw_wire(axes, wire)
    for box in diagram.boxes:
        _draw_box(axes, box)
    names = {"memory": "memory", "buffer": "buffer", "arithmetic": "arithmetic", "selection": "chooses pairs"}
    shown = {box.kind for box in diagram.boxes}
    handles = [Patch(facecolor=FILLS[kind], edgecolor=INK, linewidth=0.8, label=name) for kind, name in names.items() if kind in shown]
    figure.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=8)
    axes.text(0.15, -0.08, "blue: the stages of the Schedule that hold a unit", va="center", fontsize=8, color=STAGE_INK)
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png")
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(64).save(path, optimize=True)  # four fills and ink, and what anti-aliasing adds


def _draw_box(axes: Axes, box: Box) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2, box.y - box.height / 2),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=FILLS[box.kind],
            edgecolor=INK,
            linewidth=1,
        )
    )
    lines = [(box.name, {"weight": "bold"})]
    lines += [(line, {}) for line in box.size.split("\n") if line]
    if box.stages:
        lines.append((", ".join(box.stages), {"color": STAGE_INK, "family": "DejaVu Sans Mono", "fontsize": 7.5}))
    for number, (text, looks) in enumerate(lines):
        axes.text(box.x, box.y + 0.185 * ((len(lines) - 1) / 2 - number), text, ha="center", va="center", **looks)


def _draw_wire(axes: Axes, wire: Wire) -> None:
    *way, last = wire.points
    axes.plot(*zip(*wire.points[:-1], strict=True), color=INK, linewidth=1.1, solid_joinstyle="miter")
    arrow = {"arrowstyle": "-|>", "mutation_scale": 10, "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(way[-1], last, **arrow))
    if wire.both_ways:
        axes.add_patch(FancyArrowPatch(wire.points[1], wire.points[0], **arrow))
    if wire.text:
        axes.text(*wire.at, wire.text, ha="center", va="center", fontsize=8)


def main() -> None:
    mpl.rcParams.update({"font.size": 8.5, "text.color": INK})
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, diagram in DIAGRAMS.items():
        draw(diagram(name), FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
