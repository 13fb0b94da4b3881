"""What methods leave of the layers of a trace, as a record. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.densities import Densities
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record, write_record

MASKS_VERSION = 1
TILE_ROWS = (1, 4, 16, 64, 128)  # queries of a tile
GROUP_ROWS = (1, 16, 32)  # queries of a tile that holds all query heads of a KV head


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """Statistics of the keep masks of one layer, or means over several."""

    densities: Densities
    empty_blocks: float  # share of blocks of a row of which no key is kept
    low_blocks: float | None  # of which 1 to kept_low keys are; None: the method has no kept_low
    live_tiles: tuple[float, ...]  # beta: share of tiles of TILE_ROWS[i] × block with a kept pair
    unions: tuple[float, ...]  # U: keys of a block that TILE_ROWS[i] neighbouring queries keep together, of live tiles
    group_live_tiles: tuple[float, ...]  # the same of GROUP_ROWS[i] queries of all query heads of a KV head
    group_unions: tuple[float, ...]
    gather_turns: float  # of eight banks, in which eight keys are read that the query heads of a KV head keep for one query
    load_balance: float  # of Sanger's array after packing, empty rows skipped, and splitting


@dataclass(frozen=True, slots=True)
class GpuPrediction:
    """The attention of a layer on a GPU, all windows, by a model that nothing validates."""

    dense_ms: float
    skipping_ms: float  # tiles of 64 queries × 64 keys without a kept pair are left out; the mask is given


@dataclass(frozen=True, slots=True)
class LayerMasks:
    """A layer under a method."""

    layer: int
    statistics: MaskStatistics
    gpu: GpuPrediction | None  # None: no GPU was named


@dataclass(frozen=True, slots=True)
class MethodMasks:
    """A method on the layers of a trace."""

    method: dict[str, Any]  # its name and parameters, as in a result
    block: int  # keys
    layers: tuple[LayerMasks, ...]


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """Methods on a trace."""

    trace: dict[str, Any]
    windows: int
    tile_rows: tuple[int, ...]
    group_rows: tuple[int, ...]
    gpu: str | None  # whose constants, which no measurement validates
    methods: tuple[MethodMasks, ...]


def mean_statistics(statistics: Sequence[MaskStatistics]) -> MaskStatistics:
    """Means over layers or windows of one method."""
    densities = [one.densities for one in statistics]
    low = [one.low_blocks for one in statistics if one.low_blocks is not None]
    return MaskStatistics(
        densities=Densities(
            density=fmean(one.density for one in densities),
            full_density=fmean(one.full_density for one in densities),
            kv_density=fmean(one.kv_density for one in densities),
        ),
        empty_blocks=fmean(one.empty_blocks for one in statistics),
        low_blocks=fmean(low) if low else None,
        live_tiles=_mean_of_each([one.live_tiles for one in statistics]),
        unions=_mean_of_each([one.unions for one in statistics]),
        group_live_tiles=_mean_of_each([one.group_live_tiles for one in statistics]),
        group_unions=_mean_of_each([one.group_unions for one in statistics]),
        gather_turns=fmean(one.gather_turns for one in statistics),
        load_balance=fmean(one.load_balance for one in statistics),
    )


def _mean_of_each(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def write_masks(path: Path, record: MaskRecord) -> None:
    """Write a record of masks, whole or not at all."""
    write_record(path, "masks", MASKS_VERSION, encode(record))


def read_masks(path: Path) -> MaskRecord:
    """Read a record of masks.

    Raises:
        RecordError: not such a file, a later version, a value is missing or of the wrong type, or statistics are none.
    """
    record = decode(MaskRecord, read_record(path, "masks", MASKS_VERSION), str(path))
    for one in record.methods:
        for each in one.layers:
            if not _are_statistics(each.statistics, one.block, record) or (each.gpu and not _are_times(each.gpu)):
                raise RecordError(f"{path}: layer {each.layer}: a share, a union or a time is none; was the file edited? make it again")
    if not all(one.layers for one in record.methods):
        raise RecordError(f"{path}: a method has no layer; make the file again with xmsim trace info --out")
    return record


def _are_statistics(one: MaskStatistics, block: int, record: MaskRecord) -> bool:
    densities = one.densities
    shares = [densities.density, densities.full_density, densities.kv_density, one.empty_blocks, one.low_blocks or 0.0, one.load_balance]
    lengths = [(one.live_tiles, record.tile_rows), (one.unions, record.tile_rows)]
    lengths += [(one.group_live_tiles, record.group_rows), (one.group_unions, record.group_rows)]
    return (
        all(len(values) == len(rows) for values, rows in lengths)
        and all(0 <= share <= 1 for share in (*shares, *one.live_tiles, *one.group_live_tiles))
        and all(0 <= keys <= block for keys in (*one.unions, *one.group_unions))
        and 0 <= one.gather_turns <= 8
    )


def _are_times(one: GpuPrediction) -> bool:
    return all(1e-9 <= ms <= 1e9 for ms in (one.dense_ms, one.skipping_ms))
