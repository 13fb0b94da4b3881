"""Row gather: a small machine that visits each query's kept keys one after the other. A tutorial; no such chip is published.

    query_load ──► score_row ──► softmax ──► value_row ──► store
    q; K and V     q·k of one    exp, sum,   p·v of one    the output
    once a head    kept key      division    kept key
                   at a time                 at a time

docs/adding_a_machine.md walks through this file.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from xmsim.accel_models.accelerator import Accelerator, MachineConfig
from xmsim.accel_models.dram_layout import DramLayout, dram_layout, key_value_address, output_address, query_address
from xmsim.accel_models.errors import WorkloadError
from xmsim.configs.schema import Config, PositiveInt
from xmsim.sim.schedule import Int64Array, Schedule, Stage
from xmsim.sim.schedule_builder import ScheduleTables, add_after, add_job, add_request, add_visit, empty_tables, finish
from xmsim.workloads.attention import AttentionWorkload

WORD_BYTES = 2  # 16-bit queries, keys, values and outputs

# The units, in the order in which a query visits them; `queue` is how many may wait in front of one.
QUERY_LOAD, SCORE_ROW, SOFTMAX, VALUE_ROW, STORE = range(5)
STAGES = (Stage("query_load", queue=0), *(Stage(name, queue=1) for name in ("score_row", "softmax", "value_row", "store")))
DRAM, READ, WRITE = 0, 0, 1
# What will cost energy: (component, action).
KV_WRITE, SCORE_MAC, EXP, VALUE_MAC = range(4)
ACTIONS = (("kv_buffer", "write_bytes"), ("score_row", "mac"), ("softmax_unit", "exp"), ("value_row", "mac"))


class SoftmaxConfig(Config):
    """The softmax unit."""

    elements_per_cycle: PositiveInt


class RowGatherConfig(MachineConfig):
    """Keys of the YAML, besides those that every machine has."""

    macs_per_row: PositiveInt  # in each of the two rows
    softmax: SoftmaxConfig
    kv_buffer_bytes: PositiveInt  # holds K and V of one KV head


def key_cycles(head_dim: int, macs_per_row: int) -> int:
    """Cycles in which one key or value holds its row: a product for each MAC in each. Source: ours."""
    return -(-head_dim // macs_per_row)


def softmax_cycles(kept: Int64Array, elements_per_cycle: int) -> Int64Array:
    """Cycles of the softmax of rows of `kept` scores: once through for exponentials and their sum, once for the division. Source: ours."""
    return 2 * -(-kept // elements_per_cycle)


class RowGather(Accelerator):
    """Skips what a mask drops, key by key; keeps K and V of one KV head on chip."""

    Config = RowGatherConfig
    config: RowGatherConfig

    def peak_macs_per_cycle(self) -> int:
        return 2 * self.config.macs_per_row

    def schedule(self, workload: AttentionWorkload) -> Schedule:
        kv_bytes = 2 * workload.keys * workload.head_dim * WORD_BYTES
        if kv_bytes > self.config.kv_buffer_bytes:
            raise WorkloadError(
                f"{self.name}: K and V of {workload.keys} keys need {kv_bytes} bytes, kv_buffer_bytes is {self.config.kv_buffer_bytes}; "
                f"raise it to {kv_bytes}, or use fewer tokens"
            )
        kept = np.bitwise_count(workload.words).sum(axis=2, dtype=np.int64)  # [heads, queries]
        jobs = kept.size  # one for each query of each head
        tables = empty_tables(jobs=jobs, visits=5 * jobs, afters=workload.kv_heads, actions=len(ACTIONS))
        softmax = softmax_cycles(kept, self.config.softmax.elements_per_cycle)
        per_key = key_cycles(workload.head_dim, self.config.macs_per_row)
        _write(tables, kept, softmax, per_key, dram_layout(workload, WORD_BYTES), workload.head_dim, workload.group, kv_bytes)
        return finish(tables, STAGES, (self.dram_channel(),), ACTIONS)


@njit(cache=True)
def _write(
    tables: ScheduleTables,
    kept: Int64Array,
    softmax: Int64Array,
    per_key: int,
    layout: DramLayout,
    head_dim: int,
    group: int,
    kv_bytes: int,
) -> None:
    """Every query's way through the units, head by head."""
    heads, queries = kept.shape
    for head in range(heads):
        for query in range(queries):
            job = add_job(tables, head)
            new_kv_bytes = kv_bytes if query == 0 and head % group == 0 else 0  # the other heads of a group find K and V there
            if new_kv_bytes and job > 0:
                add_after(tables, job - 1)  # the buffer is free when the last query of the head before is done
            visit = add_visit(tables, QUERY_LOAD, 1)
            address = key_value_address(layout, head // group, 0) if new_kv_bytes else query_address(layout, head, query)
            add_request(tables, visit, DRAM, READ, head_dim * WORD_BYTES + new_kv_bytes, address)
            tables.actions[visit, KV_WRITE] = new_kv_bytes
            count = kept[head, query]
            if count:  # a visit has at least a cycle; a query that keeps nothing goes straight to store, with zeros
                visit = add_visit(tables, SCORE_ROW, count * per_key)
                tables.actions[visit, SCORE_MAC] = count * head_dim
                visit = add_visit(tables, SOFTMAX, softmax[head, query])
                tables.actions[visit, EXP] = count
                visit = add_visit(tables, VALUE_ROW, count * per_key)
                tables.actions[visit, VALUE_MAC] = count * head_dim
            visit = add_visit(tables, STORE, 1)
            add_request(tables, visit, DRAM, WRITE, head_dim * WORD_BYTES, output_address(layout, head, query))
