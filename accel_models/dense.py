"""A dense output-stationary systolic array with a softmax unit: computes every pair, whatever the mask."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numba import njit

from xmsim.accel_models.accelerator import Accelerator, MachineConfig
from xmsim.accel_models.errors import WorkloadError
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

WORD_BYTES = 2  # 16-bit operands and results

LOAD, PE_ARRAY, SOFTMAX, STORE = range(4)
DRAM = 0
MAC, EXP, DIVIDE, BUFFER_READ, BUFFER_WRITE = range(5)
ACTIONS = (
    ("pe_array", "mac"),
    ("softmax_unit", "exp"),
    ("softmax_unit", "divide"),
    ("buffer", "read_bytes"),
    ("buffer", "write_bytes"),
)


class PeArrayConfig(Config):
    """A grid of multiply-accumulate units, one output each."""

    rows: PositiveInt
    columns: PositiveInt


class SoftmaxConfig(Config):
    """Exponentials, and as many divisions, in a cycle."""

    elements_per_cycle: PositiveInt


class DenseConfig(MachineConfig):
    """Keys of a dense machine's YAML."""

    pe_array: PeArrayConfig
    softmax: SoftmaxConfig
    score_buffer_bytes: PositiveInt  # one row tile of scores, doubled
    kv_buffer_bytes: PositiveInt  # K and V of one KV head are kept here if both fit, else streamed for every row tile
    causal_tiles: Literal["computed", "skipped"]  # score tiles that lie wholly above the diagonal


def gemm_cycles(rows: int, columns: int, inner: int, config: PeArrayConfig) -> int:
    """Cycles of an [rows, inner] × [inner, columns] product, tile after tile, fill and drain of the array included.

    Source: output-stationary count of a systolic array, ceil(M/R)·ceil(N/C)·(K + R + C − 2); SCALE-Sim prints one less.
    """
    tiles = -(-rows // config.rows) * -(-columns // config.columns)
    return tiles * (inner + config.rows + config.columns - 2)


class Dense(Accelerator):
    """Scores, softmax and output of one row tile after the other; the softmax of a tile overlaps the next tile's scores."""

    Config: ClassVar[type[MachineConfig]] = DenseConfig
    config: DenseConfig

    def peak_macs_per_cycle(self) -> int:
        return self.config.pe_array.rows * self.config.pe_array.columns

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        config = self.config
        tile_bytes = 2 * config.pe_array.rows * workload.keys * WORD_BYTES
        if tile_bytes > config.score_buffer_bytes:
            raise WorkloadError(
                f"{self.name}: two row tiles of {config.pe_array.rows} × {workload.keys} scores need {tile_bytes} bytes, "
                f"score_buffer_bytes is {config.score_buffer_bytes}; lower pe_array.rows or raise score_buffer_bytes"
            )
        tiles = -(-workload.queries // config.pe_array.rows)
        tables = empty_tables(
            jobs=2 * workload.heads * tiles, visits=6 * workload.heads * tiles, afters=4 * workload.heads * tiles, actions=len(ACTIONS)
        )
        kv_bytes = 2 * workload.keys * workload.head_dim * WORD_BYTES
        _write(
            tables,
            workload.heads,
            workload.group,
            workload.queries,
            workload.keys,
            workload.head_dim,
            config.pe_array.rows,
            config.pe_array.columns,
            config.softmax.elements_per_cycle,
            kv_bytes <= config.kv_buffer_bytes,
            workload.causal and config.causal_tiles == "skipped",
        )
        stages = (Stage("load", queue=0), Stage("pe_array", queue=0), Stage("softmax", queue=1), Stage("store", queue=1))
        return finish(tables, stages, (self.dram_channel(),), ACTIONS)


@njit(cache=True)
def _write(
    tables: ScheduleTables,
    heads: int,
    group: int,
    queries: int,
    keys: int,
    head_dim: int,
    array_rows: int,
    array_columns: int,
    softmax_per_cycle: int,
    resident: bool,
    skip_causal: bool,
) -> None:
    """Jobs of all heads: scores of tile t, then the output of tile t − 1, so that the softmax between them is hidden."""
    tiles = -(-queries // array_rows)
    skew = array_rows + array_columns - 2
    scores_job = np.zeros(heads * tiles, np.int64)
    output_job = np.zeros(heads * tiles, np.int64)
    for step in range(heads * tiles + 1):
        if step < heads * tiles:
            head, tile = step // tiles, step % tiles
            first_key, seen = _keys_of_tile(tile, queries, keys, array_rows, skip_causal)
            new_keys = seen - first_key if resident else seen
            rows = min(array_rows, queries - tile * array_rows)
            job = add_job(tables, head)
            scores_job[step] = job
            if step >= 2:
                add_after(tables, output_job[step - 2])  # two score tiles fit the buffer
            visit = add_visit(tables, LOAD, 1)
            key_bytes = 0 if resident and head % group else new_keys * head_dim * WORD_BYTES
            loaded = rows * head_dim * WORD_BYTES + key_bytes
            add_request(tables, visit, DRAM, 0, loaded, 0)
            tables.actions[visit, BUFFER_WRITE] = loaded
            column_tiles = -(-seen // array_columns)
            visit = add_visit(tables, PE_ARRAY, column_tiles * (head_dim + skew))
            tables.actions[visit, MAC] = rows * seen * head_dim
            tables.actions[visit, BUFFER_READ] = column_tiles * (array_rows + array_columns) * head_dim * WORD_BYTES
            visit = add_visit(tables, SOFTMAX, -(-rows * seen // softmax_per_cycle))
            tables.actions[visit, EXP] = rows * seen
            tables.actions[visit, DIVIDE] = rows * seen
            tables.actions[visit, BUFFER_WRITE] = rows * seen * WORD_BYTES
        if step >= 1:
            done = step - 1
            head, tile = done // tiles, done % tiles
            first_key, seen = _keys_of_tile(tile, queries, keys, array_rows, skip_causal)
            new_keys = seen - first_key if resident else seen
            rows = min(array_rows, queries - tile * array_rows)
            output_job[done] = add_job(tables, head)
            add_after(tables, scores_job[done])
            visit = add_visit(tables, LOAD, 1)
            value_bytes = 0 if resident and head % group else new_keys * head_dim * WORD_BYTES
            add_request(tables, visit, DRAM, 0, value_bytes, 0)
            tables.actions[visit, BUFFER_WRITE] = value_bytes
            column_tiles = -(-head_dim // array_columns)
            visit = add_visit(tables, PE_ARRAY, column_tiles * (seen + skew))
            tables.actions[visit, MAC] = rows * seen * head_dim
            tables.actions[visit, BUFFER_READ] = column_tiles * (array_rows + array_columns) * seen * WORD_BYTES
            visit = add_visit(tables, STORE, 1)
            add_request(tables, visit, DRAM, 1, rows * head_dim * WORD_BYTES, 0)


@njit(cache=True)
def _keys_of_tile(tile: int, queries: int, keys: int, array_rows: int, skip_causal: bool) -> tuple[int, int]:
    """Keys that earlier tiles of the head have seen, and keys that this one sees."""
    if not skip_causal:
        return (0 if tile == 0 else keys), keys
    offset = keys - queries
    before = 0 if tile == 0 else offset + tile * array_rows
    return before, min(keys, offset + (tile + 1) * array_rows)
