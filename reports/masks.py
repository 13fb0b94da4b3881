"""What methods leave of a trace's blocks and tiles, and what a GPU is predicted to make of it beside simulated machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.record import read_record
from xmsim.reports.load import Comparison
from xmsim.reports.table import Cell, Number, Table
from xmsim.reports.totals import machine_totals
from xmsim.reports.words import factor, milliseconds, percent, significant
from xmsim.sim.result import PREFILL
from xmsim.workloads.evaluation import method_label
from xmsim.workloads.methods.mask_record import MASKS_VERSION, GpuPrediction, MaskRecord, MethodMasks, mean_statistics, read_masks

TILES_EXPLAINED = (
    "β: share of the tiles of so many neighbouring queries and one block of keys in which any pair is kept, so that a machine that skips "
    "tiles skips the others; U: different keys of a block that the queries of such a tile keep, so that one that gathers for all of them "
    "reads these. Last, the same of all query heads of a KV head together, and the turns that eight banks take to give eight of their keys."
)
NOT_VALIDATED = (
    "Times of a GPU are predicted from stated constants that no measurement validates, masks given, and those of simulated machines have "
    "their prediction in them."
)


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A file of statistics."""

    path: Path
    software: str  # the xmsim that wrote it
    record: MaskRecord


def read_mask_file(path: Path) -> MaskFile:
    """Read a file that `xmsim trace info --out` wrote.

    Raises:
        RecordError: the file cannot be used.
    """
    return MaskFile(path, str(read_record(path, "masks", MASKS_VERSION).get("xmsim", "unknown")), read_masks(path))


def tiles_table(one: MaskFile) -> Table:
    """Statistics of each method, means over the layers."""
    record = one.record
    columns = [
        *("method", "block, keys", "density"),
        *(f"{sign}({rows})" for sign in ("β", "U") for rows in record.tile_rows),
        *(f"{sign}({rows}), heads of a KV head" for sign in ("β", "U") for rows in record.group_rows),
        "turns of 8 banks",
    ]
    rows = []
    for each in record.methods:
        mean = mean_statistics([layer.statistics for layer in each.layers])
        row: list[Cell] = [method_label(each.method), Number(each.block, str(each.block)), _share(mean.densities.density)]
        row += [*map(_share, mean.live_tiles), *map(_number, mean.unions)]
        row += [*map(_share, mean.group_live_tiles), *map(_number, mean.group_unions), _number(mean.gather_turns)]
        rows.append(row)
    return Table("plain", f"Blocks and tiles that masks leave, {one.path.name}", columns, rows)


def gpu_table(one: MaskFile, comparison: Comparison | None) -> Table | None:
    """The predicted attention of each method on a GPU, beside machines that were simulated with it on the same; None: no GPU was named."""
    if one.record.gpu is None:
        return None
    gpu = one.record.gpu
    columns = ("method", f"{gpu}, dense", f"{gpu}, live tiles", "faster than dense", "simulated with this method")
    rows: list[list[Cell]] = []
    for each in one.record.methods:
        found = predicted_ms(each)
        if found is None:
            continue
        times = (Number(ms, milliseconds(ms)) for ms in (found.dense_ms, found.skipping_ms))
        ratio = found.dense_ms / found.skipping_ms
        rows.append([method_label(each.method), *times, Number(ratio, factor(ratio)), _machines(one, each, comparison)])
    return Table("plain", f"Attention on {gpu}, predicted and not validated, {one.path.name}", columns, rows)


def predicted_ms(method: MethodMasks) -> GpuPrediction | None:
    """All layers; None where one has no prediction."""
    found = [layer.gpu for layer in method.layers if layer.gpu]
    if len(found) < len(method.layers):
        return None
    return GpuPrediction(sum(one.dense_ms for one in found), sum(one.skipping_ms for one in found))


def mask_rows(one: MaskFile) -> Iterator[tuple[object, ...]]:
    """Rows of report.csv, from `source` to `unit`: each statistic of each layer."""
    record = one.record
    for each in record.methods:
        label = method_label(each.method)
        for layer in each.layers:
            place = ("counted", "", label, one.path.name, "masks", layer.layer, "", "", "")
            statistics = layer.statistics
            for rows, live, union in zip(record.tile_rows, statistics.live_tiles, statistics.unions, strict=True):
                yield *place, f"live tiles of {rows} queries", live, "fraction"
                yield *place, f"union of {rows} queries", union, "keys"
            for rows, live, union in zip(record.group_rows, statistics.group_live_tiles, statistics.group_unions, strict=True):
                yield *place, f"live tiles of {rows} queries, heads of a KV head", live, "fraction"
                yield *place, f"union of {rows} queries, heads of a KV head", union, "keys"
            yield *place, "turns of eight banks", statistics.gather_turns, "turns"
            if layer.gpu:
                predicted = ("predicted, not validated", record.gpu, label, one.path.name, "attention", layer.layer, "", "", "")
                yield *predicted, "latency, dense", layer.gpu.dense_ms, "ms"
                yield *predicted, "latency, live tiles", layer.gpu.skipping_ms, "ms"


def _machines(one: MaskFile, method: MethodMasks, comparison: Comparison | None) -> str:
    """`dynax_s 1.23 ms`: machines of this method, layers and windows."""
    if comparison is None:
        return "none"
    alike = comparison.layers == tuple(layer.layer for layer in method.layers) and len(comparison.windows) == one.record.windows
    found = [
        f"{machine.label} {milliseconds(machine_totals(machine.record).time_ms)}"
        for machine in comparison.simulated
        if alike and machine.phase == PREFILL and machine.record.method == method.method
    ]
    return ", ".join(found) or "none"


def _share(share: float) -> Number:
    return Number(share, percent(share))


def _number(value: float) -> Number:
    return Number(value, significant(value))
