"""SALO (DAC 2022): a static sliding window and global tokens on a systolic array with diagonal key streams.

The authors released the RTL of the array and a performance model, not the scheduler. Groups of query rows meet their window piece by
piece; each pass computes scores, softmax and values of its piece in place, and weighted-sum modules merge the passes of a row.
The pattern is that of the machine's method, whatever mask a workload brings; `coverage` says how much of that mask it reaches.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from xmsim.accel_models.accelerator import ENGINE_SIDE, Accelerator, MachineConfig
from xmsim.accel_models.dram_layout import DramLayout, dram_layout, key_value_address, output_address, query_address
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.functional import FunctionalResult, judge_output
from xmsim.accel_models.projections import DenseActions, DenseArray, DenseStages, clocked_macs
from xmsim.accel_models.salo_array import (
    FLUSH_CYCLES,
    SaloArrayConfig,
    array_parts,
    dense_product_cycles,
    dense_streams,
    exposed_merge_cycles,
    pass_cycles_v1,
    ports,
    processing_elements,
)
from xmsim.accel_models.salo_attention import attend_v1, input_words, keep_of_passes
from xmsim.accel_models.salo_numbers import NormalisingFormatConfig, normalising_words_of
from xmsim.accel_models.salo_published import PublishedEstimate, published_model_v1, published_model_v2
from xmsim.accel_models.salo_window import (
    ANY_KEYS,
    WindowPasses,
    WindowPattern,
    window_passes,
    window_row_passes,
    without_far_pieces,
)
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import ComponentCounts, Memory, Part
from xmsim.sim.schedule import UNLIMITED, Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.kinds import WindowConfig

__all__ = ["PublishedEstimate", "Salo", "SaloConfig", "published_model_v1", "published_model_v2"]

WORD_BYTES = 2  # 16-bit operands and results
HEAD_DIM = 64  # of the emitted instance
MOST_PIECES = 2**16  # of a window of which the empty ones are computed, too

QUERY_LOAD, KV_LOAD, PE_ARRAY, WEIGHTED_SUM, STORE = range(5)
DRAM = 0
MAC, EXP, SUM, PROBABILITY, RECIPROCAL, MERGE, WEIGH, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ = range(11)
ACTIONS = (
    ("pe_array", "mac"),
    ("pe_array", "exp"),
    ("pe_array", "add"),
    ("pe_array", "multiply"),
    ("pe_array", "divide"),
    ("weighted_sum", "mac"),
    ("weighted_sum", "divide"),
    ("query_buffer", "write_bytes"),
    ("query_buffer", "read_bytes"),
    ("kv_buffer", "write_bytes"),
    ("kv_buffer", "read_bytes"),
)


class KvConfig(Config):
    """K and V of one KV head stay in the buffer if both fit, else those that a group's window moves over, else those of a pass alone."""

    buffer_bytes: PositiveInt
    outstanding_loads: Annotated[int, Field(ge=1, le=2**16)]  # also passes that loads run ahead by


class SaloConfig(MachineConfig):
    """Keys of a SALO YAML."""

    pe_array: SaloArrayConfig
    kv: KvConfig
    empty_passes: Literal["computed", "skipped"]  # passes of which no key lies in the sequence
    arithmetic: NormalisingFormatConfig

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        pattern = self.method.load().config
        if not isinstance(pattern, WindowConfig):
            raise ValueError(f"method: this machine serves a static window, not {pattern.method}; choose window")
        array = self.pe_array
        if array.random_columns:
            raise ValueError(f"pe_array.random_columns: a static pattern has no keys for {array.random_columns} of them; set it to 0")
        pieces = -(-2 * pattern.window // array.columns)  # of a window to both sides
        if self.empty_passes == "computed" and pieces > MOST_PIECES:
            raise ValueError(
                f"method.window: {pattern.window} keys to each side take {pieces} passes of every group, the most that are computed: "
                f"{MOST_PIECES}; lower method.window, or set empty_passes to skipped"
            )
        if pattern.global_tokens and not (array.global_rows and array.global_columns):
            raise ValueError("pe_array: global tokens need a global row and a global column; set both to 1, or method.global_tokens to 0")
        return self


class _Plan(NamedTuple):
    """What the compiled writer needs besides the passes."""

    heads: int
    group: int
    head_dim: int
    dilation: int
    global_keys: int  # brought in once for each head, or KV head
    period_cycles: int
    merge_cycles: int
    units: int
    array_rows: int
    ports: int
    resident_heads: int  # KV heads whose K and V fit the buffer
    sliding: bool  # the buffer holds what the window of a group moves over
    loads_ahead: int
    layout: DramLayout


def _reached_count(workload: AttentionWorkload, pattern: WindowPattern) -> int:
    """Kept pairs of all heads that the window and the global tokens reach."""
    return sum(len(window_row_passes(words, pattern).keys) for words in workload.words)


class Salo(Accelerator):
    """Passes of a group follow each other in the array; the loads of the next ones and the store of the last group overlap them."""

    Config: ClassVar[type[MachineConfig]] = SaloConfig
    unscheduled = ENGINE_SIDE | {"arithmetic"}
    config: SaloConfig

    @cached_property
    def pattern(self) -> WindowConfig:
        """The window that the machine serves: that of its method."""
        pattern = self.config.method.load().config
        assert isinstance(pattern, WindowConfig)  # the configuration allows no other
        return pattern

    def peak_macs_per_cycle(self) -> int:
        return processing_elements(self.config.pe_array)

    def dense_array(self) -> DenseArray:
        array = self.config.pe_array
        return DenseArray(
            stages=DenseStages(QUERY_LOAD, KV_LOAD, PE_ARRAY, STORE),
            actions=DenseActions(MAC, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ),
            rows=array.rows,
            columns=array.columns,
            product_cycles=lambda rows, columns, inner: dense_product_cycles(columns, inner, array),
            product_macs=lambda rows, columns, inner: clocked_macs(columns, inner, array.columns, processing_elements(array)),
            streams=dense_streams(array),
        )

    def area(self) -> ComponentCounts:
        """Units with a multiplier for the probability and a divider a row, as in the released RTL; buffers as in the YAML, and assumed."""
        array, numbers = self.config.pe_array, self.config.arithmetic
        parts = (
            *array_parts(array, HEAD_DIM, numbers.bits, numbers.exponent_bits),
            Part("pe_array", "integer_multiplier", numbers.bits, processing_elements(array), {"multiply": 1}),
            Part("pe_array", "divider", 2 * numbers.bits, array.rows + array.global_rows, {"divide": 1}),  # reciprocals of row sums
        )
        memories = (
            Memory.of_width("query_buffer", 2 * array.rows * HEAD_DIM * WORD_BYTES, array.rows * numbers.bits),
            Memory.of_width("kv_buffer", self.config.kv.buffer_bytes, ports(array) * numbers.bits),
        )
        return ComponentCounts(parts, memories)

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Passes of all heads, and the share of the mask's pairs that the machine's pattern reaches."""
        pattern = self._pattern(workload)
        reached, kept = _reached_count(workload, pattern), int(workload.kept_pairs().sum())
        passes = workload.heads * len(window_passes(pattern).residue)
        return {"passes": passes, "coverage": reached / kept if kept else 1.0}

    def refuse_foreign_mask(self, workload: AttentionWorkload) -> None:
        """A native mask lies within the window and on the global tokens."""
        pattern, kept = self._pattern(workload), int(workload.kept_pairs().sum())
        reached = _reached_count(workload, pattern)
        if reached < kept:
            _, query, key = workload.keep().nonzero()
            distance = np.abs(query + workload.query_offset - key)[(key >= pattern.global_tokens) & (query >= pattern.global_queries)]
            dilation = math.gcd(self.pattern.dilation, *np.unique(distance).tolist())
            raise WorkloadError(
                f"{self.name}: method.window: {self.pattern.window} keys, {self.pattern.dilation} apart, and {self.pattern.global_tokens} "
                f"global reach {reached} of the {kept} pairs of the mask; the nearest that reach all: "
                f"window {distance.max() // dilation + 1}, dilation {dilation}"
            )

    def compute(self, workload: AttentionWorkload) -> FunctionalResult:
        """The attention output as this machine computes it: the pairs of the mask that its pattern reaches.

        Raises:
            WorkloadError: no operands, or ALiBi.
        """
        words = normalising_words_of(self.config.arithmetic)
        inputs = input_words(workload, self.config.arithmetic)
        pattern = self._pattern(workload)
        output, keep = [], []
        for head, mask in enumerate(workload.words):
            passes = window_row_passes(mask, pattern)
            kv_head = head // workload.group
            output.append(attend_v1(inputs.q[head], inputs.k[kv_head], inputs.v[kv_head], passes, words))
            keep.append(keep_of_passes(passes, workload.keys))
        return judge_output(np.stack(output) / 4.0**words.point, np.stack(keep), workload)

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        passes = window_passes(self._pattern(workload))
        groups, jobs_of_passes = len(passes.group_rows), 2 * len(passes.residue)
        tables = empty_tables(
            jobs=workload.heads * (2 * groups + jobs_of_passes),
            visits=workload.heads * (2 * groups + 2 * jobs_of_passes),
            afters=workload.heads * (3 * groups + 2 * jobs_of_passes),
            actions=len(ACTIONS),
        )
        plan = self._plan(workload)
        _write(tables, plan, passes)
        return finish(tables, self._stages(plan), (self.dram_channel(),), ACTIONS)

    def _pattern(self, workload: AttentionWorkload) -> WindowPattern:
        pattern, array = self.pattern, self.config.pe_array
        global_queries = 0  # a causal one sees no key that is not global
        if not workload.causal:
            global_queries = min(max(0, pattern.global_tokens - workload.query_offset), workload.queries)
        served = WindowPattern(
            queries=workload.queries,
            keys=workload.keys,
            query_offset=workload.query_offset,
            first_offset=1 - pattern.window,
            last_offset=0 if workload.causal else pattern.window - 1,
            dilation=min(pattern.dilation, workload.keys),  # from there on, every token is alone
            global_tokens=min(pattern.global_tokens, workload.keys),
            global_queries=global_queries,
            rows=array.rows,
            columns=array.columns,
            global_rows=array.global_rows,
            global_columns=array.global_columns,
            skip_empty=self.config.empty_passes == "skipped",
        )
        return without_far_pieces(served) if served.skip_empty else served

    def _plan(self, workload: AttentionWorkload) -> _Plan:
        array, kv, pattern = self.config.pe_array, self.config.kv, self._pattern(workload)
        key_bytes = 2 * workload.head_dim * WORD_BYTES
        held_keys = kv.buffer_bytes // key_bytes
        pass_keys = (1 + kv.outstanding_loads) * (array.rows + array.columns - 1)
        sliding_keys = pattern.last_offset - pattern.first_offset + (1 + kv.outstanding_loads) * array.rows
        resident_heads = held_keys // workload.keys
        sliding = held_keys >= sliding_keys
        if not (resident_heads or sliding or held_keys >= pass_keys):
            needed = key_bytes * min(workload.keys, pass_keys, sliding_keys)
            raise WorkloadError(
                f"{self.name}: kv.buffer_bytes {kv.buffer_bytes} holds {held_keys} keys of {workload.head_dim} channels, too few for the "
                f"passes under way; raise it to {needed}"
            )
        return _Plan(
            heads=workload.heads,
            group=workload.group,
            head_dim=workload.head_dim,
            dilation=pattern.dilation,
            global_keys=min(pattern.global_tokens, workload.keys),
            period_cycles=pass_cycles_v1(workload.head_dim, array) + FLUSH_CYCLES,
            merge_cycles=exposed_merge_cycles(array),
            units=processing_elements(array),
            array_rows=array.rows + array.global_rows,
            ports=ports(array),
            resident_heads=resident_heads,
            sliding=sliding,
            loads_ahead=kv.outstanding_loads,
            layout=dram_layout(workload, WORD_BYTES),
        )

    def _stages(self, plan: _Plan) -> tuple[Stage, ...]:
        return (
            Stage("query_load", servers=1, queue=0),
            Stage("kv_load", servers=self.config.kv.outstanding_loads, queue=0),
            Stage("pe_array", servers=1, queue=0),
            Stage("weighted_sum", servers=1 + plan.merge_cycles // plan.period_cycles, queue=0),
            Stage("store", servers=1, queue=UNLIMITED),
        )


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them. −1: there is no such job."""

    loaded: Int64Array  # [residues, 2], places of the keys on chip: from, up to
    recent_passes: Int64Array  # [1 + loads ahead], in turn
    last_pass: Int64Array  # [KV heads]
    stores: Int64Array  # [2], of the last two groups, in turn


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, passes: WindowPasses) -> None:
    """Jobs of all heads: of each group its queries, then its passes, each with its load before it, then its store."""
    progress = _Progress(
        np.zeros((plan.dilation, 2), np.int64),
        np.full(1 + plan.loads_ahead, -1, np.int64),
        np.full(plan.heads // plan.group, -1, np.int64),
        np.full(2, -1, np.int64),
    )
    turn = 0
    for head in range(plan.heads):
        new_keys = plan.resident_heads == 0 or head % plan.group == 0
        if new_keys:
            progress.loaded[:] = 0
        rows_before, outputs_before = 0, 0  # queries and outputs of a group lie together, also where its window is dilated
        for group in range(len(passes.group_rows)):
            if passes.group_rows[group] == 0:
                continue
            queries = add_job(tables, head)
            if progress.stores[turn] >= 0:
                add_after(tables, progress.stores[turn])  # query registers and output buffers hold two groups
            visit = add_visit(tables, QUERY_LOAD, 1)
            query_bytes = passes.group_rows[group] * plan.head_dim * WORD_BYTES
            is_local = group < len(passes.group_rows) - 1  # the global queries, the first of the head, enter once more
            add_request(tables, visit, DRAM, 0, query_bytes, query_address(plan.layout, head, rows_before if is_local else 0))
            rows_before += passes.group_rows[group]
            tables.actions[visit, QUERY_WRITE] = query_bytes
            last = queries
            for number in range(passes.group_start[group], passes.group_start[group + 1]):
                first_keys = plan.global_keys if new_keys and number == 0 else 0
                last = _add_pass(tables, plan, progress, passes, head, number, first_keys, queries)
            progress.stores[turn] = add_job(tables, head)
            add_after(tables, last)
            if last == queries and progress.last_pass[head // plan.group] >= 0:
                add_after(tables, progress.last_pass[head // plan.group])  # global rows are done with the head's last pass
            visit = add_visit(tables, STORE, plan.head_dim)  # the buffers of all rows give an element a cycle
            output_bytes = passes.group_outputs[group] * plan.head_dim * WORD_BYTES
            add_request(tables, visit, DRAM, 1, output_bytes, output_address(plan.layout, head, outputs_before))
            outputs_before += passes.group_outputs[group]
            turn = 1 - turn


@njit(cache=True)
def _add_pass(
    tables: ScheduleTables, plan: _Plan, progress: _Progress, passes: WindowPasses, head: int, number: int, first_keys: int, queries: int
) -> int:
    """The load of the keys that a pass is the first to need, if any, and the pass; returns the latter."""
    key_bytes = 2 * plan.head_dim * WORD_BYTES
    kv_head = head // plan.group
    turn = (head * len(passes.residue) + number) % len(progress.recent_passes)
    keys = first_keys + _new_keys(plan, progress, passes.residue[number], passes.first_key[number], passes.end_key[number])
    load = -1
    if keys:
        load = add_job(tables, head)
        freed_by = progress.recent_passes[turn]
        if plan.resident_heads:  # K and V replace those of an earlier KV head
            freed_by = progress.last_pass[kv_head - plan.resident_heads] if kv_head >= plan.resident_heads else -1
        if freed_by >= 0:
            add_after(tables, freed_by)
        visit = add_visit(tables, KV_LOAD, 1)
        first_key = max(passes.end_key[number] - keys, 0)  # those on chip came before them; a residue's keys lie together
        add_request(tables, visit, DRAM, 0, keys * key_bytes, key_value_address(plan.layout, kv_head, first_key))
        tables.actions[visit, KV_WRITE] = keys * key_bytes
    job = add_job(tables, head)
    add_after(tables, queries)
    if load >= 0:
        add_after(tables, load)
    visit = add_visit(tables, PE_ARRAY, plan.period_cycles)
    tables.actions[visit, MAC] = 2 * plan.units * plan.head_dim  # idle units are clocked too
    tables.actions[visit, EXP] = plan.units
    tables.actions[visit, SUM] = plan.units
    tables.actions[visit, PROBABILITY] = plan.units
    tables.actions[visit, RECIPROCAL] = plan.array_rows
    tables.actions[visit, QUERY_READ] = plan.array_rows * plan.head_dim * WORD_BYTES
    tables.actions[visit, KV_READ] = plan.ports * key_bytes
    visit = add_visit(tables, WEIGHTED_SUM, plan.merge_cycles)
    tables.actions[visit, MERGE] = 2 * plan.array_rows * plan.head_dim
    tables.actions[visit, WEIGH] = 2 * plan.array_rows
    progress.recent_passes[turn] = progress.last_pass[kv_head] = job
    return job


@njit(cache=True)
def _new_keys(plan: _Plan, progress: _Progress, residue: int, first: int, end: int) -> int:
    """Keys of a pass that are not on chip; they are from now on."""
    if end == first:
        return 0
    if residue == ANY_KEYS:
        return 0 if plan.resident_heads else end - first
    loaded_from, loaded_to = progress.loaded[residue]
    stays = plan.resident_heads or plan.sliding
    if not stays or loaded_to == 0:
        progress.loaded[residue] = first, end
        return end - first
    progress.loaded[residue] = min(first, loaded_from), max(end, loaded_to)
    return max(0, loaded_from - first) + max(0, end - loaded_to)
