"""What a method leaves of the layers of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from xmsim.configs.densities import Densities
from xmsim.traces.pack_split import pack_split
from xmsim.traces.statistics import BlockClasses, block_classes, group_union_size, live_tile_share, union_size
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.methods.library import Method

TILE_ROWS = (1, 4, 16, 64, 128)  # queries of a tile
DEFAULT_BLOCK = 64  # keys, where the method itself knows no blocks


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """Statistics of the keep masks of one layer, or means over several."""

    densities: Densities
    empty_blocks: float  # share of blocks of a row of which no key is kept
    low_blocks: float | None  # of which 1 to kept_low keys are; None: the method has no kept_low
    live_tiles: tuple[float, ...]  # beta: share of tiles of TILE_ROWS[i] × block with a kept pair
    unions: tuple[float, ...]  # U: keys of a block that TILE_ROWS[i] neighbouring queries keep together, of live tiles
    group_union: float  # keys of a block that the query heads of a KV head keep together for one query
    load_balance: float  # of Sanger's array after packing, empty rows skipped, and splitting


def mask_statistics(method: Method, layer: LayerTrace) -> MaskStatistics:
    """Means over the windows of a layer."""
    return mean_statistics([_window_statistics(method, layer, window) for window in range(len(layer.valid_tokens))])


def _window_statistics(method: Method, layer: LayerTrace, window: int) -> MaskStatistics:
    keep, allowed = method.keep(layer, window), method.allowed(layer, window)
    block = method.block or DEFAULT_BLOCK
    kept_low = method.parameters.get("kept_low")
    classes: BlockClasses = block_classes(keep, allowed, block=block, kept_low=kept_low or 0)
    return MaskStatistics(
        densities=workload_of(layer, window, keep).densities(),
        empty_blocks=classes.empty,
        low_blocks=None if kept_low is None else classes.low,
        live_tiles=tuple(live_tile_share(keep, allowed, rows=rows, block=block) for rows in TILE_ROWS),
        unions=tuple(union_size(keep, rows=rows, block=block) for rows in TILE_ROWS),
        group_union=group_union_size(keep, kv_heads=len(layer.kv_head_ids), block=block),
        load_balance=pack_split(keep, allowed).balance,
    )


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
        group_union=fmean(one.group_union for one in statistics),
        load_balance=fmean(one.load_balance for one in statistics),
    )


def _mean_of_each(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(fmean(column) for column in zip(*rows, strict=True))
