"""Sanger (MICRO 2021): low-bit prediction, threshold, pack & split, and an array that does scores and values in place.

The authors released the RTL of both arrays, of the Pack module and of the exponential unit; how they work together is in no released code.
What follows takes the cycles of each unit from that RTL, and the order of the work from the paper's software and latency models.

Data takes this way. A tile of queries is loaded, and the prediction array computes its scores against tile after tile of keys,
in 4 bits. When the row sums are complete, exponentials above the threshold become mask bits, a column a cycle, and pack & split
forms sub-rows. The queries of a window stay on chip, while keys and values of one stripe after the other stream past them, once
for each pass of the array.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from xmsim.accel_models.accelerator import ENGINE_SIDE, Accelerator, MachineConfig
from xmsim.accel_models.dram_layout import (
    DramLayout,
    dram_layout,
    key_value_address,
    low_bit_key_address,
    output_address,
    query_address,
)
from xmsim.accel_models.fixed_point_operands import WordConfig
from xmsim.accel_models.functional import FunctionalResult, judge_output, operands_of
from xmsim.accel_models.projections import DenseActions, DenseArray, DenseStages, clocked_macs
from xmsim.accel_models.sanger_arithmetic import attention_output
from xmsim.accel_models.sanger_array import ExecuteArrayConfig, dense_product_cycles, pass_drain_cycles, pass_period_cycles
from xmsim.accel_models.sanger_pack import HeadPasses, PackConfig, PackShape, pack_by_column, pack_by_row
from xmsim.accel_models.sanger_prediction import PredictionArrayConfig, tile_drain_cycles, tile_period_cycles
from xmsim.accel_models.sanger_published import published_model_v1, published_model_v2
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import Access, ComponentCounts, Memory, Part, registers, selector
from xmsim.sim.schedule import UNLIMITED, Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

__all__ = ["Sanger", "SangerConfig", "published_model_v1", "published_model_v2"]

WORD_BYTES = 2  # 16-bit operands and results
HEAD_DIM = 64  # of BERT, for which buffers that no key of the YAML names are dimensioned (assumed)

QUERY_LOAD, PREDICTOR, PREDICTOR_DRAIN, PACK, KV_LOAD, EXECUTE, EXECUTE_DRAIN, DIVIDER, STORE = range(9)
DRAM = 0
(
    LOW_BIT_MAC,
    PREDICTED_EXP,
    THRESHOLD_COMPARE,
    EXECUTE_MAC,
    EXECUTE_EXP,
    ACCUMULATE,
    DIVIDE,
    QUERY_WRITE,
    QUERY_READ,
    KV_WRITE,
    KV_READ,
    SCORE_WRITE,
    SCORE_READ,
    MASK_WRITE,
    MASK_READ,
    KEY_WRITE,
) = range(16)
ACTIONS = (
    ("prediction_array", "mac"),
    ("prediction_array", "exp"),
    ("threshold", "compare"),
    ("execute_array", "mac"),
    ("execute_array", "exp"),
    ("accumulator", "add"),
    ("divider", "divide"),
    ("query_buffer", "write_bytes"),
    ("query_buffer", "read_bytes"),
    ("kv_buffer", "write_bytes"),
    ("kv_buffer", "read_bytes"),
    ("score_buffer", "write_bytes"),
    ("score_buffer", "read_bytes"),
    ("mask_buffer", "write_bytes"),
    ("mask_buffer", "read_bytes"),
    ("key_buffer", "write_bytes"),
)


class KvConfig(Config):
    """Keys and values of each pass come from DRAM, as in the published model; so many passes' loads may be under way or wait."""

    outstanding_loads: Annotated[int, Field(ge=1, le=2**16)]


class SangerConfig(MachineConfig):
    """Keys of a Sanger YAML."""

    prediction_phase: Literal["simulated", "free"]  # free: masks cost nothing
    prediction_array: PredictionArrayConfig
    pack: PackConfig
    execute_array: ExecuteArrayConfig
    arithmetic: WordConfig
    kv: KvConfig
    dividers: PositiveInt
    causal_tiles: Literal["computed", "skipped"]  # key tiles of which no row of a query tile may see a key

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        rows, tile = self.pack.window_rows, self.prediction_array.rows
        if rows % tile:
            nearest = max(1, round(rows / tile)) * tile
            raise ValueError(
                f"pack.window_rows: {rows} is no multiple of the {tile} rows of prediction_array; the nearest that is: {nearest}"
            )
        return self


def sub_row_record_bytes(config: ExecuteArrayConfig) -> int:
    """Bytes of a packed sub-row: for each unit a column or one of the two idle codes. Source: select codes of the released RTL."""
    return -(-config.pes * (config.ports + 1).bit_length() // 8)


class _Plan(NamedTuple):
    """What the compiled writer needs: the workload's shape and the machine's dimensions."""

    heads: int
    group: int
    queries: int
    keys: int
    head_dim: int
    predicts: bool
    tile_rows: int
    tile_keys: int
    tile_cycles: int
    tile_drain_cycles: int
    low_bits: int
    exp_bits: int
    keys_stay: bool  # low-bit keys of a KV head stay on chip
    window_tiles: int
    record_bytes: int
    rows: int
    pes: int
    ports: int
    pass_cycles: int
    pass_drain_cycles: int
    dividers: int
    layout: DramLayout


class _Passes(NamedTuple):
    """The passes of all heads, windows numbered through."""

    window_start: Int64Array  # [windows + 1]
    tile: Int64Array  # [passes], of its head
    stripe: Int64Array  # [passes]
    columns: Int64Array  # [passes], keys that stream past
    sub_rows: Int64Array  # [passes]
    repeated_columns: Int64Array  # [heads, tiles], columns that Pack reads once more


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them."""

    tile_job: Int64Array  # [windows × window_tiles], the job of each query tile
    executed: Int64Array  # [windows], the last pass of each
    low_bit_keys: Int64Array  # [1], of this KV head on chip


class Sanger(Accelerator):
    """Prediction of the next window overlaps the passes of this one; the pipeline runs on across heads."""

    Config: ClassVar[type[MachineConfig]] = SangerConfig
    unscheduled = ENGINE_SIDE | {"arithmetic"}
    config: SangerConfig

    def peak_macs_per_cycle(self) -> int:
        return self.config.execute_array.rows * self.config.execute_array.pes

    def dense_array(self) -> DenseArray:
        array = self.config.execute_array
        return DenseArray(
            stages=DenseStages(QUERY_LOAD, KV_LOAD, EXECUTE, STORE),
            actions=DenseActions(EXECUTE_MAC, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ),
            rows=array.rows,
            columns=array.pes,
            product_cycles=lambda rows, columns, inner: dense_product_cycles(columns, inner, array),
            product_macs=lambda rows, columns, inner: clocked_macs(columns, inner, array.pes, array.rows * array.pes),
            streams=array.pes,
        )

    def area(self) -> ComponentCounts:
        """Arrays as in the released RTL, with the 16-bit words of the latency model; buffers hold two windows or passes (assumed)."""
        config, predict, array = self.config, self.config.prediction_array, self.config.execute_array
        word, sums, pes, low_pes = 8 * WORD_BYTES, config.arithmetic.bits, self.peak_macs_per_cycle(), predict.rows * predict.columns
        low_bits = 4 * predict.bits + 6  # two operands, and a sum of 64 products
        line_bits = array.rows * 2 * array.ports * word
        parts = (
            Part("prediction_array", "integer_mac", predict.bits, low_pes, {"mac": 1}),
            registers("prediction_array", low_pes * low_bits, {"mac": low_bits}),
            Part("prediction_array", "exp_unit", predict.exp_bits, predict.rows, {"exp": 1}),
            Part("prediction_array", "adder", predict.exp_bits, predict.rows, {"exp": 1}),
            Part("threshold", "comparator", predict.exp_bits, predict.rows, {"compare": 1}),
            Part("execute_array", "integer_mac", word, pes, {"mac": 1}),
            registers("execute_array", line_bits + pes * (2 + array.ports - array.pes) * word, {"mac": line_bits / pes + 2 * word}),
            selector("execute_array", array.ports, word, 2 * pes, "mac"),
            Part("execute_array", "exp_unit", word, pes, {"exp": 1}),
            Part("accumulator", "adder", sums, array.rows, {"add": 1}),
            Part("divider", "divider", word, config.dividers, {"divide": 1}),
        )
        window, record_bits = config.pack.window_rows, 8 * sub_row_record_bytes(array)
        scores = predict.rows * config.pack.window_rows * predict.exp_bits // 8  # of a tile against as many keys as a window has rows
        streamed_keys = Access("prediction_array", "mac", predict.bits / 8 / predict.rows, 0)
        loaded_keys = Access("key_buffer", "write_bytes", 0, 1)
        sums_kept = (Access("accumulator", "add", 4, 4), Access("divider", "divide", 4, 0))
        memories = (
            Memory.of_width("query_buffer", 2 * window * HEAD_DIM * WORD_BYTES, array.rows * word),
            Memory.of_width("kv_buffer", 2 * (1 + config.kv.outstanding_loads) * array.ports * HEAD_DIM * WORD_BYTES, array.ports * word),
            Memory.of_width("key_buffer", predict.key_buffer_bytes, predict.columns * predict.bits, (streamed_keys, loaded_keys)),
            Memory.of_width("score_buffer", scores, predict.rows * predict.exp_bits),
            Memory.of_width("mask_buffer", 2 * window * record_bits // 8, record_bits),
            Memory.of_width("output_buffer", window * HEAD_DIM * 4, array.rows * 32, sums_kept),
        )
        return ComponentCounts(parts, memories)

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Passes, the sub-rows in them, and which share of the places of sub-rows, and of passes, hold a kept pair."""
        array = self.config.execute_array
        packed = self._packed(workload)
        kept, sub_rows, passes = int(workload.kept_pairs().sum()), int(packed.sub_rows.sum()), len(packed.sub_rows)
        return {
            "passes": passes,
            "sub_rows": sub_rows,
            "load_balance": kept / (array.pes * sub_rows) if sub_rows else 0.0,
            "mac_slot_utilisation": kept / (array.pes * array.rows * passes) if passes else 0.0,
        }

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        passes = self._packed(workload)
        seen = _tiles_seen(workload, self.config)
        tiles = workload.heads * len(seen)
        windows = len(passes.window_start) - 1
        tables = empty_tables(
            jobs=tiles + len(passes.tile) + windows,
            visits=4 * tiles + 3 * len(passes.tile) + 2 * windows,
            afters=tiles + len(passes.tile) + windows,
            actions=len(ACTIONS),
        )
        _write(tables, self._plan(workload), seen, passes)
        return finish(tables, self._stages(workload), (self.dram_channel(),), ACTIONS)

    def compute(self, workload: AttentionWorkload) -> FunctionalResult:
        """The attention output of the same passes with the machine's arithmetic.

        Raises:
            WorkloadError: the workload carries no operands.
        """
        operands = operands_of(workload)
        seen = _stripes_seen(workload, self.config.execute_array.ports)
        heads = (self._head_passes(workload, head, seen) for head in range(workload.heads))
        output = attention_output(
            operands, workload.allowed(), heads, self.config.prediction_array, self.config.execute_array, self.config.arithmetic
        )
        return judge_output(output, workload.keep(), workload)

    def _window_rows(self, workload: AttentionWorkload) -> int:
        """Queries of a window, in whole tiles; a head has no more than its own."""
        tile = self.config.prediction_array.rows
        return min(self.config.pack.window_rows, -(-workload.queries // tile) * tile)

    def _head_passes(self, workload: AttentionWorkload, head: int, seen: Int64Array) -> HeadPasses:
        pack, array = self.config.pack, self.config.execute_array
        shape = PackShape(
            window_rows=self._window_rows(workload),
            tile_rows=self.config.prediction_array.rows,
            rows=array.rows,
            pes=array.pes,
            ports=array.ports,
            fewest_kept=1 if pack.empty_rows == "skipped" else 0,
        )
        cut = pack_by_row if pack.split == "row" else pack_by_column
        return cut(workload.words[head], seen, shape)

    def _packed(self, workload: AttentionWorkload) -> _Passes:
        """What the Schedule needs of the passes; their sub-rows are forgotten head by head."""
        ports, tile_rows = self.config.execute_array.ports, self.config.prediction_array.rows
        head_windows = -(-workload.queries // self._window_rows(workload))
        tiles = -(-workload.queries // tile_rows)
        seen = _stripes_seen(workload, ports)
        counts, kinds, repeated = [], [], []
        for head in range(workload.heads):
            passes = self._head_passes(workload, head, seen)
            counts.append(np.bincount(passes.window, minlength=head_windows))
            end_key = np.minimum(passes.stripe * ports + passes.end_column, workload.keys)
            columns = end_key - passes.stripe * ports - passes.first_column
            kinds.append(np.stack([passes.tile, passes.stripe, columns, np.diff(passes.sub_row_start)]))
            repeated.append(np.bincount(passes.tile[passes.end_column < ports], minlength=tiles))
        tile, stripe, columns, sub_rows = np.ascontiguousarray(np.concatenate(kinds, axis=1))
        window_start = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return _Passes(window_start, tile, stripe, columns, sub_rows, np.stack(repeated))

    def _plan(self, workload: AttentionWorkload) -> _Plan:
        config = self.config
        prediction, array = config.prediction_array, config.execute_array
        low_bit_bytes = -(-workload.keys * workload.head_dim * prediction.bits // 8)
        return _Plan(
            heads=workload.heads,
            group=workload.group,
            queries=workload.queries,
            keys=workload.keys,
            head_dim=workload.head_dim,
            predicts=config.prediction_phase == "simulated",
            tile_rows=prediction.rows,
            tile_keys=prediction.columns,
            tile_cycles=tile_period_cycles(workload.head_dim, prediction),
            tile_drain_cycles=tile_drain_cycles(prediction),
            low_bits=prediction.bits,
            exp_bits=prediction.exp_bits,
            keys_stay=low_bit_bytes <= prediction.key_buffer_bytes,
            window_tiles=self._window_rows(workload) // prediction.rows,
            record_bytes=sub_row_record_bytes(array),
            rows=array.rows,
            pes=array.pes,
            ports=array.ports,
            pass_cycles=pass_period_cycles(workload.head_dim, array),
            pass_drain_cycles=pass_drain_cycles(array),
            dividers=config.dividers,
            layout=dram_layout(workload, WORD_BYTES, prediction.bits),
        )

    def _stages(self, workload: AttentionWorkload) -> tuple[Stage, ...]:
        """Queue 0 before the predictor: one tile is held by the array, the next by the loader (double buffer)."""
        prediction, array = self.config.prediction_array, self.config.execute_array
        tiles_draining = -(-tile_drain_cycles(prediction) // tile_period_cycles(workload.head_dim, prediction))
        passes_draining = -(-pass_drain_cycles(array) // pass_period_cycles(workload.head_dim, array))
        return (
            Stage("query_load", servers=1, queue=0),
            Stage("predictor", servers=1, queue=0),
            Stage("predictor_drain", servers=max(1, tiles_draining), queue=0),
            Stage("pack", servers=1, queue=UNLIMITED),
            Stage("kv_load", servers=self.config.kv.outstanding_loads, queue=0),
            Stage("execute", servers=1, queue=0),
            Stage("execute_drain", servers=max(1, passes_draining), queue=0),
            Stage("divider", servers=1, queue=1),
            Stage("store", servers=1, queue=1),
        )


def _stripes_seen(workload: AttentionWorkload, ports: int) -> Int64Array:
    """First stripe and one past the last that each query sees a key of; int64 [queries, 2]."""
    first, end = _keys_seen(workload, np.arange(workload.queries), np.arange(workload.queries))
    return np.stack([first // ports, -(-end // ports)], axis=1)


def _tiles_seen(workload: AttentionWorkload, config: SangerConfig) -> Int64Array:
    """First tile of keys and one past the last that each query tile is predicted for; int64 [tiles, 2]."""
    rows, columns = config.prediction_array.rows, config.prediction_array.columns
    first_query = np.arange(0, workload.queries, rows)
    if config.causal_tiles == "computed":
        return np.stack([np.zeros_like(first_query), np.full_like(first_query, -(-workload.keys // columns))], axis=1)
    first, end = _keys_seen(workload, first_query, np.minimum(first_query + rows, workload.queries) - 1)
    return np.stack([first // columns, -(-end // columns)], axis=1)


def _keys_seen(workload: AttentionWorkload, first_query: Int64Array, last_query: Int64Array) -> tuple[Int64Array, Int64Array]:
    """First key and one past the last that the queries from one to another see."""
    if not workload.causal:
        return np.zeros_like(first_query), np.full_like(first_query, workload.keys)
    reach = workload.keys if workload.window is None else workload.window
    first = np.maximum(first_query + workload.query_offset - reach + 1, 0)
    return first, last_query + workload.query_offset + 1


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, seen: Int64Array, passes: _Passes) -> None:
    """Jobs of all heads. Prediction of window w + 1 is issued before the passes of w."""
    windows = len(passes.window_start) - 1
    progress = _Progress(np.zeros(windows * plan.window_tiles, np.int64), np.zeros(windows, np.int64), np.zeros(1, np.int64))
    for window in range(windows + 1):
        if window < windows:
            _predict_window(tables, plan, progress, seen, passes, window, windows // plan.heads)
        if window >= 1:
            _execute_window(tables, plan, progress, passes, window - 1, windows // plan.heads)


@njit(cache=True)
def _predict_window(
    tables: ScheduleTables, plan: _Plan, progress: _Progress, seen: Int64Array, passes: _Passes, window: int, head_windows: int
) -> None:
    head, part = window // head_windows, window % head_windows
    if part == 0 and head % plan.group == 0:
        progress.low_bit_keys[0] = 0
    for tile in range(part * plan.window_tiles, min((part + 1) * plan.window_tiles, len(seen))):
        rows = min(plan.tile_rows, plan.queries - tile * plan.tile_rows)
        progress.tile_job[window * plan.window_tiles + tile % plan.window_tiles] = add_job(tables, head)
        if window >= 2:
            add_after(tables, progress.executed[window - 2])  # query, mask and output buffers hold two windows
        visit = add_visit(tables, QUERY_LOAD, 1)
        query_bytes = rows * plan.head_dim * WORD_BYTES
        add_request(tables, visit, DRAM, 0, query_bytes, query_address(plan.layout, head, tile * plan.tile_rows))
        tables.actions[visit, QUERY_WRITE] = query_bytes
        if plan.predicts:
            _predict_tile(tables, plan, progress, head, rows, seen[tile, 0], seen[tile, 1], passes.repeated_columns[head, tile])


@njit(cache=True)
def _predict_tile(
    tables: ScheduleTables, plan: _Plan, progress: _Progress, head: int, rows: int, first_tile: int, end_tile: int, repeated_columns: int
) -> None:
    """Scores of a query tile against tiles of keys; when its row sums are complete, threshold and pack read its columns."""
    predicted = rows * (end_tile - first_tile) * plan.tile_keys
    exp_bytes = -(-predicted * plan.exp_bits // 8)
    visit = add_visit(tables, PREDICTOR, (end_tile - first_tile) * plan.tile_cycles)
    first_key, end_key = first_tile * plan.tile_keys, min(end_tile * plan.tile_keys, plan.keys)
    if plan.keys_stay:
        first_key = max(first_key, progress.low_bit_keys[0])
        progress.low_bit_keys[0] = max(end_key, progress.low_bit_keys[0])
    low_bit_bytes = -(-max(0, end_key - first_key) * plan.head_dim * plan.low_bits // 8)
    add_request(tables, visit, DRAM, 0, low_bit_bytes, low_bit_key_address(plan.layout, head // plan.group, first_key))
    clocked = plan.tile_rows * (end_tile - first_tile) * plan.tile_keys  # idle units, too
    tables.actions[visit, LOW_BIT_MAC] = clocked * plan.head_dim
    tables.actions[visit, PREDICTED_EXP] = clocked
    tables.actions[visit, QUERY_READ] = (end_tile - first_tile) * rows * plan.head_dim * WORD_BYTES
    tables.actions[visit, SCORE_WRITE] = exp_bytes
    tables.actions[visit, KEY_WRITE] = low_bit_bytes
    if plan.tile_drain_cycles:
        add_visit(tables, PREDICTOR_DRAIN, plan.tile_drain_cycles)
    visit = add_visit(tables, PACK, (end_tile - first_tile) * plan.tile_keys + repeated_columns)
    tables.actions[visit, THRESHOLD_COMPARE] = predicted
    tables.actions[visit, SCORE_READ] = exp_bytes


@njit(cache=True)
def _execute_window(tables: ScheduleTables, plan: _Plan, progress: _Progress, passes: _Passes, window: int, head_windows: int) -> None:
    head, part = window // head_windows, window % head_windows
    window_rows = plan.window_tiles * plan.tile_rows
    rows = min(window_rows, plan.queries - part * window_rows)
    tile_jobs = progress.tile_job[window * plan.window_tiles : (window + 1) * plan.window_tiles]
    last = tile_jobs[-(-rows // plan.tile_rows) - 1]
    for number in range(passes.window_start[window], passes.window_start[window + 1]):
        last = _add_pass(tables, plan, passes, number, head, tile_jobs[passes.tile[number] % plan.window_tiles])
    progress.executed[window] = last  # passes end in order, so all of them have
    add_job(tables, head)
    add_after(tables, last)
    visit = add_visit(tables, DIVIDER, -(-rows * plan.head_dim // plan.dividers))
    tables.actions[visit, DIVIDE] = rows * plan.head_dim
    visit = add_visit(tables, STORE, 1)
    add_request(tables, visit, DRAM, 1, rows * plan.head_dim * WORD_BYTES, output_address(plan.layout, head, part * window_rows))


@njit(cache=True)
def _add_pass(tables: ScheduleTables, plan: _Plan, passes: _Passes, number: int, head: int, packed: int) -> int:
    """One pass of the array: keys and values of its columns stream from DRAM, and all units are clocked."""
    sub_rows = passes.sub_rows[number]
    kv_bytes = 2 * passes.columns[number] * plan.head_dim * WORD_BYTES
    record_bytes = sub_rows * plan.record_bytes
    job = add_job(tables, head)
    add_after(tables, packed)
    visit = add_visit(tables, KV_LOAD, 1)
    add_request(tables, visit, DRAM, 0, kv_bytes, key_value_address(plan.layout, head // plan.group, passes.stripe[number] * plan.ports))
    tables.actions[visit, KV_WRITE] = kv_bytes
    visit = add_visit(tables, EXECUTE, plan.pass_cycles)
    tables.actions[visit, EXECUTE_MAC] = 2 * plan.rows * plan.pes * plan.head_dim  # idle units are clocked too
    tables.actions[visit, EXECUTE_EXP] = plan.rows * plan.pes
    tables.actions[visit, ACCUMULATE] = sub_rows * (plan.head_dim + 1)
    tables.actions[visit, QUERY_READ] = sub_rows * plan.head_dim * WORD_BYTES
    tables.actions[visit, KV_READ] = kv_bytes
    if plan.predicts:
        tables.actions[visit, MASK_WRITE] = record_bytes
    tables.actions[visit, MASK_READ] = record_bytes
    if plan.pass_drain_cycles:
        add_visit(tables, EXECUTE_DRAIN, plan.pass_drain_cycles)
    return job
