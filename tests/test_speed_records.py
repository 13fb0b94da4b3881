"""The committed timings keep their goals, and no shipped machine is left out; nothing is timed here (`make bench` does)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xmsim.accel_models import shipped_accelerators
from xmsim.configs.record import read_record

MEASURED = Path(__file__).resolve().parents[1] / "reports" / "measured"
HEAD_GOAL_MS = 20
CYCLES_PER_SECOND_GOAL = {"compiled": 100e6, "event": 2e6}
PREFILL_GOAL_CPU_S, PREFILL_GOAL_MB = 25, 1000


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in read_record(MEASURED / "engines_cpu.json", "benchmark", 1)["runs"]}


@pytest.mark.parametrize("machine", shipped_accelerators())
def test_schedule_and_compiled_engine_of_a_4096_head_take_at_most_20_ms(runs: dict[str, dict[str, Any]], machine: str) -> None:
    run = runs.get(f"test_schedule_and_engine_of_a_head[{machine}]")
    assert run, f"{machine} is not in engines_cpu.json: run make bench, and keep .benchmarks/timings.json's runs there"
    assert run["n"] >= 5 and 0 < run["median_ms"] <= HEAD_GOAL_MS


@pytest.mark.parametrize("engine", CYCLES_PER_SECOND_GOAL)
def test_an_engine_simulates_its_goal_of_cycles_in_a_second(runs: dict[str, dict[str, Any]], engine: str) -> None:
    run = runs[f"test_engine_on_dynax_l[{engine}]"]
    seconds = run["median_ms"] / 1e3
    assert run["simulated_cycles"] / seconds >= CYCLES_PER_SECOND_GOAL[engine]
    assert run["cycles_per_cpu_s"] == pytest.approx(run["simulated_cycles"] / seconds)
    assert run["visits_per_cpu_s"] == pytest.approx(run["visits"] / seconds)


def test_a_prefill_of_1024_heads_takes_at_most_25_cpu_seconds_and_1_gb() -> None:
    record = read_record(MEASURED / "llama_prefill_cpu.json", "benchmark", 1)
    assert (record["machine"], record["heads"], record["shape"]["tokens"]) == ("dynax_l", 1024, 4096)
    assert 0 < record["simulation_cpu_s"] <= PREFILL_GOAL_CPU_S
    assert 0 < record["peak_memory_mb"] <= PREFILL_GOAL_MB
