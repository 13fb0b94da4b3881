"""Dense attention on a systolic array with a softmax unit: every pair that the dense model computes, whatever the mask.

Scores of a query tile, its softmax and its output follow each other; the softmax of a tile overlaps the scores of the next. The array's
dataflow says how many queries make a tile and how long a product takes; the rest is common to all dense machines.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numba import njit

from xmsim.accel_models.accelerator import ENGINE_SIDE, Accelerator, MachineConfig
from xmsim.accel_models.dram_layout import DramLayout, dram_layout, key_address, output_address, query_address, value_address
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.functional import FunctionalResult, judge_output, operands_of
from xmsim.accel_models.projections import DenseActions, DenseArray, DenseStages
from xmsim.accel_models.systolic import PeArrayConfig
from xmsim.accel_models.systolic_arithmetic import ArithmeticConfig, attention_output
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.inventory import ComponentCounts, Memory, Part, registers
from xmsim.sim.schedule import Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

WORD_BYTES = 2  # 16-bit operands, scores, probabilities and results

LOAD, PE_ARRAY, SOFTMAX, STORE = range(4)
STAGES = (Stage("load", queue=0), Stage("pe_array", queue=0), Stage("softmax", queue=1), Stage("store", queue=1))
DRAM = 0
MAC, PARTIAL_SUM, EXP, DIVIDE, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ, SCORE_WRITE, SCORE_READ = range(10)
ACTIONS = (
    ("pe_array", "mac"),
    ("accumulator", "add"),
    ("softmax_unit", "exp"),
    ("softmax_unit", "divide"),
    ("query_buffer", "write_bytes"),
    ("query_buffer", "read_bytes"),
    ("kv_buffer", "write_bytes"),
    ("kv_buffer", "read_bytes"),
    ("score_buffer", "write_bytes"),
    ("score_buffer", "read_bytes"),
)


class SoftmaxConfig(Config):
    """Exponentials, and as many divisions, in a cycle."""

    elements_per_cycle: PositiveInt


class SystolicConfig(MachineConfig):
    """Keys that every dense machine's YAML has."""

    pe_array: PeArrayConfig
    softmax: SoftmaxConfig
    arithmetic: ArithmeticConfig
    score_buffer_bytes: PositiveInt  # holds the scores of two query tiles
    kv_buffer_bytes: PositiveInt  # K and V of one KV head are kept here if both fit, else streamed for every query tile
    causal_tiles: Literal["computed", "skipped"]  # keys that no query of a tile sees, above the diagonal or before a sliding window


class Tiles(NamedTuple):
    """The query tiles of a head, and the keys that each is computed against; int64 [tiles]."""

    queries: Int64Array
    first_key: Int64Array
    end_key: Int64Array

    @property
    def keys(self) -> Int64Array:
        return self.end_key - self.first_key


class _Plan(NamedTuple):
    """What the compiled writer needs besides the tiles; int64 [tiles] where it differs from tile to tile."""

    heads: int
    group: int
    head_dim: int
    array_columns: int
    softmax_per_cycle: int
    resident: bool  # K and V of a KV head stay on chip
    tile_queries: int
    new_keys: Int64Array  # loaded for the tile
    first_new_key: Int64Array
    score_cycles: Int64Array
    value_cycles: Int64Array
    score_macs: Int64Array
    value_macs: Int64Array
    score_partial_sums: Int64Array  # added up outside of the array
    value_partial_sums: Int64Array
    layout: DramLayout


class SystolicAttention(Accelerator):
    """Base of the dense machines; a dataflow is a tile of queries and the cost of a product."""

    config: SystolicConfig
    unscheduled = ENGINE_SIDE | {"arithmetic"}
    tile_key: ClassVar[str]  # key of the YAML that says how many queries make a tile

    def area(self) -> ComponentCounts:
        """Units of bfloat16 or binary16 operands; queries of two tiles of heads of 128 channels (assumed)."""
        config, array, width = self.config, self.config.pe_array, self.config.softmax.elements_per_cycle
        word, pes = 8 * WORD_BYTES, array.rows * array.columns
        mac = "float16_mac" if config.arithmetic.fraction_bits > 7 else "bfloat16_mac"
        parts = (
            Part("pe_array", mac, word, pes, {"mac": 1}),
            registers("pe_array", pes * (2 * word + 32), {"mac": 2 * word + 32}),
            Part("accumulator", "adder", 32, array.columns if self.chain else 0, {"add": 1}),
            Part("softmax_unit", "exp_unit", 32, width, {"exp": 1}),
            Part("softmax_unit", "divider", word, width, {"divide": 1}),
        )
        memories = (
            Memory.of_width("query_buffer", 2 * self.tile_queries * 128 * WORD_BYTES, array.rows * word),
            Memory.of_width("kv_buffer", config.kv_buffer_bytes, array.columns * word),
            Memory.of_width("score_buffer", config.score_buffer_bytes, array.columns * word),
        )
        return ComponentCounts(tuple(part for part in parts if part.instances), memories)

    @property
    @abstractmethod
    def tile_queries(self) -> int:
        """Queries of a tile."""

    @property
    @abstractmethod
    def chain(self) -> int | None:
        """Products that the array adds up in one go; None: all of a sum."""

    @abstractmethod
    def product_cycles(self, rows: int, columns: int, inner: int) -> int:
        """Cycles in which [rows, inner] × [inner, columns] holds the array; rows are the queries of one tile."""

    @abstractmethod
    def product_macs(self, rows: int, columns: int, inner: int) -> int:
        """Multiply-accumulates of all units while that product streams in: idle ones are clocked."""

    def peak_macs_per_cycle(self) -> int:
        return self.config.pe_array.rows * self.config.pe_array.columns

    def dense_array(self) -> DenseArray:
        array = self.config.pe_array
        return DenseArray(
            stages=DenseStages(LOAD, LOAD, PE_ARRAY, STORE),
            actions=DenseActions(MAC, QUERY_WRITE, QUERY_READ, KV_WRITE, KV_READ),
            rows=self.tile_queries,
            columns=array.columns,
            product_cycles=self.product_cycles,
            product_macs=self.product_macs,
            streams=array.columns,
            partial_sum=PARTIAL_SUM if self.chain else None,
            chain=self.chain or 1,
        )

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """Which share of the array's multiply-accumulate slots, while it works, serves a kept pair."""
        tiles, plan = self.tiles(workload), self._plan(workload)
        held = workload.heads * int((plan.score_cycles + plan.value_cycles).sum())
        useful = 2 * workload.head_dim * int(workload.kept_pairs().sum())
        return {"query_tiles": workload.heads * len(tiles.queries), "mac_slot_utilisation": useful / (held * self.peak_macs_per_cycle())}

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        tiles = self.tiles(workload)
        self._check_score_buffer(tiles)
        count = workload.heads * len(tiles.queries)
        tables = empty_tables(jobs=2 * count, visits=6 * count, afters=count, actions=len(ACTIONS))
        _write(tables, self._plan(workload), tiles)
        return finish(tables, STAGES, (self.dram_channel(),), ACTIONS)

    def compute(self, workload: AttentionWorkload) -> FunctionalResult:
        """The attention output of the same tiles with the machine's arithmetic; the mask of the workload plays no part.

        Raises:
            WorkloadError: the workload carries no operands.
        """
        tiles = self.tiles(workload)
        end_query = np.cumsum(tiles.queries)
        queries = map(slice, (end_query - tiles.queries).tolist(), end_query.tolist())
        keys = map(slice, tiles.first_key.tolist(), tiles.end_key.tolist())
        allowed = workload.allowed()
        pairs = list(zip(queries, keys, strict=True))
        output = attention_output(operands_of(workload), allowed, pairs, self.chain, self.config.arithmetic)
        return judge_output(output, allowed, workload)

    def tiles(self, workload: AttentionWorkload) -> Tiles:
        """The query tiles of every head; with `causal_tiles: skipped` from the first key that one of its queries sees to the last."""
        first_query = np.arange(0, workload.queries, self.tile_queries)
        end_query = np.minimum(first_query + self.tile_queries, workload.queries)
        first_key, end_key = np.zeros_like(first_query), np.full_like(first_query, workload.keys)
        if workload.causal and self.config.causal_tiles == "skipped":
            end_key = end_query + workload.query_offset
            if workload.window is not None:
                first_key = np.maximum(first_query + workload.query_offset - workload.window + 1, 0)
        return Tiles(end_query - first_query, first_key, end_key)

    def _plan(self, workload: AttentionWorkload) -> _Plan:
        tiles = self.tiles(workload)
        head_dim = workload.head_dim
        shapes = list(zip(tiles.queries.tolist(), tiles.keys.tolist(), strict=True))
        head_kv_bytes = 2 * int(tiles.end_key[-1] - tiles.first_key[0]) * head_dim * WORD_BYTES
        resident = head_kv_bytes <= self.config.kv_buffer_bytes
        seen_before = np.concatenate([tiles.first_key[:1], tiles.end_key[:-1]])
        return _Plan(
            heads=workload.heads,
            group=workload.group,
            head_dim=head_dim,
            array_columns=self.config.pe_array.columns,
            softmax_per_cycle=self.config.softmax.elements_per_cycle,
            resident=resident,
            tile_queries=self.tile_queries,
            new_keys=tiles.end_key - seen_before if resident else tiles.keys,
            first_new_key=seen_before if resident else tiles.first_key,
            score_cycles=np.array([self.product_cycles(queries, keys, head_dim) for queries, keys in shapes]),
            value_cycles=np.array([self.product_cycles(queries, head_dim, keys) for queries, keys in shapes]),
            score_macs=np.array([self.product_macs(queries, keys, head_dim) for queries, keys in shapes]),
            value_macs=np.array([self.product_macs(queries, head_dim, keys) for queries, keys in shapes]),
            score_partial_sums=np.array([queries * keys * self._chains(head_dim) for queries, keys in shapes]),
            value_partial_sums=np.array([queries * head_dim * self._chains(keys) for queries, keys in shapes]),
            layout=dram_layout(workload, WORD_BYTES),
        )

    def _chains(self, inner: int) -> int:
        """Partial sums of one sum that are added up outside of the array."""
        return -(-inner // self.chain) if self.chain else 0

    def _check_score_buffer(self, tiles: Tiles) -> None:
        queries, keys = int(tiles.queries[0]), int(tiles.keys.max())
        needed, held = 2 * queries * keys * WORD_BYTES, self.config.score_buffer_bytes
        if needed > held:
            fitting = held // (2 * keys * WORD_BYTES)
            lower = f", or lower {self.tile_key} to {fitting}" if fitting else ""
            raise WorkloadError(
                f"{self.name}: two query tiles of {queries} × {keys} scores need {needed} bytes, score_buffer_bytes is {held}; "
                f"raise it to {needed}{lower}"
            )


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, tiles: Tiles) -> None:
    """Jobs of all heads: scores of tile t, then the output of tile t − 1, so that the softmax between them is hidden.

    The array takes them in this order, so that scores of a third tile are made when the output has left the buffer to them.
    """
    head_tiles = len(tiles.queries)
    count = plan.heads * head_tiles
    scores_job = np.zeros(count, np.int64)
    for step in range(count + 1):
        if step < count:
            head, tile = step // head_tiles, step % head_tiles
            scores_job[step] = add_job(tables, head)
            _add_scores(tables, plan, head, tile, tiles.queries[tile], tiles.end_key[tile] - tiles.first_key[tile])
        if step >= 1:
            head, tile = (step - 1) // head_tiles, (step - 1) % head_tiles
            add_job(tables, head)
            add_after(tables, scores_job[step - 1])
            _add_output(tables, plan, head, tile, tiles.queries[tile], tiles.end_key[tile] - tiles.first_key[tile])


@njit(cache=True)
def _add_scores(tables: ScheduleTables, plan: _Plan, head: int, tile: int, queries: int, keys: int) -> None:
    """Queries and keys are loaded; products, then the softmax of whole rows."""
    visit = add_visit(tables, LOAD, 1)
    query_bytes, key_bytes = queries * plan.head_dim * WORD_BYTES, _loaded_bytes(plan, head, tile)
    query_at = query_address(plan.layout, head, tile * plan.tile_queries)
    key_at = key_address(plan.layout, head // plan.group, plan.first_new_key[tile])
    address = key_at if key_bytes else query_at  # of one request, which goes on from there
    add_request(tables, visit, DRAM, 0, query_bytes + key_bytes, address)
    tables.actions[visit, QUERY_WRITE] = query_bytes
    tables.actions[visit, KV_WRITE] = key_bytes
    visit = add_visit(tables, PE_ARRAY, plan.score_cycles[tile])
    tables.actions[visit, MAC] = plan.score_macs[tile]
    tables.actions[visit, PARTIAL_SUM] = plan.score_partial_sums[tile]
    tables.actions[visit, QUERY_READ] = -(-keys // plan.array_columns) * query_bytes
    tables.actions[visit, KV_READ] = keys * plan.head_dim * WORD_BYTES
    tables.actions[visit, SCORE_WRITE] = queries * keys * WORD_BYTES
    visit = add_visit(tables, SOFTMAX, -(-queries * keys // plan.softmax_per_cycle))
    tables.actions[visit, EXP] = queries * keys
    tables.actions[visit, DIVIDE] = queries * keys
    tables.actions[visit, SCORE_READ] = queries * keys * WORD_BYTES
    tables.actions[visit, SCORE_WRITE] = queries * keys * WORD_BYTES


@njit(cache=True)
def _add_output(tables: ScheduleTables, plan: _Plan, head: int, tile: int, queries: int, keys: int) -> None:
    """Values are loaded; probabilities times values, and the store of the result."""
    visit = add_visit(tables, LOAD, 1)
    value_bytes = _loaded_bytes(plan, head, tile)
    add_request(tables, visit, DRAM, 0, value_bytes, value_address(plan.layout, head // plan.group, plan.first_new_key[tile]))
    tables.actions[visit, KV_WRITE] = value_bytes
    visit = add_visit(tables, PE_ARRAY, plan.value_cycles[tile])
    tables.actions[visit, MAC] = plan.value_macs[tile]
    tables.actions[visit, PARTIAL_SUM] = plan.value_partial_sums[tile]
    tables.actions[visit, SCORE_READ] = -(-plan.head_dim // plan.array_columns) * queries * keys * WORD_BYTES
    tables.actions[visit, KV_READ] = keys * plan.head_dim * WORD_BYTES
    visit = add_visit(tables, STORE, 1)
    output_at = output_address(plan.layout, head, tile * plan.tile_queries)
    add_request(tables, visit, DRAM, 1, queries * plan.head_dim * WORD_BYTES, output_at)


@njit(cache=True)
def _loaded_bytes(plan: _Plan, head: int, tile: int) -> int:
    """Bytes of the keys, or of the values, that a tile loads."""
    if plan.resident and head % plan.group:
        return 0  # an earlier head of the group has loaded them
    return plan.new_keys[tile] * plan.head_dim * WORD_BYTES
