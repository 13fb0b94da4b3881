"""DynaX's closed form, and the pipelining that it describes: one window is executed while the next is predicted, and both end together.

Two index buffers hold whole windows. The ripple of the top-k cascade, the X:N decision, the scan of the scheduler, accumulation and
division are taken as hidden, and so is memory as long as its channel keeps up: requests go out with the work that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.dram_layout import key_value_address, output_address, query_address
from xmsim.accel_models.dynax_execute_array import ExecuteArrayConfig, block_drain_cycles, block_period_cycles
from xmsim.accel_models.dynax_plan import (
    DIVIDE,
    DRAM,
    EXECUTE,
    EXECUTE_DRAIN,
    INDEX_READ,
    KV_WRITE,
    PREDICTOR,
    QUERY_LOAD,
    QUERY_WRITE,
    READ,
    STORE,
    WORD_BYTES,
    WRITE,
    Plan,
    Work,
    block_kv_bytes,
    count_decision,
    count_execution,
    count_prediction,
    low_bit_bytes,
    record_count,
    tile_rows,
    window_rows,
)
from xmsim.sim.schedule import Int64Array
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables


def window_execute_cycles(hardware_blocks: int, head_dim: int, config: ExecuteArrayConfig) -> int:
    """Cycles in which the arrays compute the hardware blocks of a window, until the last denominator is out.

    A window without any takes one cycle, in which its zeros are sent to memory.
    Source: inferred, ceil(blocks / arrays) periods and a drain.
    """
    if hardware_blocks == 0:
        return 1
    return -(-hardware_blocks // config.count) * block_period_cycles(head_dim, config) + block_drain_cycles(config)


def window_closed_form(predict_cycles: Sequence[int], execute_cycles: Sequence[int]) -> int:
    """Cycles of windows that follow one another, prediction of each beside execution of the one before.

    Source: inferred, T_pred(w_0) + sum_w max(T_pred(w + 1), T_exec(w)) + T_exec(w_last); T_pred is the sum of the window's tile periods.
    """
    beside = zip(predict_cycles[1:], execute_cycles[:-1], strict=True)
    return predict_cycles[0] + sum(max(predict, execute) for predict, execute in beside) + execute_cycles[-1]


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them."""

    predicted: Int64Array  # [windows], the barrier behind each window's last tile and the execution before
    executed: Int64Array  # [windows], the barrier behind each window's last hardware block
    loaded: Int64Array  # [key blocks], 1 where K and V of this KV head are in the buffer and stay
    on_chip: Int64Array  # [1], low-bit keys of this KV head


def window_pipeline(plan: Plan, work: Work, actions: int) -> ScheduleTables:
    """Write the jobs of all heads."""
    tiles = plan.heads * len(work.end_key)
    windows = plan.heads * work.segments.shape[1]
    hardware_blocks = int((-(-work.segments // plan.rows)).sum())
    tables = empty_tables(
        jobs=tiles + 3 * windows + hardware_blocks,
        visits=tiles + windows + 2 * hardware_blocks,
        afters=2 * tiles + 3 * windows + 3 * hardware_blocks,
        actions=actions,
    )
    _write(tables, plan, work)
    return tables


@njit(cache=True)
def _write(tables: ScheduleTables, plan: Plan, work: Work) -> None:
    """Windows are numbered through all heads; prediction of window w + 1 is issued before execution of w."""
    windows = plan.heads * work.segments.shape[1]
    progress = _Progress(
        np.zeros(windows, np.int64), np.zeros(windows, np.int64), np.zeros(work.segments.shape[2], np.int64), np.zeros(1, np.int64)
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
    first = tables.used[0]
    for tile in range(part * plan.window_tiles, min((part + 1) * plan.window_tiles, len(work.end_key))):
        add_job(tables, head)
        if window >= 2:
            add_after(tables, progress.executed[window - 2])
        query_bytes = tile_rows(plan, tile) * plan.head_dim * WORD_BYTES
        query_at = query_address(plan.layout, head, tile * plan.tile_rows)
        if plan.predicts:
            visit = add_visit(tables, PREDICTOR, work.period_cycles[tile])
            key_bytes = low_bit_bytes(plan, work, tile, progress.on_chip)
            add_request(tables, visit, DRAM, READ, query_bytes + key_bytes, query_at)
            count_prediction(tables, visit, plan, work, tile, key_bytes)
            count_decision(tables, visit, plan, work, tile)
        else:
            visit = add_visit(tables, QUERY_LOAD, 1)
            add_request(tables, visit, DRAM, READ, query_bytes, query_at)
        tables.actions[visit, QUERY_WRITE] = query_bytes
    predicted = add_job(tables, head)
    for job in range(first, predicted):
        add_after(tables, job)
    progress.predicted[window] = predicted


@njit(cache=True)
def _execute_window(tables: ScheduleTables, plan: Plan, work: Work, progress: _Progress, window: int) -> None:
    head_windows = work.segments.shape[1]
    head, part = window // head_windows, window % head_windows
    if plan.resident_heads == 0 or (part == 0 and head % plan.group == 0):
        progress.loaded[:] = 0
    first, visit = tables.used[0], -1
    for block in range(work.segments.shape[2]):
        waiting_segments = work.segments[head, part, block]
        while waiting_segments > 0:
            used_rows = min(plan.rows, waiting_segments)
            waiting_segments -= used_rows
            _begin(tables, progress, window, head)
            visit = add_visit(tables, EXECUTE, plan.period_cycles)
            count_execution(tables, visit, plan, used_rows)
            if not progress.loaded[block]:
                kv_bytes = block_kv_bytes(plan, block)
                kv_at = key_value_address(plan.layout, head // plan.group, block * plan.block)
                add_request(tables, visit, DRAM, READ, kv_bytes, kv_at)
                tables.actions[visit, KV_WRITE] = kv_bytes
                progress.loaded[block] = 1
            visit = add_visit(tables, EXECUTE_DRAIN, plan.drain_cycles)
    if visit < 0:
        _begin(tables, progress, window, head)
        visit = add_visit(tables, STORE, 1)
    rows = window_rows(plan, part)
    output_at = output_address(plan.layout, head, part * plan.window_tiles * plan.tile_rows)
    add_request(tables, visit, DRAM, WRITE, rows * plan.head_dim * WORD_BYTES, output_at)
    tables.actions[visit, DIVIDE] = rows * plan.head_dim
    if plan.predicts:
        tables.actions[visit, INDEX_READ] = record_count(plan, work, part) * plan.record_bytes
    executed = add_job(tables, head)
    for job in range(first, executed):
        add_after(tables, job)
    progress.executed[window] = executed


@njit(cache=True)
def _begin(tables: ScheduleTables, progress: _Progress, window: int, head: int) -> None:
    """A job of a window's execution: the window is predicted, and the one before executed."""
    add_job(tables, head)
    add_after(tables, progress.predicted[window])
    if window >= 1:
        add_after(tables, progress.executed[window - 1])
