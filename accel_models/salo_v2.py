"""SALOv2 (TCAD 2024): a pattern for each block of 64 × 64 scores, matched at run time on 4-bit scores, and an array that serves it.

The authors released the RTL of the array and of the matching module, and a performance model, not the control that joins them. A tile of
queries is loaded; the matching module takes one key block after the other and leaves a pattern: a window of diagonals, a global column
and row, and a few picks in each row. Keys and values of blocks that keep anything follow, and the array computes the block in one pass.
Weighted-sum modules merge and normalise the passes of a row.

Given a mask alone, a block's pattern is one that reaches all it keeps if there is one (always, for a mask of the machine's own method),
else the one that the mask itself matches; `coverage` says how much of the mask is reached.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from xmsim.accel_models.accelerator import ENGINE_SIDE, Accelerator, MachineConfig
from xmsim.accel_models.bitonic import top_k_comparators
from xmsim.accel_models.dram_layout import (
    DramLayout,
    dram_layout,
    key_value_address,
    low_bit_key_address,
    output_address,
    query_address,
)
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
    pass_cycles_v2,
    ports,
    processing_elements,
    row_units,
)
from xmsim.accel_models.salo_attention import attend_v2, input_words, keep_of_passes
from xmsim.accel_models.salo_matching import (
    MatchingConfig,
    matching_latency_cycles,
    matching_period_cycles,
    pattern_record_bytes,
    sorter_compares,
)
from xmsim.accel_models.salo_numbers import NumberFormatConfig, words_of
from xmsim.accel_models.salo_pattern import BLOCK, DIAGONALS, BlockPattern, block_pattern, block_row_passes, reached_pairs
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import ComponentCounts, Memory, Part, registers
from xmsim.sim.schedule import UNLIMITED, Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.kinds import SaloConfig

WORD_BYTES = 2  # 16-bit operands and results
HEAD_DIM = 64  # of the emitted instance

QUERY_LOAD, KEY_LOAD, MATCHING, MATCHING_DRAIN, KV_LOAD, PE_ARRAY, WEIGHTED_SUM, STORE = range(8)
DRAM = 0
(
    LOW_BIT_MAC,
    DIAGONAL_ADD,
    COMPARE,
    MAC,
    EXP,
    SUM,
    MERGE,
    WEIGH,
    QUERY_WRITE,
    QUERY_READ,
    KEY_WRITE,
    KEY_READ,
    PATTERN_WRITE,
    PATTERN_READ,
    KV_WRITE,
    KV_READ,
) = range(16)
ACTIONS = (
    ("matching_array", "mac"),
    ("window_search", "add"),
    ("sorter", "compare"),
    ("pe_array", "mac"),
    ("pe_array", "exp"),
    ("pe_array", "add"),
    ("weighted_sum", "mac"),
    ("weighted_sum", "divide"),
    ("query_buffer", "write_bytes"),
    ("query_buffer", "read_bytes"),
    ("key_buffer", "write_bytes"),
    ("key_buffer", "read_bytes"),
    ("pattern_buffer", "write_bytes"),
    ("pattern_buffer", "read_bytes"),
    ("kv_buffer", "write_bytes"),
    ("kv_buffer", "read_bytes"),
)


class KvConfig(Config):
    """K and V of one KV head stay in the buffer if both fit, else blocks are streamed for every tile; nothing between."""

    buffer_bytes: PositiveInt
    outstanding_loads: Annotated[int, Field(ge=1, le=2**16)]


class SaloV2Config(MachineConfig):
    """Keys of a SALOv2 YAML."""

    prediction_phase: Literal["simulated", "free"]  # free: patterns cost nothing
    matching: MatchingConfig
    pe_array: SaloArrayConfig
    global_row: Literal["free", "wired"]  # free: takes no pass of its own; wired: sees the keys of the last local row alone
    query_buffer_tiles: Annotated[int, Field(ge=2, le=2**16)]  # tiles of queries and outputs under way
    kv: KvConfig
    causal_tiles: Literal["computed", "skipped"]  # blocks wholly above the diagonal
    arithmetic: NumberFormatConfig

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        pattern = self.method.load().config
        if not isinstance(pattern, SaloConfig):
            raise ValueError(f"method: this machine serves block patterns, not {pattern.method}; choose salo")
        if pattern.block != BLOCK:
            raise ValueError(f"method.block: {pattern.block} is not the edge of the matching array; set it to {BLOCK}")
        if pattern.global_tokens > 1:
            raise ValueError(f"method.global_tokens: {pattern.global_tokens} global rows of a block are not modelled; set it to 1 or 0")
        if (pattern.window - 1) * pattern.dilation >= BLOCK:
            nearest = (BLOCK - 1) // pattern.dilation + 1
            raise ValueError(f"method.window: {pattern.window} diagonals span more than {BLOCK}; lower it to {nearest}")
        for needed, units in (("global_tokens", "global_rows"), ("global_tokens", "global_columns"), ("picks", "random_columns")):
            if getattr(pattern, needed) and not getattr(self.pe_array, units):
                raise ValueError(f"pe_array.{units}: method.{needed} is {getattr(pattern, needed)}, which needs at least 1 of them")
        return self


def block_passes(rows: int, pattern: SaloConfig, config: SaloArrayConfig, global_row: str) -> int:
    """Passes of the array for a block of which `rows` queries exist: a pass brings each row its columns, global and private keys.

    Source: performance_model.py, ceil(B / R)·ceil(w / C), which is all where the global row is free. As wired it sees `columns` keys
    a pass, those of the last local row, and the block's other keys take passes of their own (inferred).
    """
    row_groups = -(-rows // config.rows)
    pieces = max(
        -(-pattern.window // config.columns),
        -(-pattern.picks // max(1, config.random_columns)),
        -(-pattern.global_tokens // max(1, config.global_columns)),
    )
    passes = row_groups * pieces
    if global_row == "wired" and pattern.global_tokens and rows > 1:  # a lone row is never global
        passes = max(passes, -(-BLOCK // config.columns))
    return passes


def _reached_count(workload: AttentionWorkload, pattern: BlockPattern) -> int:
    """Kept pairs of all heads that the blocks' patterns reach."""
    return sum(int(np.bitwise_count(reached_pairs(words, workload.query_offset, pattern)[0]).sum()) for words in workload.words)


class _Plan(NamedTuple):
    """What the compiled writer needs: the workload's shape and the machine's dimensions."""

    heads: int
    group: int
    queries: int
    keys: int
    query_offset: int
    head_dim: int
    simulates_matching: bool
    skip_causal: bool
    bits: int
    keys_stay: bool  # low-bit keys of a KV head stay on chip
    matching_cycles: int  # from one block to the next
    matching_drain_cycles: int
    compares: int
    record_bytes: int
    patterns_ahead: int
    tiles_ahead: int
    pass_cycles: int
    merge_cycles: int
    units: int
    array_rows: int
    ports: int
    resident_heads: int  # KV heads whose K and V fit the buffer; 0: blocks are streamed
    stream_blocks: int
    layout: DramLayout


class SaloV2(Accelerator):
    """Matching of the next blocks overlaps the array's work on this one; the pipeline runs on across tiles and heads."""

    Config: ClassVar[type[MachineConfig]] = SaloV2Config
    unscheduled = ENGINE_SIDE | {"arithmetic"}
    config: SaloV2Config

    @cached_property
    def pattern(self) -> SaloConfig:
        """The patterns that the machine matches: those of its method."""
        pattern = self.config.method.load().config
        assert isinstance(pattern, SaloConfig)  # the configuration allows no other
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
        """Units, matching module and sorter as in the released RTL; buffers as in the YAML, and assumed."""
        array, numbers, matching = self.config.pe_array, self.config.arithmetic, self.config.matching
        low_bits = 4 * matching.bits  # two operands and an 8-bit sum
        parts = (
            *array_parts(array, HEAD_DIM, numbers.bits, numbers.exponent_bits),
            Part("matching_array", "integer_mac", matching.bits, BLOCK**2, {"mac": 1}),
            registers("matching_array", BLOCK**2 * low_bits, {"mac": low_bits}),
            Part("window_search", "adder", 16, DIAGONALS, {"add": 1}),
            Part("sorter", "comparator", 2 * matching.bits, top_k_comparators(BLOCK, matching.sorted_keys), {"compare": 1}),
            registers("sorter", top_k_comparators(BLOCK, matching.sorted_keys) * 2 * (2 * matching.bits + 6), {"compare": 28}),
        )
        record_bytes = pattern_record_bytes(self.pattern.picks, self.pattern.global_tokens)
        memories = (
            Memory.of_width("query_buffer", self.config.query_buffer_tiles * BLOCK * HEAD_DIM * WORD_BYTES, array.rows * numbers.bits),
            Memory.of_width("key_buffer", matching.key_buffer_bytes, BLOCK * matching.bits),
            Memory.of_width("pattern_buffer", matching.pattern_buffer_blocks * record_bytes, min(512, 8 * record_bytes)),
            Memory.of_width("kv_buffer", self.config.kv.buffer_bytes, ports(array) * numbers.bits),
        )
        return ComponentCounts(parts, memories)

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Passes of all heads, and the share of the mask's pairs that the blocks' patterns reach."""
        reached, kept = _reached_count(workload, self._block_pattern()), int(workload.kept_pairs().sum())
        computed = self._computed_blocks(workload)
        passes = int((computed.sum(axis=(0, 2)) * self._passes_of_tiles(workload)).sum())
        return {"passes": passes, "coverage": reached / kept if kept else 1.0}

    def refuse_foreign_mask(self, workload: AttentionWorkload) -> None:
        """A native mask is reached whole by the patterns of its blocks."""
        kept, pattern = int(workload.kept_pairs().sum()), self._block_pattern()
        reached = _reached_count(workload, pattern)
        if reached < kept:
            more = range(pattern.picks + 1, BLOCK + 1)  # as many picks as a block has columns reach everything
            enough = bisect_left(more, kept, key=lambda picks: _reached_count(workload, pattern._replace(picks=picks)))
            raise WorkloadError(
                f"{self.name}: method.picks: {pattern.picks} a row, beside window and global tokens, reach {reached} of the {kept} pairs "
                f"of the mask; the least that reach all: {more[enough]}"
            )

    def compute(self, workload: AttentionWorkload) -> FunctionalResult:
        """The attention output as this machine computes it: the pairs of the mask that its patterns reach.

        Raises:
            WorkloadError: no operands, or ALiBi.
        """
        words = words_of(self.config.arithmetic)
        inputs = input_words(workload, self.config.arithmetic)
        pattern, units = self._block_pattern(), row_units(self.config.pe_array)
        output, keep = [], []
        for head, mask in enumerate(workload.words):
            passes = block_row_passes(mask, workload.query_offset, units, pattern)
            kv_head = head // workload.group
            output.append(attend_v2(inputs.q[head], inputs.k[kv_head], inputs.v[kv_head], passes, words))
            keep.append(keep_of_passes(passes, workload.keys))
        return judge_output(np.stack(output) / 4.0**words.point, np.stack(keep), workload)

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        plan = self._plan(workload)
        computed = self._computed_blocks(workload)
        heads, tiles, blocks = computed.shape
        matched = heads * tiles * blocks if plan.simulates_matching else 0
        passes = int(computed.sum())
        tables = empty_tables(
            jobs=matched + 2 * passes + 2 * heads * tiles,
            visits=3 * matched + 3 * passes + 2 * heads * tiles,
            afters=2 * matched + 4 * passes + 3 * heads * tiles,
            actions=len(ACTIONS),
        )
        _write(tables, plan, computed, self._passes_of_tiles(workload))
        return finish(tables, self._stages(plan), (self.dram_channel(),), ACTIONS)

    def _block_pattern(self) -> BlockPattern:
        return block_pattern(self.pattern.window, self.pattern.global_tokens, self.pattern.picks, self.pattern.dilation)

    def _computed_blocks(self, workload: AttentionWorkload) -> np.ndarray:
        above_diagonal = workload.causal and self.config.causal_tiles == "computed"
        return _computed_blocks(workload.words, workload.query_offset, above_diagonal)

    def _passes_of_tiles(self, workload: AttentionWorkload) -> Int64Array:
        """Passes of a block in each tile; int64 [tiles]."""
        first, end = workload.query_offset, workload.query_offset + workload.queries
        starts = range(first // BLOCK * BLOCK, end, BLOCK)
        rows = [min(start + BLOCK, end) - max(start, first) for start in starts]
        config = self.config
        return np.array([block_passes(count, self.pattern, config.pe_array, config.global_row) for count in rows], np.int64)

    def _plan(self, workload: AttentionWorkload) -> _Plan:
        config, matching, array = self.config, self.config.matching, self.config.pe_array
        block_bytes = 2 * BLOCK * workload.head_dim * WORD_BYTES
        head_bytes = -(-workload.keys // BLOCK) * block_bytes
        stream_blocks = config.kv.buffer_bytes // block_bytes
        if not stream_blocks:
            raise WorkloadError(
                f"{self.name}: K and V of one block of {BLOCK} keys × {workload.head_dim} channels need {block_bytes} bytes, "
                f"kv.buffer_bytes is {config.kv.buffer_bytes}; raise it to {block_bytes}"
            )
        low_bit_bytes = -(-workload.keys * workload.head_dim * matching.bits // 8)
        return _Plan(
            heads=workload.heads,
            group=workload.group,
            queries=workload.queries,
            keys=workload.keys,
            query_offset=workload.query_offset,
            head_dim=workload.head_dim,
            simulates_matching=config.prediction_phase == "simulated",
            skip_causal=workload.causal and self.config.causal_tiles == "skipped",
            bits=matching.bits,
            keys_stay=low_bit_bytes <= matching.key_buffer_bytes,
            matching_cycles=matching_period_cycles(workload.head_dim),
            matching_drain_cycles=matching_latency_cycles(workload.head_dim, matching) - matching_period_cycles(workload.head_dim),
            compares=sorter_compares(matching),
            record_bytes=pattern_record_bytes(self.pattern.picks, self.pattern.global_tokens),
            patterns_ahead=matching.pattern_buffer_blocks,
            tiles_ahead=config.query_buffer_tiles,
            pass_cycles=pass_cycles_v2(workload.head_dim) + FLUSH_CYCLES,
            merge_cycles=exposed_merge_cycles(array),
            units=processing_elements(array),
            array_rows=array.rows + array.global_rows,
            ports=ports(array),
            resident_heads=config.kv.buffer_bytes // head_bytes,
            stream_blocks=stream_blocks,
            layout=dram_layout(workload, WORD_BYTES, matching.bits),
        )

    def _stages(self, plan: _Plan) -> tuple[Stage, ...]:
        """Pipelined units hold as many blocks as begin within their latency."""
        loads = self.config.kv.outstanding_loads
        return (
            Stage("query_load", servers=1, queue=0),
            Stage("key_load", servers=loads, queue=0),
            Stage("matching", servers=1, queue=0),
            Stage("matching_drain", servers=1 + plan.matching_drain_cycles // plan.matching_cycles, queue=0),
            Stage("kv_load", servers=loads, queue=0),
            Stage("pe_array", servers=1, queue=0),
            Stage("weighted_sum", servers=1 + plan.merge_cycles // plan.pass_cycles, queue=0),
            Stage("store", servers=1, queue=UNLIMITED),
        )


@njit(cache=True)
def _computed_blocks(words: np.ndarray, query_offset: int, above_diagonal: bool) -> np.ndarray:
    """Blocks that take passes: those that keep anything, and, if asked for, all above the diagonal; bool [heads, tiles, blocks]."""
    heads, queries, blocks = words.shape
    first_tile = query_offset // BLOCK
    computed = np.zeros((heads, (query_offset + queries - 1) // BLOCK + 1 - first_tile, blocks), np.bool_)
    for head in range(heads):
        for query in range(queries):
            tile = (query_offset + query) // BLOCK - first_tile
            for block in range(blocks):
                computed[head, tile, block] |= words[head, query, block] != 0
    if above_diagonal:
        for tile in range(computed.shape[1]):
            computed[:, tile, max(0, first_tile + tile + 1) :] = True
    return computed


class _Progress(NamedTuple):
    """What earlier jobs left behind; arrays, because compiled code changes them. −1: there is no such job."""

    loaded: Int64Array  # [blocks], resident K/V: the job that brought each block of this KV head
    low_bit_keys: Int64Array  # [blocks], 1: on chip
    matched: Int64Array  # [patterns_ahead], the job that frees each place of the pattern buffer
    place_free: Int64Array  # [stream_blocks], streamed K/V: the pass that frees each place
    last_pass: Int64Array  # [KV heads]
    stores: Int64Array  # [tiles_ahead], of the last tiles, in turn
    counters: Int64Array  # [2]: blocks matched, K/V blocks streamed so far


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, computed: np.ndarray, tile_passes: Int64Array) -> None:
    """Jobs of all heads: of each tile its queries, then of each block matching, load and passes, then the store."""
    _, tiles, blocks = computed.shape
    progress = _Progress(
        np.full(blocks, -1, np.int64),
        np.zeros(blocks, np.int64),
        np.full(plan.patterns_ahead, -1, np.int64),
        np.full(plan.stream_blocks, -1, np.int64),
        np.full(plan.heads // plan.group, -1, np.int64),
        np.full(plan.tiles_ahead, -1, np.int64),
        np.zeros(2, np.int64),
    )
    first_tile = plan.query_offset // BLOCK
    for head in range(plan.heads):
        if head % plan.group == 0:
            progress.loaded[:] = -1
            progress.low_bit_keys[:] = 0
        for tile in range(tiles):
            position = (first_tile + tile) * BLOCK
            rows = min(position + BLOCK, plan.query_offset + plan.queries) - max(position, plan.query_offset)
            queries = add_job(tables, head)
            turn = (head * tiles + tile) % plan.tiles_ahead
            _wait_for(tables, progress.stores[turn])
            visit = add_visit(tables, QUERY_LOAD, 1)
            query_bytes = rows * plan.head_dim * WORD_BYTES
            first_query = max(position - plan.query_offset, 0)
            add_request(tables, visit, DRAM, 0, query_bytes, query_address(plan.layout, head, first_query))
            tables.actions[visit, QUERY_WRITE] = query_bytes
            last, passed = queries, -1
            seen = min(blocks, first_tile + tile + 1) if plan.skip_causal else blocks
            for block in range(seen):
                matched = _add_matching(tables, plan, progress, head, block, rows, queries) if plan.simulates_matching else queries
                last = matched
                if computed[head, tile, block]:
                    last = passed = _add_block(tables, plan, progress, head, block, tile_passes[tile], matched)
                progress.matched[progress.counters[0] % plan.patterns_ahead] = last
                progress.counters[0] += 1
            progress.stores[turn] = add_job(tables, head)
            add_after(tables, last)
            if passed != last:
                _wait_for(tables, passed)
            visit = add_visit(tables, STORE, plan.head_dim)  # the buffers of all rows give an element a cycle
            add_request(tables, visit, DRAM, 1, query_bytes, output_address(plan.layout, head, first_query))


@njit(cache=True)
def _wait_for(tables: ScheduleTables, job: int) -> None:
    if job >= 0:
        add_after(tables, job)


@njit(cache=True)
def _add_matching(tables: ScheduleTables, plan: _Plan, progress: _Progress, head: int, block: int, rows: int, queries: int) -> int:
    """The job that finds the pattern of a block."""
    job = add_job(tables, head)
    add_after(tables, queries)
    _wait_for(tables, progress.matched[progress.counters[0] % plan.patterns_ahead])
    keys = min(BLOCK, plan.keys - block * BLOCK)
    key_bytes = -(-keys * plan.head_dim * plan.bits // 8)
    if not (plan.keys_stay and progress.low_bit_keys[block]):
        progress.low_bit_keys[block] = 1
        visit = add_visit(tables, KEY_LOAD, 1)
        add_request(tables, visit, DRAM, 0, key_bytes, low_bit_key_address(plan.layout, head // plan.group, block * BLOCK))
        tables.actions[visit, KEY_WRITE] = key_bytes
    visit = add_visit(tables, MATCHING, plan.matching_cycles)
    tables.actions[visit, LOW_BIT_MAC] = BLOCK * BLOCK * plan.head_dim
    tables.actions[visit, QUERY_READ] = rows * plan.head_dim * WORD_BYTES
    tables.actions[visit, KEY_READ] = key_bytes
    visit = add_visit(tables, MATCHING_DRAIN, plan.matching_drain_cycles)
    tables.actions[visit, DIAGONAL_ADD] = 2 * DIAGONALS
    tables.actions[visit, COMPARE] = plan.compares
    tables.actions[visit, PATTERN_WRITE] = plan.record_bytes
    return job


@njit(cache=True)
def _add_block(tables: ScheduleTables, plan: _Plan, progress: _Progress, head: int, block: int, passes: int, matched: int) -> int:
    """The load of K and V of a block unless they are there, and its passes; returns the latter."""
    resident = plan.resident_heads > 0
    place = progress.counters[1] % plan.stream_blocks
    load = progress.loaded[block] if resident else -1
    if load < 0:
        load = add_job(tables, head)
        add_after(tables, matched)
        evicted = head // plan.group - plan.resident_heads  # the KV head whose K and V this one replaces
        if not resident:
            _wait_for(tables, progress.place_free[place])
        elif evicted >= 0:
            _wait_for(tables, progress.last_pass[evicted])
        visit = add_visit(tables, KV_LOAD, 1)
        kv_bytes = 2 * min(BLOCK, plan.keys - block * BLOCK) * plan.head_dim * WORD_BYTES
        add_request(tables, visit, DRAM, 0, kv_bytes, key_value_address(plan.layout, head // plan.group, block * BLOCK))
        tables.actions[visit, KV_WRITE] = kv_bytes
    job = add_job(tables, head)
    add_after(tables, matched)
    add_after(tables, load)
    visit = add_visit(tables, PE_ARRAY, passes * plan.pass_cycles)
    tables.actions[visit, MAC] = passes * 2 * plan.units * plan.head_dim  # idle units are clocked too
    tables.actions[visit, EXP] = passes * plan.units
    tables.actions[visit, SUM] = passes * plan.units
    tables.actions[visit, QUERY_READ] = passes * plan.array_rows * plan.head_dim * WORD_BYTES
    tables.actions[visit, PATTERN_READ] = plan.record_bytes
    tables.actions[visit, KV_READ] = passes * plan.ports * 2 * plan.head_dim * WORD_BYTES
    visit = add_visit(tables, WEIGHTED_SUM, plan.merge_cycles)
    tables.actions[visit, MERGE] = passes * 2 * plan.array_rows * plan.head_dim
    tables.actions[visit, WEIGH] = passes * 2 * plan.array_rows
    progress.loaded[block] = load
    if not resident:
        progress.place_free[place] = job
        progress.counters[1] += 1
    progress.last_pass[head // plan.group] = job
    return job
