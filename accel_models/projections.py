"""The projections around attention, on a machine's own multipliers: Q, K and V of the new tokens before it, the output behind it.

Three phases that do not overlap: the input projections, attention, the output projection; each leaves its results in DRAM. A product
[tokens, inner] × [inner, columns] is cut into tiles of tokens, as many as the array has rows. The activations of a tile are loaded and stay
while all weights stream past, a tile of `WEIGHT_TILE_COLUMNS` at a time, each loaded, multiplied and its results stored. There is room
for two tiles of activations, and for two tiles of weights for each server of the array (assumed; the buffers of a YAML are not asked).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from xmsim.sim.schedule import Int64Array, Schedule
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.sim.schedule_sequence import in_sequence
from xmsim.workloads.attention import AttentionWorkload

WORD_BYTES = 2  # 16-bit activations, weights and results
WEIGHT_TILE_COLUMNS = 32  # assumed; as many as the widest array computes in a pass
INPUT_PHASE_HEAD = -1  # stands in the place of a query head; the output phase stands behind the last one
DRAM, READ, WRITE = 0, 0, 1


class DenseStages(NamedTuple):
    """Stages of a machine that a dense product takes, in this order; both loads may be one stage."""

    load_activations: int
    load_weights: int
    multiply: int
    store: int


class DenseActions(NamedTuple):
    """Columns of a machine's actions that a dense product counts."""

    mac: int
    activation_write: int
    activation_read: int
    weight_write: int
    weight_read: int


@dataclass(frozen=True, slots=True)
class DenseArray:
    """How a machine multiplies dense matrices."""

    stages: DenseStages
    actions: DenseActions
    rows: int  # tokens of a tile
    columns: int  # output channels of a pass
    product_cycles: Callable[[int, int, int], int]  # (rows, columns, inner): so long [rows, inner] × [inner, columns] holds a server
    product_macs: Callable[[int, int, int], int]  # those of all units while operands stream in: idle ones are clocked, as in attention
    streams: int  # weight columns that enter the array in a pass; more than `columns` where keys move down diagonals
    partial_sum: int | None = None  # column of the actions, where sums are added up outside of the array
    chain: int = 1  # products that the array adds up in one go, where there are partial sums


@dataclass(frozen=True, slots=True)
class Product:
    """A dense product [tokens, inner] × [inner, columns]."""

    tokens: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        return self.tokens * self.inner * self.columns


class Projections(NamedTuple):
    """The products around the attention of one layer."""

    input: Product  # queries, keys and values of the new tokens
    output: Product


def clocked_macs(columns: int, inner: int, array_columns: int, units: int) -> int:
    """Multiply-accumulates of all units of an array that makes `array_columns` columns of sums in a pass, an operand pair a cycle."""
    return -(-columns // array_columns) * units * inner


def output_phase_head(workload: AttentionWorkload) -> int:
    """What stands in the place of a query head for jobs of the output projection."""
    return workload.heads


def projections_of(workload: AttentionWorkload) -> Projections:
    """The projections of the workload's heads; in decode those of the new tokens alone, as the cache holds the others."""
    heads_channels, kv_channels = workload.heads * workload.head_dim, workload.kv_heads * workload.head_dim
    return Projections(
        Product(workload.queries, workload.hidden_channels, heads_channels + 2 * kv_channels),
        Product(workload.queries, heads_channels, workload.hidden_channels),
    )


def with_projections(attention: Schedule, workload: AttentionWorkload, array: DenseArray) -> Schedule:
    """The Schedule of the whole layer: input projections, `attention`, output projection."""
    products = projections_of(workload)
    before = product_schedule(products.input, array, attention, INPUT_PHASE_HEAD)
    behind = product_schedule(products.output, array, attention, output_phase_head(workload))
    return in_sequence((before, attention, behind))


def product_schedule(product: Product, array: DenseArray, machine: Schedule, head: int) -> Schedule:
    """The Schedule of a dense product on the stages, channels and actions of `machine`; its jobs are labelled `head`."""
    token_tiles, column_tiles = -(-product.tokens // array.rows), -(-product.columns // WEIGHT_TILE_COLUMNS)
    last_rows = product.tokens - (token_tiles - 1) * array.rows
    last_columns = product.columns - (column_tiles - 1) * WEIGHT_TILE_COLUMNS
    tiles = [[(rows, columns, product.inner) for columns in (WEIGHT_TILE_COLUMNS, last_columns)] for rows in (array.rows, last_rows)]
    plan = _Plan(
        head=head,
        tokens=product.tokens,
        inner=product.inner,
        columns=product.columns,
        token_tiles=token_tiles,
        column_tiles=column_tiles,
        rows=array.rows,
        pass_columns=array.columns,
        streams=array.streams,
        chains=0 if array.partial_sum is None else -(-product.inner // array.chain),
        partial_sum=array.partial_sum or 0,
        cycles=np.array([[array.product_cycles(*tile) for tile in row] for row in tiles], np.int64),
        macs=np.array([[array.product_macs(*tile) for tile in row] for row in tiles], np.int64),
        weight_places=2 * machine.stages[array.stages.multiply].servers,
    )
    products = token_tiles * column_tiles
    tables = empty_tables(
        jobs=token_tiles + products, visits=token_tiles + 3 * products, afters=3 * products, actions=len(machine.action_names)
    )
    _write(tables, plan, array.stages, array.actions)
    return finish(tables, machine.stages, machine.channels, machine.action_names)


class _Plan(NamedTuple):
    """What the compiled writer needs of the product and the array."""

    head: int
    tokens: int
    inner: int
    columns: int
    token_tiles: int
    column_tiles: int
    rows: int
    pass_columns: int
    streams: int
    chains: int  # partial sums of one sum; 0: the array adds up all of it
    partial_sum: int
    cycles: Int64Array  # [2, 2] of (whole, last) tiles of tokens and of columns
    macs: Int64Array  # the same
    weight_places: int


@njit(cache=True)
def _write(tables: ScheduleTables, plan: _Plan, stages: DenseStages, actions: DenseActions) -> None:
    """Of each tile of tokens the load of its activations, then a job for each tile of weights."""
    for tile in range(plan.token_tiles):
        rows = min(plan.rows, plan.tokens - tile * plan.rows)
        activations = add_job(tables, plan.head)
        if tile >= 2:
            for column in range(plan.column_tiles):
                add_after(tables, _product_job(plan, (tile - 2) * plan.column_tiles + column))
        visit = add_visit(tables, stages.load_activations, 1)
        size_bytes = rows * plan.inner * WORD_BYTES
        add_request(tables, visit, DRAM, READ, size_bytes, tile * plan.rows * plan.inner * WORD_BYTES)
        tables.actions[visit, actions.activation_write] = size_bytes
        for column in range(plan.column_tiles):
            _add_product(tables, plan, stages, actions, tile, column, rows, activations)


@njit(cache=True)
def _product_job(plan: _Plan, product: int) -> int:
    """The job of a product of two tiles, counted through all tiles of tokens, each of which has a job before its products."""
    return product + product // plan.column_tiles + 1


@njit(cache=True)
def _add_product(
    tables: ScheduleTables,
    plan: _Plan,
    stages: DenseStages,
    actions: DenseActions,
    tile: int,
    column: int,
    rows: int,
    activations: int,
) -> None:
    columns = min(WEIGHT_TILE_COLUMNS, plan.columns - column * WEIGHT_TILE_COLUMNS)
    passes = -(-columns // plan.pass_columns)
    number = tile * plan.column_tiles + column
    add_job(tables, plan.head)
    add_after(tables, activations)
    if number >= plan.weight_places:
        add_after(tables, _product_job(plan, number - plan.weight_places))
    weights_at = plan.tokens * plan.inner * WORD_BYTES
    visit = add_visit(tables, stages.load_weights, 1)
    weight_bytes = columns * plan.inner * WORD_BYTES
    add_request(tables, visit, DRAM, READ, weight_bytes, weights_at + column * WEIGHT_TILE_COLUMNS * plan.inner * WORD_BYTES)
    tables.actions[visit, actions.weight_write] = weight_bytes
    last_rows, last_columns = int(tile == plan.token_tiles - 1), int(column == plan.column_tiles - 1)
    visit = add_visit(tables, stages.multiply, plan.cycles[last_rows, last_columns])
    tables.actions[visit, actions.mac] = plan.macs[last_rows, last_columns]
    tables.actions[visit, actions.activation_read] = passes * rows * plan.inner * WORD_BYTES
    repeated = passes * (plan.streams - plan.pass_columns)  # weights that enter the array by a second port
    tables.actions[visit, actions.weight_read] = (columns + repeated) * plan.inner * WORD_BYTES
    if plan.chains:
        tables.actions[visit, plan.partial_sum] = rows * columns * plan.chains
    results_at = weights_at + plan.columns * plan.inner * WORD_BYTES
    visit = add_visit(tables, stages.store, 1)
    first_result = tile * plan.rows * plan.columns + column * WEIGHT_TILE_COLUMNS * rows
    add_request(tables, visit, DRAM, WRITE, rows * columns * WORD_BYTES, results_at + first_result * WORD_BYTES)
