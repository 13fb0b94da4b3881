"""What both pipelinings of DynaX share: stages, actions, and the dimensions and the work that compiled code writes a Schedule from."""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from xmsim.accel_models.dram_layout import DramLayout
from xmsim.sim.schedule import Int64Array
from xmsim.sim.schedule_builder import ScheduleTables

WORD_BYTES = 2  # 16-bit operands and results

QUERY_LOAD, PREDICTOR, PREDICTOR_DRAIN, DECISION, SCHEDULER, KV_LOAD, EXECUTE, EXECUTE_DRAIN, DIVIDER, STORE = range(10)
DRAM = 0
READ, WRITE = 0, 1
(
    LOW_BIT_MAC,
    PREDICTED_EXP,
    TOP_K_COMPARE,
    DECIDE,
    EXECUTE_MAC,
    EXECUTE_EXP,
    ACCUMULATE,
    DIVIDE,
    QUERY_WRITE,
    QUERY_READ,
    KV_WRITE,
    KV_READ,
    INDEX_WRITE,
    INDEX_READ,
    KEY_WRITE,
) = range(15)
ACTIONS = (
    ("prediction_array", "mac"),
    ("prediction_array", "exp"),
    ("top_k", "compare"),
    ("decision", "compare"),
    ("execute_array", "mac"),
    ("execute_array", "exp"),
    ("accumulator", "add"),
    ("divider", "divide"),
    ("query_buffer", "write_bytes"),
    ("query_buffer", "read_bytes"),
    ("kv_buffer", "write_bytes"),
    ("kv_buffer", "read_bytes"),
    ("index_buffer", "write_bytes"),
    ("index_buffer", "read_bytes"),
    ("key_buffer", "write_bytes"),
)


class Plan(NamedTuple):
    """Shape of the layer, and dimensions of the machine."""

    heads: int
    group: int  # query heads of a KV head
    queries: int
    keys: int
    head_dim: int
    predicts: bool  # False: masks cost nothing
    tile_rows: int
    predicted_macs_per_key: int  # of all PEs that a key streams past, idle ones included
    low_bits: int
    latency_cycles: int
    keys_stay: bool  # low-bit keys of a KV head stay on chip
    block: int
    kept: int
    record_bytes: int
    window_tiles: int
    scan_rows: int
    rows: int
    columns: int
    period_cycles: int
    drain_cycles: int
    dividers: int
    resident_heads: int  # KV heads whose K and V fit the buffer; 0: blocks are streamed
    places: int  # streamed blocks that the buffer holds at a time
    layout: DramLayout


class Work(NamedTuple):
    """What the layer asks for. Tiles and windows of all heads are alike but for their segments."""

    first_key: Int64Array  # [tiles], of the keys that stream past a query tile
    end_key: Int64Array  # [tiles]
    period_cycles: Int64Array  # [tiles]
    segments: Int64Array  # [heads, windows, key blocks]


@njit(cache=True)
def tile_rows(plan: Plan, tile: int) -> int:
    """Queries of a tile."""
    return min(plan.tile_rows, plan.queries - tile * plan.tile_rows)


@njit(cache=True)
def window_rows(plan: Plan, window: int) -> int:
    """Queries of a window of a head."""
    rows = plan.window_tiles * plan.tile_rows
    return min(rows, plan.queries - window * rows)


@njit(cache=True)
def tile_blocks(plan: Plan, work: Work, tile: int) -> int:
    """Key blocks that stream past a tile."""
    return (work.end_key[tile] - work.first_key[tile]) // plan.block


@njit(cache=True)
def record_count(plan: Plan, work: Work, window: int) -> int:
    """Index records that the tiles of a window of a head leave behind."""
    records = 0
    for tile in range(window * plan.window_tiles, min((window + 1) * plan.window_tiles, len(work.end_key))):
        records += tile_rows(plan, tile) * tile_blocks(plan, work, tile)
    return records


@njit(cache=True)
def first_low_bit_key(plan: Plan, work: Work, tile: int, on_chip: Int64Array) -> int:
    """First of the low-bit keys that a tile brings from DRAM."""
    return max(work.first_key[tile], on_chip[0]) if plan.keys_stay else work.first_key[tile]


@njit(cache=True)
def low_bit_bytes(plan: Plan, work: Work, tile: int, on_chip: Int64Array) -> int:
    """Bytes of low-bit keys that a tile brings from DRAM; on_chip [1] counts keys of this KV head, from 0 on, that stay."""
    first, end = first_low_bit_key(plan, work, tile, on_chip), min(work.end_key[tile], plan.keys)
    if plan.keys_stay:
        on_chip[0] = max(end, on_chip[0])
    return -(-max(0, end - first) * plan.head_dim * plan.low_bits // 8)


@njit(cache=True)
def block_kv_bytes(plan: Plan, block: int) -> int:
    """Bytes of K and V of a key block."""
    return 2 * min(plan.block, plan.keys - block * plan.block) * plan.head_dim * WORD_BYTES


@njit(cache=True)
def count_prediction(tables: ScheduleTables, visit: int, plan: Plan, work: Work, tile: int, key_bytes: int) -> None:
    """Actions of the prediction array, all rows of which are clocked, of the cascades of a tile's rows, and of the keys that it brings."""
    rows, keys = tile_rows(plan, tile), work.end_key[tile] - work.first_key[tile]
    actions = tables.actions[visit]
    actions[LOW_BIT_MAC] = keys * plan.predicted_macs_per_key
    actions[PREDICTED_EXP] = plan.tile_rows * keys
    actions[TOP_K_COMPARE] = rows * keys * plan.kept
    actions[QUERY_READ] = rows * plan.head_dim * WORD_BYTES
    actions[KEY_WRITE] = key_bytes


@njit(cache=True)
def count_decision(tables: ScheduleTables, visit: int, plan: Plan, work: Work, tile: int) -> None:
    """Actions of the X:N decision for a tile: a block sum meets two thresholds."""
    records = tile_rows(plan, tile) * tile_blocks(plan, work, tile)
    tables.actions[visit, DECIDE] = 2 * records
    tables.actions[visit, INDEX_WRITE] = records * plan.record_bytes


@njit(cache=True)
def count_execution(tables: ScheduleTables, visit: int, plan: Plan, used_rows: int) -> None:
    """Actions of a hardware block. Idle PEs are clocked, too."""
    actions = tables.actions[visit]
    actions[EXECUTE_MAC] = 2 * plan.rows * plan.columns * plan.head_dim
    actions[EXECUTE_EXP] = plan.rows * plan.columns
    actions[ACCUMULATE] = used_rows * (plan.head_dim + 1)
    actions[QUERY_READ] = used_rows * plan.head_dim * WORD_BYTES
    actions[KV_READ] = 2 * plan.block * plan.head_dim * WORD_BYTES
