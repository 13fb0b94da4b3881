"""DynaX's default pipelining: tiles, hardware blocks and outputs follow one another as soon as their buffers and units allow.

Every latency behind the prediction array is simulated, and prediction runs up to two windows ahead of execution, on across heads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.dram_layout import key_value_address, low_bit_key_address, output_address, query_address
from xmsim.accel_models.dynax_plan import (
    DECISION,
    DIVIDE,
    DIVIDER,
    DRAM,
    EXECUTE,
    EXECUTE_DRAIN,
    INDEX_READ,
    KV_LOAD,
    KV_WRITE,
    PREDICTOR,
    PREDICTOR_DRAIN,
    QUERY_LOAD,
    QUERY_WRITE,
    READ,
    SCHEDULER,
    STORE,
    WORD_BYTES,
    WRITE,
    Plan,
    Work,
    block_kv_bytes,
    count_decision,
    count_execution,
    count_prediction,
    first_low_bit_key,
    low_bit_bytes,
    record_count,
    tile_blocks,
    tile_rows,
    window_rows,
)
from xmsim.sim.schedule import Int64Array
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them."""

    first_tile: Int64Array  # [windows], the first prediction job of each window
    end_tile: Int64Array  # [windows], one past the last
    executed: Int64Array  # [windows], the barrier behind each window's last hardware block
    loaded: Int64Array  # [key blocks], resident K/V: the job that brought each block of this KV head, or −1
    place_free: Int64Array  # [places], streamed K/V: the barrier that frees each place, or −1
    streamed: Int64Array  # [1], loads so far
    on_chip: Int64Array  # [1], low-bit keys of this KV head


def block_pipeline(plan: Plan, work: Work, actions: int) -> ScheduleTables:
    """Write the jobs of all heads."""
    tiles = plan.heads * len(work.end_key)
    windows = plan.heads * work.segments.shape[1]
    loads = int((work.segments > 0).sum())
    hardware_blocks = int((-(-work.segments // plan.rows)).sum())
    tables = empty_tables(
        jobs=tiles + 3 * windows + hardware_blocks + 2 * loads,
        visits=4 * tiles + 3 * windows + 2 * hardware_blocks + loads,
        afters=2 * tiles + 2 * windows + 4 * hardware_blocks + 4 * loads,
        actions=actions,
    )
    _write(tables, plan, work)
    return tables


@njit(cache=True)
def _write(tables: ScheduleTables, plan: Plan, work: Work) -> None:
    """Windows are numbered through all heads; prediction of window w + 1 is issued before execution of w."""
    windows = plan.heads * work.segments.shape[1]
    progress = _Progress(
        np.zeros(windows, np.int64),
        np.zeros(windows, np.int64),
        np.zeros(windows, np.int64),
        np.full(work.segments.shape[2], -1, np.int64),
        np.full(plan.places, -1, np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    for window in range(windows + 1):
        if window < windows:
            _predict_window(tables, plan, work, progress, window)
        if window >= 1:
            _execute_window(tables, plan, work, progress, window - 1)


@njit(cache=True)
def _predict_window(tables: ScheduleTables, plan: Plan, work: Work, progress: _Progress, window: int) -> None:
    head_windows = work.segments.shape[1]
    head, part = window // head_windows, window % head_windows
    if part == 0 and head % plan.group == 0:
        progress.on_chip[0] = 0
    progress.first_tile[window] = tables.used[0]
    for tile in range(part * plan.window_tiles, min((part + 1) * plan.window_tiles, len(work.end_key))):
        add_job(tables, head)
        if window >= 2:
            add_after(tables, progress.executed[window - 2])  # query and index buffers hold two windows
        visit = add_visit(tables, QUERY_LOAD, 1)
        query_bytes = tile_rows(plan, tile) * plan.head_dim * WORD_BYTES
        add_request(tables, visit, DRAM, READ, query_bytes, query_address(plan.layout, head, tile * plan.tile_rows))
        tables.actions[visit, QUERY_WRITE] = query_bytes
        if plan.predicts:
            visit = add_visit(tables, PREDICTOR, work.period_cycles[tile])
            low_bit_at = low_bit_key_address(plan.layout, head // plan.group, first_low_bit_key(plan, work, tile, progress.on_chip))
            key_bytes = low_bit_bytes(plan, work, tile, progress.on_chip)
            add_request(tables, visit, DRAM, READ, key_bytes, low_bit_at)
            count_prediction(tables, visit, plan, work, tile, key_bytes)
            add_visit(tables, PREDICTOR_DRAIN, plan.latency_cycles)
            visit = add_visit(tables, DECISION, tile_blocks(plan, work, tile))  # one compare unit a row
            count_decision(tables, visit, plan, work, tile)
    progress.end_tile[window] = tables.used[0]


@njit(cache=True)
def _execute_window(tables: ScheduleTables, plan: Plan, work: Work, progress: _Progress, window: int) -> None:
    head_windows = work.segments.shape[1]
    head, part = window // head_windows, window % head_windows
    rows = window_rows(plan, part)
    if part == 0 and head % plan.group == 0:
        progress.loaded[:] = -1

    scheduled = add_job(tables, head)
    for job in range(progress.first_tile[window], progress.end_tile[window]):
        add_after(tables, job)
    if plan.predicts:
        records = record_count(plan, work, part)
        visit = add_visit(tables, SCHEDULER, -(-records // plan.scan_rows))
        tables.actions[visit, INDEX_READ] = records * plan.record_bytes

    for block in range(work.segments.shape[2]):
        if work.segments[head, part, block] > 0:  # a block nobody keeps is never loaded
            _execute_block(tables, plan, progress, head, head_windows, scheduled, block, work.segments[head, part, block])

    executed = add_job(tables, head)
    for job in range(scheduled, executed):
        add_after(tables, job)
    progress.executed[window] = executed
    add_job(tables, head)
    add_after(tables, executed)
    visit = add_visit(tables, DIVIDER, -(-rows * plan.head_dim // plan.dividers))
    tables.actions[visit, DIVIDE] = rows * plan.head_dim
    visit = add_visit(tables, STORE, 1)
    output_at = output_address(plan.layout, head, part * plan.window_tiles * plan.tile_rows)
    add_request(tables, visit, DRAM, WRITE, rows * plan.head_dim * WORD_BYTES, output_at)


@njit(cache=True)
def _execute_block(
    tables: ScheduleTables,
    plan: Plan,
    progress: _Progress,
    head: int,
    head_windows: int,
    scheduled: int,
    block: int,
    waiting_segments: int,
) -> None:
    """Bring K and V of one key block unless they are there, and compute its hardware blocks."""
    resident = plan.resident_heads > 0
    place = progress.streamed[0] % plan.places
    if resident and progress.loaded[block] >= 0:
        load = progress.loaded[block]
    else:
        load = add_job(tables, head)
        add_after(tables, scheduled)
        evicted = head // plan.group - plan.resident_heads  # the KV head whose K and V this one replaces
        if resident and evicted >= 0:
            add_after(tables, progress.executed[(evicted + 1) * plan.group * head_windows - 1])
        if not resident and progress.place_free[place] >= 0:
            add_after(tables, progress.place_free[place])
        visit = add_visit(tables, KV_LOAD, 1)
        kv_bytes = block_kv_bytes(plan, block)
        add_request(tables, visit, DRAM, READ, kv_bytes, key_value_address(plan.layout, head // plan.group, block * plan.block))
        tables.actions[visit, KV_WRITE] = kv_bytes
        if resident:
            progress.loaded[block] = load
    first = tables.used[0]
    while waiting_segments > 0:
        used_rows = min(plan.rows, waiting_segments)
        waiting_segments -= used_rows
        add_job(tables, head)
        add_after(tables, scheduled)
        add_after(tables, load)
        visit = add_visit(tables, EXECUTE, plan.period_cycles)
        count_execution(tables, visit, plan, used_rows)
        add_visit(tables, EXECUTE_DRAIN, plan.drain_cycles)
    if not resident:
        freed = add_job(tables, head)
        for job in range(first, freed):
            add_after(tables, job)
        progress.place_free[place] = freed
        progress.streamed[0] += 1
