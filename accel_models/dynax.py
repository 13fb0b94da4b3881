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

from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from xmsim.accel_models.accelerator import ENGINE_SIDE, Accelerator, MachineConfig
from xmsim.accel_models.dram_layout import dram_layout
from xmsim.accel_models.dynax_arithmetic import ArithmeticConfig, SegmentShape, attention_output, highest_point
from xmsim.accel_models.dynax_block_pipeline import block_pipeline
from xmsim.accel_models.dynax_execute_array import ExecuteArrayConfig, block_drain_cycles, block_period_cycles, dense_product_cycles
from xmsim.accel_models.dynax_plan import (
    ACTIONS,
    EXECUTE,
    EXECUTE_MAC,
    KV_LOAD,
    KV_READ,
    KV_WRITE,
    QUERY_LOAD,
    QUERY_READ,
    QUERY_WRITE,
    STORE,
    WORD_BYTES,
    Plan,
    Work,
)
from xmsim.accel_models.dynax_predictor_array import PredictionArrayConfig, tile_period_cycles
from xmsim.accel_models.dynax_segments import WindowSegments, window_segments
from xmsim.accel_models.dynax_top_k import PruningConfig, index_record_bytes, rank_latency_cycles
from xmsim.accel_models.dynax_window_pipeline import window_pipeline
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.functional import FunctionalResult, judge_output, operands_of
from xmsim.accel_models.projections import DenseActions, DenseArray, DenseStages, clocked_macs
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import Access, ComponentCounts, Memory, Part, registers, selector
from xmsim.sim.schedule import UNLIMITED, Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import finish
from xmsim.workloads.attention import AttentionWorkload

PIPELINES = {"block": block_pipeline, "window": window_pipeline}


SUM_BYTES = 4  # of an output element that is being added up


class SchedulerConfig(Config):
    """Packing of segments over a window of query tiles."""

    window_tiles: PositiveInt
    rows_per_cycle: PositiveInt


class KvConfig(Config):
    """K and V of one KV head stay in the buffer if both fit, else blocks are streamed for every window; nothing between."""

    buffer_bytes: PositiveInt
    stream_blocks: Annotated[int, Field(ge=1, le=2**16)]  # places for streamed K/V blocks, or as many as the buffer holds
    outstanding_loads: PositiveInt


class DynaxConfig(MachineConfig):
    """Keys of a DynaX YAML."""

    prediction_phase: Literal["simulated", "free"]  # free: masks, and their packing into hardware blocks, cost nothing
    pipelining: Literal["block", "window"]  # window: as the closed form has it
    prediction_array: PredictionArrayConfig
    pruning: PruningConfig
    execute_array: ExecuteArrayConfig
    arithmetic: ArithmeticConfig
    scheduler: SchedulerConfig
    kv: KvConfig
    dividers: PositiveInt
    causal_tiles: Literal["computed", "skipped"]  # key blocks that no row of a query tile may see

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        """The machine's own method must prune what its cascades rank, from the scores that its array predicts."""
        method, array = self.method.load(), self.prediction_array
        if method.block not in (None, self.pruning.block):
            raise ValueError(
                f"pruning.block: the cascades rank blocks of {self.pruning.block} keys, method {method.name} prunes blocks of "
                f"{method.block}; set pruning.block to {method.block} or choose a method with blocks of {self.pruning.block}"
            )
        predicted = method.prediction
        if predicted is not None and (predicted.group, predicted.bits) != (array.group, array.bits):
            raise ValueError(
                f"prediction_array: predicts with 1 of {array.group} channels and {array.bits} bits, method {method.name} with 1 of "
                f"{predicted.group} and {predicted.bits}; set group to {predicted.group} and bits to {predicted.bits}"
            )
        return self

    @model_validator(mode="after")
    def _check_arithmetic(self) -> Self:
        bits, point, columns = self.arithmetic.bits, self.arithmetic.point, self.execute_array.columns
        if point > highest_point(bits, columns):
            raise ValueError(
                f"arithmetic.point: {point} of {bits} bits leave no room to add up the exponentials of {columns} columns; "
                f"the most that do: {highest_point(bits, columns)}"
            )
        return self


def prediction_latency_cycles(pruning: PruningConfig) -> int:
    """Cycles from the end of a tile's period to its last index record.

    Source: released RTL: one to the register of the last exponential, from where it enters the cascade, and the ripple down to the last
    rank; row and block sums are complete before. One more cycle writes the record (assumed).
    """
    return 1 + rank_latency_cycles(pruning.kept - 1) + 1


class Dynax(Accelerator):
    """Prediction of the next window overlaps execution of this one; the pipeline runs on across heads."""

    Config: ClassVar[type[MachineConfig]] = DynaxConfig
    unscheduled = ENGINE_SIDE | {"arithmetic"}
    config: DynaxConfig

    def peak_macs_per_cycle(self) -> int:
        array = self.config.execute_array
        return array.count * array.rows * array.columns

    def dense_array(self) -> DenseArray:
        array = self.config.execute_array
        return DenseArray(
            stages=DenseStages(QUERY_LOAD, KV_LOAD, EXECUTE, STORE),
            actions=DenseActions(EXECUTE_MAC, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ),
            rows=array.rows,
            columns=array.columns,
            product_cycles=lambda rows, columns, inner: dense_product_cycles(columns, inner, array),
            product_macs=lambda rows, columns, inner: clocked_macs(columns, inner, array.columns, array.rows * array.columns),
            streams=array.columns,
        )

    def area(self) -> ComponentCounts:
        """Arrays as in the released RTL, with 16-bit operands; buffers of the YAML, and of two windows (sizes assumed)."""
        config, predict, array, pruning = self.config, self.config.prediction_array, self.config.execute_array, self.config.pruning
        word, sums = 8 * WORD_BYTES, config.arithmetic.bits
        low_pes, pes, rows = predict.rows * predict.columns, self.peak_macs_per_cycle(), array.count * array.rows
        low_bits = (predict.group + 1) * predict.bits + 2 * predict.bits + (predict.columns - 1).bit_length()  # operands, partial sum
        shared_bits = rows * (pruning.block + 1) * word
        parts = (
            Part("prediction_array", "integer_mac", predict.bits, low_pes, {"mac": 1}),
            registers("prediction_array", low_pes * low_bits, {"mac": low_bits}),
            selector("prediction_array", predict.group, predict.bits, low_pes, "mac"),
            Part("prediction_array", "exp_unit", sums, predict.rows, {"exp": 1}),
            Part("prediction_array", "adder", sums, 2 * predict.rows, {"exp": 2}),  # of the row and of a block
            Part("top_k", "top_k_cell", word, predict.rows * pruning.kept, {"compare": 1}),
            Part("decision", "comparator", word, 2 * predict.rows, {"compare": 1}),
            Part("execute_array", "integer_mac", word, pes, {"mac": 1}),
            registers("execute_array", shared_bits + pes * 2 * sums, {"mac": shared_bits / pes + sums}),
            selector("execute_array", pruning.block, word, pes, "mac"),
            Part("execute_array", "exp_unit", sums, pes, {"exp": 1}),
            Part("accumulator", "adder", 32, rows * array.columns, {"add": array.columns}),  # a tree behind each row, and the sum
            Part("divider", "divider", word, config.dividers, {"divide": 1}),
        )
        head_dim = predict.group * predict.columns  # the head for which the prediction array is as wide
        held_keys = config.kv.buffer_bytes // (2 * head_dim * WORD_BYTES)
        record_bytes, window = index_record_bytes(pruning), self._window_rows()
        streamed_keys = Access("prediction_array", "mac", predict.group * predict.bits / 8 / predict.rows, 0)
        loaded_keys = Access("key_buffer", "write_bytes", 0, 1)
        sums_kept = (Access("accumulator", "add", SUM_BYTES, SUM_BYTES), Access("divider", "divide", SUM_BYTES, 0))
        memory = partial(Memory.of_width, size_known=False)  # the paper states none
        memories = (
            memory("query_buffer", 2 * window * head_dim * WORD_BYTES, rows * word),
            memory("kv_buffer", config.kv.buffer_bytes, pruning.block * word),
            memory("key_buffer", predict.key_buffer_bytes, head_dim * predict.bits, (streamed_keys, loaded_keys)),
            memory("index_buffer", 2 * window * max(1, held_keys // pruning.block) * record_bytes, 8 * record_bytes),
            memory("output_buffer", window * head_dim * SUM_BYTES, rows * 32, sums_kept),
        )
        return ComponentCounts(parts, memories)

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Packing efficiency (segments / rows of the hardware blocks they fill), and blocks with more than N kept keys."""
        packed = self._packed(workload)
        rows = self.config.execute_array.rows
        hardware_blocks = int((-(-packed.by_block // rows)).sum())
        return {
            "hardware_blocks": hardware_blocks,
            "packing_efficiency": float(packed.by_block.sum() / (rows * hardware_blocks)) if hardware_blocks else 0.0,
            "overfull_blocks": packed.overfull_blocks,
        }

    def refuse_foreign_mask(self, workload: AttentionWorkload) -> None:
        """A native mask keeps at most N keys of a row's block, which the cascade ranks."""
        pruning = self.config.pruning
        most = int(workload.block_counts(pruning.block).max())
        if most > pruning.kept:
            raise WorkloadError(
                f"{self.name}: pruning.kept: the cascade ranks {pruning.kept} of {pruning.block} keys, and the mask keeps up to {most}; "
                f"the least that does: {most}"
            )

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        self._check(workload)
        first, end = self._keys_seen(workload)
        array = self.config.prediction_array
        period = [tile_period_cycles(keys, workload.head_dim, array) for keys in (end - first).tolist()]
        work = Work(first, end, np.array(period, np.int64), self._packed(workload).by_block)
        tables = PIPELINES[self.config.pipelining](self._plan(workload), work, len(ACTIONS))
        return finish(tables, self._stages(workload), (self.dram_channel(),), ACTIONS)

    def compute(self, workload: AttentionWorkload) -> FunctionalResult:
        """The attention output of the same segments with the machine's arithmetic.

        Raises:
            WorkloadError: the workload carries no operands.
        """
        self._check(workload)
        config, array = self.config, self.config.prediction_array
        shape = SegmentShape(self._window_rows(), config.pruning.block, config.execute_array.columns)
        output = attention_output(workload, operands_of(workload), shape, config.arithmetic, group=array.group, bits=array.bits)
        return judge_output(output, workload.keep(), workload)

    def _window_rows(self) -> int:
        return self.config.scheduler.window_tiles * self.config.prediction_array.rows

    def _check(self, workload: AttentionWorkload) -> None:
        config, head_dim = self.config, workload.head_dim
        group = config.prediction_array.group
        if head_dim % group:
            nearest = max(smaller for smaller in range(1, group) if head_dim % smaller == 0)
            raise WorkloadError(
                f"{self.name}: prediction_array.group: {group} does not divide head_dim {head_dim}; the nearest that does: {nearest}"
            )
        if config.kv.buffer_bytes < self._block_bytes(workload):
            raise WorkloadError(
                f"{self.name}: kv.buffer_bytes: {config.kv.buffer_bytes} do not hold K and V of one block of {config.pruning.block} keys "
                f"of {head_dim} channels; the least that do: {self._block_bytes(workload)}"
            )

    def _block_bytes(self, workload: AttentionWorkload) -> int:
        return 2 * self.config.pruning.block * workload.head_dim * WORD_BYTES

    def _packed(self, workload: AttentionWorkload) -> WindowSegments:
        config = self.config
        return window_segments(
            workload.words,
            keys=workload.keys,
            block=config.pruning.block,
            columns=config.execute_array.columns,
            kept=config.pruning.kept,
            window_rows=self._window_rows(),
        )

    def _keys_seen(self, workload: AttentionWorkload) -> tuple[Int64Array, Int64Array]:
        """First key that streams past each query tile and one past the last, in whole blocks; int64 [tiles]."""
        rows, block = self.config.prediction_array.rows, self.config.pruning.block
        first_query = np.arange(0, workload.queries, rows, dtype=np.int64)
        if not workload.causal or self.config.causal_tiles == "computed":
            return np.zeros_like(first_query), np.full_like(first_query, -(-workload.keys // block) * block)
        reach = workload.keys if workload.window is None else workload.window
        first = np.maximum(workload.query_offset + first_query - reach + 1, 0)
        end = workload.query_offset + np.minimum(first_query + rows, workload.queries)
        return first // block * block, -(-end // block) * block

    def _plan(self, workload: AttentionWorkload) -> Plan:
        config, predict, head_dim = self.config, self.config.prediction_array, workload.head_dim
        low_bit_bytes = -(-workload.keys * head_dim * config.prediction_array.bits // 8)
        return Plan(
            heads=workload.heads,
            group=workload.group,
            queries=workload.queries,
            keys=workload.keys,
            head_dim=head_dim,
            predicts=config.prediction_phase == "simulated",
            tile_rows=config.prediction_array.rows,
            predicted_macs_per_key=predict.rows * predict.columns * -(-head_dim // (predict.group * predict.columns)),
            low_bits=config.prediction_array.bits,
            latency_cycles=prediction_latency_cycles(config.pruning),
            keys_stay=low_bit_bytes <= config.prediction_array.key_buffer_bytes,
            block=config.pruning.block,
            kept=config.pruning.kept,
            record_bytes=index_record_bytes(config.pruning),
            window_tiles=config.scheduler.window_tiles,
            scan_rows=config.scheduler.rows_per_cycle,
            rows=config.execute_array.rows,
            columns=config.execute_array.columns,
            period_cycles=block_period_cycles(head_dim, config.execute_array),
            drain_cycles=block_drain_cycles(config.execute_array),
            dividers=config.dividers,
            resident_heads=config.kv.buffer_bytes // (2 * workload.keys * head_dim * WORD_BYTES),
            places=min(config.kv.stream_blocks, config.kv.buffer_bytes // self._block_bytes(workload)),
            layout=dram_layout(workload, WORD_BYTES, config.prediction_array.bits),
        )

    def _stages(self, workload: AttentionWorkload) -> tuple[Stage, ...]:
        """Queue 0 before the predictor: one tile is held by the array, the next by the loader (double buffer)."""
        array = self.config.execute_array
        blocks_draining = -(-block_drain_cycles(array) // block_period_cycles(workload.head_dim, array))
        tiles_draining = -(-prediction_latency_cycles(self.config.pruning) // self.config.pruning.block)
        return (
            Stage("query_load", servers=1, queue=0),
            Stage("predictor", servers=1, queue=0),
            Stage("predictor_drain", servers=1 + tiles_draining, queue=0),
            Stage("decision", servers=1, queue=UNLIMITED),
            Stage("scheduler", servers=1, queue=1),
            Stage("kv_load", servers=self.config.kv.outstanding_loads, queue=0),
            Stage("execute", servers=array.count, queue=UNLIMITED),
            Stage("execute_drain", servers=array.count * (1 + blocks_draining), queue=0),
            Stage("divider", servers=1, queue=1),
            Stage("store", servers=1, queue=1),
        )
