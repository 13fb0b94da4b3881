"""DynaX (ASPLOS 2025): low-bit prediction, dynamic X:M pruning, block scheduling, four reconfigurable arrays.

The authors released the RTL of the arrays, not of the schedulers. What follows rests on register-level cycle counts of that
RTL where there is one, and on the balance of the published dimensions elsewhere; each formula says which.

Data takes this way. A tile of query rows is loaded, and its keys stream through the prediction array in low precision, one
key a cycle. Behind each row sit an exponential unit, a top-k cascade and a compare unit that decides X for each block of M
keys. The scheduler waits for a window of tiles, cuts the kept keys of each row and block into segments as wide as an
execution row, and packs segments of one key block into hardware blocks. Four arrays take hardware blocks from the queue and
do scores, exponential and values in place.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from xmsim.accel_models.accelerator import Accelerator, MachineConfig
from xmsim.accel_models.errors import WorkloadError
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import UNLIMITED, Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

WORD_BYTES = 2  # 16-bit operands and results

QUERY_LOAD, PREDICTOR, PREDICTOR_DRAIN, DECISION, SCHEDULER, KV_LOAD, EXECUTE, EXECUTE_DRAIN, DIVIDER, STORE = range(10)
DRAM = 0
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
) = range(14)
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
)


class PredictionArrayConfig(Config):
    """Low-bit array that holds a query tile, 1 of every `group` channels, while keys stream through it."""

    rows: PositiveInt
    columns: PositiveInt
    group: PositiveInt
    bits: Annotated[int, Field(ge=2, le=16)]
    key_buffer_bytes: PositiveInt  # low-bit keys of one KV head stay here if they fit, else every tile streams them again


class PruningConfig(Config):
    """The N of every M that the top-k cascade ranks."""

    block: PositiveInt
    kept: PositiveInt

    @model_validator(mode="after")
    def _check_kept(self) -> Self:
        if self.kept > self.block:
            raise ValueError(f"kept: {self.kept} of every {self.block} keys cannot be kept; lower kept or raise block")
        return self


class ExecuteArrayConfig(Config):
    """Arrays that do scores, exponential and values of a hardware block in place.

    `control` is skewed (delayed by a cycle from row to row) or broadcast (as in the released RTL).
    """

    count: PositiveInt
    rows: PositiveInt
    columns: PositiveInt
    control: Literal["skewed", "broadcast"]


class SchedulerConfig(Config):
    """Packing of segments over a window of query tiles."""

    window_tiles: PositiveInt
    rows_per_cycle: PositiveInt


class KvConfig(Config):
    """K and V of one KV head stay in the buffer if both fit, else blocks are streamed for every window; nothing between."""

    buffer_bytes: PositiveInt
    stream_blocks: Annotated[int, Field(ge=1, le=2**16)]  # places for streamed K/V blocks
    outstanding_loads: PositiveInt


class DynaxConfig(MachineConfig):
    """Keys of a DynaX YAML."""

    prediction_array: PredictionArrayConfig
    pruning: PruningConfig
    execute_array: ExecuteArrayConfig
    scheduler: SchedulerConfig
    kv: KvConfig
    dividers: PositiveInt
    causal_tiles: Literal["computed", "skipped"]  # key blocks that no row of a query tile may see


def tile_period_cycles(keys: int, head_dim: int, config: PredictionArrayConfig) -> int:
    """Cycles from one query tile's load to the next one's, with `keys` keys streamed.

    Load takes group × columns cycles; a head wider than that takes several passes. The next load must begin in phase with
    the group counter. Source: released RTL, ceil_g(w + K + P + H − 1).
    """
    width = config.group * config.columns
    passes = -(-head_dim // width)
    period = width + keys + config.columns + config.rows - 1
    return passes * -(-period // config.group) * config.group


def prediction_latency_cycles(config: PredictionArrayConfig, pruning: PruningConfig) -> int:
    """Cycles from the end of a tile's period to its last index record.

    Exponential, row sum and its register, three cycles in the released RTL; the top-k cascade ripples one rank a cycle;
    one more cycle writes the record (assumed).
    """
    return 3 + pruning.kept + 1


def block_period_cycles(head_dim: int, config: ExecuteArrayConfig) -> int:
    """Cycles a hardware block holds an execution array: head_dim for scores, head_dim for values, and the turn-around.

    Source: released RTL: 2·d + 2 with control delayed by a cycle a row, 2·(d + rows) with broadcast control.
    """
    return 2 * head_dim + 2 if config.control == "skewed" else 2 * (head_dim + config.rows)


def block_drain_cycles(config: ExecuteArrayConfig) -> int:
    """Cycles after a block's period until its last denominator is out.

    Source: released RTL: rows + 1 with skewed control; with broadcast control the period holds the skew and 2 remain.
    """
    return config.rows + 1 if config.control == "skewed" else 2


def index_record_bytes(config: PruningConfig) -> int:
    """Bytes the pruning of one row and block leaves behind: N ranked indices and a 16-bit block sum.

    Source: N·log2 M + 16 bits, 56 for 8:32 and 112 for 16:64, against 512 and 1024 for the scores themselves.
    """
    return -(-(config.kept * (config.block - 1).bit_length() + 16) // 8)


def segments(counts: Int64Array, columns: int) -> Int64Array:
    """Segments of every row and key block: kept keys cut to the width of an execution row."""
    return -(-counts // columns)


class _Plan(NamedTuple):
    """What the compiled writer needs: the workload's shape and the machine's dimensions."""

    heads: int
    group: int
    queries: int
    keys: int
    head_dim: int
    tile_rows: int
    predicted_channels: int
    bits: int
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
    block_kv_bytes: int
    resident_heads: int  # KV heads whose K and V fit the buffer; 0: blocks are streamed
    stream_blocks: int


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them."""

    first_tile: Int64Array  # [windows], the first prediction job of each window
    end_tile: Int64Array  # [windows], one past the last
    executed: Int64Array  # [windows], the barrier behind each window's last hardware block
    loaded: Int64Array  # [key blocks], resident K/V: the job that brought each block of this KV head, or −1
    place_free: Int64Array  # [stream_blocks], streamed K/V: the barrier that frees each place, or −1
    counters: Int64Array  # [2]: streamed loads so far; low-bit keys of this KV head on chip


class Dynax(Accelerator):
    """Prediction of the next window overlaps execution of this one; the pipeline runs on across heads."""

    Config: ClassVar[type[MachineConfig]] = DynaxConfig
    config: DynaxConfig

    def peak_macs_per_cycle(self) -> int:
        array = self.config.execute_array
        return array.count * array.rows * array.columns

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Packing efficiency (segments / rows of the hardware blocks they fill), and blocks with more than N kept keys."""
        counts = workload.block_counts(self.config.pruning.block)
        filled = segments(counts, self.config.execute_array.columns)
        rows = self.config.execute_array.rows
        hardware_blocks = int((-(-_by_window(filled, self._window_rows()) // rows)).sum())
        return {
            "hardware_blocks": hardware_blocks,
            "packing_efficiency": float(filled.sum() / (rows * hardware_blocks)) if hardware_blocks else 0.0,
            "overfull_blocks": int((counts > self.config.pruning.kept).sum()),
        }

    def _window_rows(self) -> int:
        return self.config.scheduler.window_tiles * self.config.prediction_array.rows

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        config = self.config
        if workload.head_dim % config.prediction_array.group:
            raise WorkloadError(
                f"{self.name}: head_dim {workload.head_dim} is no multiple of prediction_array.group "
                f"{config.prediction_array.group}; choose a group that divides it"
            )
        filled = segments(workload.block_counts(config.pruning.block), config.execute_array.columns)
        by_window = _by_window(filled, self._window_rows())
        seen = _keys_seen(workload, config)
        plan = self._plan(workload)
        tiles = workload.heads * len(seen)
        windows = workload.heads * by_window.shape[1]
        loads = int((by_window > 0).sum())
        hardware_blocks = int((-(-by_window // config.execute_array.rows)).sum())
        tables = empty_tables(
            jobs=tiles + 3 * windows + hardware_blocks + 2 * loads,
            visits=4 * tiles + 3 * windows + 2 * hardware_blocks + loads,
            afters=2 * tiles + 2 * windows + 4 * hardware_blocks + 4 * loads,
            actions=len(ACTIONS),
        )
        periods = np.array([tile_period_cycles(int(k), workload.head_dim, config.prediction_array) for k in seen], np.int64)
        _write(tables, plan, seen, periods, by_window)
        return finish(tables, self._stages(workload), (self.dram_channel(),), ACTIONS)

    def _plan(self, workload: AttentionWorkload) -> _Plan:
        config = self.config
        head_kv_bytes = 2 * workload.keys * workload.head_dim * WORD_BYTES
        low_bit_bytes = workload.keys * workload.head_dim * config.prediction_array.bits // 8
        return _Plan(
            heads=workload.heads,
            group=workload.group,
            queries=workload.queries,
            keys=workload.keys,
            head_dim=workload.head_dim,
            tile_rows=config.prediction_array.rows,
            predicted_channels=workload.head_dim // config.prediction_array.group,
            bits=config.prediction_array.bits,
            latency_cycles=prediction_latency_cycles(config.prediction_array, config.pruning),
            keys_stay=low_bit_bytes <= config.prediction_array.key_buffer_bytes,
            block=config.pruning.block,
            kept=config.pruning.kept,
            record_bytes=index_record_bytes(config.pruning),
            window_tiles=config.scheduler.window_tiles,
            scan_rows=config.scheduler.rows_per_cycle,
            rows=config.execute_array.rows,
            columns=config.execute_array.columns,
            period_cycles=block_period_cycles(workload.head_dim, config.execute_array),
            drain_cycles=block_drain_cycles(config.execute_array),
            dividers=config.dividers,
            block_kv_bytes=2 * config.pruning.block * workload.head_dim * WORD_BYTES,
            resident_heads=config.kv.buffer_bytes // head_kv_bytes,
            stream_blocks=config.kv.stream_blocks,
        )

    def _stages(self, workload: AttentionWorkload) -> tuple[Stage, ...]:
        """Queue 0 before the predictor: one tile is held by the array, the next by the loader (double buffer)."""
        array = self.config.execute_array
        in_flight = -(-block_drain_cycles(array) // block_period_cycles(workload.head_dim, array))
        drain_depth = 1 + -(-prediction_latency_cycles(self.config.prediction_array, self.config.pruning) // self.config.pruning.block)
        return (
            Stage("query_load", servers=1, queue=0),
            Stage("predictor", servers=1, queue=0),
            Stage("predictor_drain", servers=drain_depth, queue=0),
            Stage("decision", servers=1, queue=UNLIMITED),
            Stage("scheduler", servers=1, queue=1),
            Stage("kv_load", servers=self.config.kv.outstanding_loads, queue=0),
            Stage("execute", servers=array.count, queue=UNLIMITED),
            Stage("execute_drain", servers=array.count * (1 + in_flight), queue=0),
            Stage("divider", servers=1, queue=1),
            Stage("store", servers=1, queue=1),
        )


def _keys_seen(workload: AttentionWorkload, config: DynaxConfig) -> Int64Array:
    """Keys that stream past each query tile, in whole blocks; int64 [tiles]."""
    rows, block = config.prediction_array.rows, config.pruning.block
    padded = -(-workload.keys // block) * block
    last = np.minimum((np.arange(-(-workload.queries // rows), dtype=np.int64) + 1) * rows, workload.queries)
    if not (workload.causal and config.causal_tiles == "skipped"):
        return np.full_like(last, padded)
    return -(-(workload.query_offset + last) // block) * block


def _by_window(filled: Int64Array, window_rows: int) -> Int64Array:
    """Segments of each key block summed over the rows of a window; int64 [heads, windows, blocks]."""
    return np.add.reduceat(filled, np.arange(0, filled.shape[1], window_rows), axis=1)


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, seen: Int64Array, periods: Int64Array, by_window: Int64Array) -> None:
    """Jobs of all heads. Windows are numbered through all heads; prediction of window w + 1 is issued before execution of w."""
    windows = plan.heads * by_window.shape[1]
    progress = _Progress(
        np.zeros(windows, np.int64),
        np.zeros(windows, np.int64),
        np.zeros(windows, np.int64),
        np.full(by_window.shape[2], -1, np.int64),
        np.full(plan.stream_blocks, -1, np.int64),
        np.zeros(2, np.int64),
    )
    for window in range(windows + 1):
        if window < windows:
            _predict_window(tables, plan, progress, seen, periods, window, by_window.shape[1])
        if window >= 1:
            _execute_window(tables, plan, progress, by_window, window - 1)


@njit(cache=True)
def _predict_window(
    tables: ScheduleTables, plan: _Plan, progress: _Progress, seen: Int64Array, periods: Int64Array, window: int, head_windows: int
) -> None:
    head, part = window // head_windows, window % head_windows
    if part == 0 and head % plan.group == 0:
        progress.counters[1] = 0
    progress.first_tile[window] = tables.used[0]
    for tile in range(part * plan.window_tiles, min((part + 1) * plan.window_tiles, len(seen))):
        rows = min(plan.tile_rows, plan.queries - tile * plan.tile_rows)
        blocks = seen[tile] // plan.block
        add_job(tables, head)
        if window >= 2:
            add_after(tables, progress.executed[window - 2])  # query and index buffers hold two windows
        visit = add_visit(tables, QUERY_LOAD, 1)
        query_bytes = rows * plan.head_dim * WORD_BYTES
        add_request(tables, visit, DRAM, 0, query_bytes, 0)
        tables.actions[visit, QUERY_WRITE] = query_bytes
        visit = add_visit(tables, PREDICTOR, periods[tile])
        fetched_keys = min(seen[tile], plan.keys)
        if plan.keys_stay:
            on_chip = progress.counters[1]
            progress.counters[1] = max(on_chip, fetched_keys)
            fetched_keys = max(0, fetched_keys - on_chip)
        add_request(tables, visit, DRAM, 0, -(-fetched_keys * plan.head_dim * plan.bits // 8), 0)
        tables.actions[visit, LOW_BIT_MAC] = rows * seen[tile] * plan.predicted_channels
        tables.actions[visit, PREDICTED_EXP] = rows * seen[tile]
        tables.actions[visit, TOP_K_COMPARE] = rows * seen[tile] * plan.kept
        tables.actions[visit, QUERY_READ] = query_bytes
        add_visit(tables, PREDICTOR_DRAIN, plan.latency_cycles)
        visit = add_visit(tables, DECISION, blocks)  # one compare unit a row
        tables.actions[visit, DECIDE] = 2 * rows * blocks
        tables.actions[visit, INDEX_WRITE] = rows * blocks * plan.record_bytes
    progress.end_tile[window] = tables.used[0]


@njit(cache=True)
def _execute_window(tables: ScheduleTables, plan: _Plan, progress: _Progress, by_window: Int64Array, window: int) -> None:
    head_windows, blocks = by_window.shape[1], by_window.shape[2]
    head, part = window // head_windows, window % head_windows
    rows = min(plan.tile_rows * plan.window_tiles, plan.queries - part * plan.tile_rows * plan.window_tiles)
    if part == 0 and head % plan.group == 0:
        progress.loaded[:] = -1

    scheduled = add_job(tables, head)
    for job in range(progress.first_tile[window], progress.end_tile[window]):
        add_after(tables, job)
    visit = add_visit(tables, SCHEDULER, -(-rows * blocks // plan.scan_rows))
    tables.actions[visit, INDEX_READ] = rows * blocks * plan.record_bytes

    for block in range(blocks):
        if by_window[head, part, block] > 0:  # a block nobody keeps is never loaded
            _execute_block(tables, plan, progress, head, head_windows, scheduled, block, by_window[head, part, block])

    executed = add_job(tables, head)
    for job in range(scheduled, executed):
        add_after(tables, job)
    progress.executed[window] = executed
    add_job(tables, head)
    add_after(tables, executed)
    visit = add_visit(tables, DIVIDER, -(-rows * plan.head_dim // plan.dividers))
    tables.actions[visit, DIVIDE] = rows * plan.head_dim
    visit = add_visit(tables, STORE, 1)
    add_request(tables, visit, DRAM, 1, rows * plan.head_dim * WORD_BYTES, 0)


@njit(cache=True)
def _execute_block(
    tables: ScheduleTables,
    plan: _Plan,
    progress: _Progress,
    head: int,
    head_windows: int,
    scheduled: int,
    block: int,
    waiting_segments: int,
) -> None:
    """Bring K and V of one key block unless they are there, and compute its hardware blocks."""
    resident = plan.resident_heads > 0
    place = progress.counters[0] % plan.stream_blocks
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
        add_request(tables, visit, DRAM, 0, plan.block_kv_bytes, block * plan.block_kv_bytes)
        tables.actions[visit, KV_WRITE] = plan.block_kv_bytes
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
        tables.actions[visit, EXECUTE_MAC] = 2 * plan.rows * plan.columns * plan.head_dim  # idle rows are clocked too
        tables.actions[visit, EXECUTE_EXP] = used_rows * plan.columns
        tables.actions[visit, ACCUMULATE] = used_rows * (plan.head_dim + 1)
        tables.actions[visit, QUERY_READ] = used_rows * plan.head_dim * WORD_BYTES
        tables.actions[visit, KV_READ] = plan.block_kv_bytes
        add_visit(tables, EXECUTE_DRAIN, plan.drain_cycles)
    if not resident:
        freed = add_job(tables, head)
        for job in range(first, freed):
            add_after(tables, job)
        progress.place_free[place] = freed
        progress.counters[0] += 1
