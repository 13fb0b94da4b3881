"""How fast machines and engines work on a head of 4096 × 4096: `pytest benchmarks/test_engines.py`, times in CPU seconds.

Goals on one core: Schedule and compiled engine in 20 ms a head for each shipped machine; on `dynax_l` 100 M simulated cycles a second in
the compiled engine, and 2 M in the event engine. Cycles, visits and rates stand beside the times (`extra_info`).
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.accel_models.accelerator import ENGINES
from xmsim.sim.compiled_engine import run_compiled
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.synthetic_prefill import LLAMA_3_8B, prefill_layers

HEAD_GOAL_S = 20e-3
CYCLES_PER_SECOND_GOAL = {"compiled": 100e6, "event": 2e6}

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(scope="module")
def head() -> AttentionWorkload:
    """One head of Llama-3-8B's shape, about 8 % of its pairs kept."""
    return next(prefill_layers(replace(LLAMA_3_8B, layers=1, heads=1, kv_heads=1), seed=0))


@pytest.mark.parametrize("name", shipped_accelerators())
def test_schedule_and_engine_of_a_head(benchmark: BenchmarkFixture, name: str, head: AttentionWorkload) -> None:
    machine = load_accelerator(name)
    log = benchmark.pedantic(lambda: run_compiled(machine.schedule(head)), rounds=9, warmup_rounds=1)
    _note_rates(benchmark, log.cycles, len(log.done))
    assert benchmark.stats.stats.min < HEAD_GOAL_S


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_on_dynax_l(benchmark: BenchmarkFixture, engine: str, head: AttentionWorkload) -> None:
    schedule = load_accelerator("dynax_l").schedule(head)
    log = benchmark.pedantic(ENGINES[engine], args=(schedule,), rounds=9, warmup_rounds=1)
    _note_rates(benchmark, log.cycles, len(log.done))
    assert log.cycles / benchmark.stats.stats.min > CYCLES_PER_SECOND_GOAL[engine]


def _note_rates(benchmark: BenchmarkFixture, cycles: int, visits: int) -> None:
    """What was simulated, and how much of it in a CPU second of the median round."""
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["simulated_cycles"] = cycles
    benchmark.extra_info["visits"] = visits
    benchmark.extra_info["cycles_per_cpu_s"] = round(cycles / seconds)
    benchmark.extra_info["visits_per_cpu_s"] = round(visits / seconds)
