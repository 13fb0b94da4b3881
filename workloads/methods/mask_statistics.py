"""What a method leaves of the layers of a trace."""

from __future__ import annotations

from xmsim.traces.pack_split import pack_split
from xmsim.traces.statistics import BlockClasses, block_classes, gather_turns, group_keep, live_tile_share, union_size
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.methods.library import Method
from xmsim.workloads.methods.mask_record import GROUP_ROWS, TILE_ROWS, MaskStatistics, mean_statistics

DEFAULT_BLOCK = 64  # keys, where the method itself knows no blocks


def block_of(method: Method) -> int:
    """Keys of the blocks in which a method's masks are counted."""
    return method.block or DEFAULT_BLOCK


def mask_statistics(method: Method, layer: LayerTrace) -> MaskStatistics:
    """Means over the windows of a layer."""
    return mean_statistics([_window_statistics(method, layer, window) for window in range(len(layer.valid_tokens))])


def _window_statistics(method: Method, layer: LayerTrace, window: int) -> MaskStatistics:
    keep, allowed = method.keep(layer, window), method.allowed(layer, window)
    block = block_of(method)
    kept_low = method.parameters.get("kept_low")
    together = group_keep(keep, len(layer.kv_head_ids))
    classes: BlockClasses = block_classes(keep, allowed, block=block, kept_low=kept_low or 0)
    return MaskStatistics(
        densities=workload_of(layer, window, keep).densities(),
        empty_blocks=classes.empty,
        low_blocks=None if kept_low is None else classes.low,
        live_tiles=tuple(live_tile_share(keep, allowed, rows=rows, block=block) for rows in TILE_ROWS),
        unions=tuple(union_size(keep, rows=rows, block=block) for rows in TILE_ROWS),
        group_live_tiles=tuple(live_tile_share(together, allowed, rows=rows, block=block) for rows in GROUP_ROWS),
        group_unions=tuple(union_size(together, rows=rows, block=block) for rows in GROUP_ROWS),
        gather_turns=gather_turns(together),
        load_balance=pack_split(keep, allowed).balance,
    )
