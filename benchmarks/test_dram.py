"""How fast rows of DRAM are walked: `pytest benchmarks/test_dram.py`, times in CPU seconds.

Goals on one core: 5 M row accesses a second on any pattern, and with the most rows of all kinds still 20 ms a head for Schedule and engine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numba import njit
from pytest_benchmark.fixture import BenchmarkFixture

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.accel_models.accelerator import DramConfig
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.dram_preset import bank_model, load_preset, shipped_kinds
from xmsim.sim.row_walk import DramState, closed_banks, walk_rows
from xmsim.sim.schedule import Channel, Int64Array
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.synthetic_prefill import LLAMA_3_8B, prefill_layers

ROWS_PER_SECOND_GOAL = 5e6
HEAD_GOAL_S = 20e-3
MOST_ROWS = "hbm3_6400"

PATTERNS = {  # addresses and bytes of each request
    "streaming": (np.arange(40_000) * 4096, 4096),
    "strided": (np.arange(100_000) * 66_560, 64),
    "random": (np.random.default_rng(0).integers(0, 2**22, 100_000) * 64, 64),
    "tile_gather": (np.random.default_rng(0).integers(0, 2**13, 4000) * 32_768, 32_768),
}

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@njit(cache=True)
def _walk_all(state: DramState, addresses: Int64Array, size_bytes: int, rows: Int64Array) -> None:
    for address in addresses:
        walk_rows(state, 0, 0, address, size_bytes, 0, rows)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", shipped_kinds())
def test_rows_of_a_pattern(benchmark: BenchmarkFixture, kind: str, pattern: str) -> None:
    preset = load_preset(kind)
    banks = bank_model(preset, preset.channels, Fraction(500))
    addresses, size_bytes = PATTERNS[pattern]
    rows = np.zeros(3, np.int64)

    def walk() -> None:
        rows[:] = 0
        _walk_all(closed_banks((Channel("dram", banks.bytes_per_cycle, 0, banks),)), addresses, size_bytes, rows)

    benchmark.pedantic(walk, rounds=9, warmup_rounds=1)
    rate = int(rows.sum()) / benchmark.stats.stats.median
    benchmark.extra_info["rows"] = int(rows.sum())
    benchmark.extra_info["rows_per_cpu_s"] = round(rate)
    assert rate > ROWS_PER_SECOND_GOAL


@pytest.fixture(scope="module")
def head() -> AttentionWorkload:
    """One head of Llama-3-8B's shape, about 8 % of its pairs kept."""
    return next(prefill_layers(replace(LLAMA_3_8B, layers=1, heads=1, kv_heads=1), seed=0))


@pytest.mark.parametrize("name", shipped_accelerators())
def test_schedule_and_engine_of_a_head_with_banks(benchmark: BenchmarkFixture, name: str, head: AttentionWorkload) -> None:
    shipped = load_accelerator(name)
    dram = DramConfig(kind=MOST_ROWS, latency_ns=50)
    machine = type(shipped)(shipped.name, shipped.config.model_copy(update={"dram": dram}))
    log = benchmark.pedantic(lambda: run_compiled(machine.schedule(head)), rounds=9, warmup_rounds=1)
    benchmark.extra_info["simulated_cycles"] = log.cycles
    benchmark.extra_info["rows"] = int(log.rows.sum())
    assert benchmark.stats.stats.min < HEAD_GOAL_S
