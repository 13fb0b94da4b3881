"""Records of our benchmark scripts: kernels timed on shapes of their own, beside the baselines that took turns with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record
from xmsim.workloads.measurement import Host, Timing

BENCHMARK_VERSION = 1
MOST_NUMBER = 1e300  # beyond it no number of a kernel lies, nor NaN
OVER = "times_as_fast_as_"  # what a key that holds a ratio begins with; the baseline's name follows


@dataclass(frozen=True, slots=True)
class TimesAsFast:
    """Over a baseline, in pairs of runs that took turns."""

    median: float
    first_quartile: float
    third_quartile: float


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One kernel on one shape."""

    name: str
    facts: dict[str, Any]  # shape, threads, dtype, sparsity ... as the script wrote them
    timing: Timing
    over: dict[str, TimesAsFast]  # by baseline


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A file of a benchmark script."""

    path: Path
    software: str
    host: Host
    rows: tuple[BenchmarkRow, ...]


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark file.

    Raises:
        RecordError: not such a file, a later version, or one without rows, or a time is missing or not in order.
    """
    body = read_record(path, "benchmark", BENCHMARK_VERSION)
    runs = body.get("runs")
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise RecordError(f"{path}: this benchmark has no table of kernels; compare reads those of linear layers and of attention")
    host = decode(Host, body.get("host"), f"{path}: host")
    return Benchmark(path, str(body.get("xmsim", "unknown")), host, tuple(_row(run, f"{path}: runs.{i}") for i, run in enumerate(runs)))


def in_order(timing: Timing) -> bool:
    """Whether a timing is one: its median lies between its quartiles, and it has samples."""
    return timing.n > 0 and 0 < timing.first_quartile_ms <= timing.median_ms <= timing.third_quartile_ms


def _row(run: dict[str, Any], place: str) -> BenchmarkRow:
    timing = decode(Timing, run, place)
    over = {key.removeprefix(OVER): decode(TimesAsFast, value, f"{place}.{key}") for key, value in run.items() if key.startswith(OVER)}
    if "baseline" in run:  # the scripts for GPUs name one
        flat = {name: run.get(f"speedup_{name}") for name in ("median", "first_quartile", "third_quartile")}
        over[str(run["baseline"])] = decode(TimesAsFast, flat, f"{place}.speedup")
    if not in_order(timing) or not all(0 < one.first_quartile <= one.median <= one.third_quartile for one in over.values()):
        raise RecordError(f"{place}: a median is not between its quartiles; was the file edited? measure again")
    facts = {key: value for key, value in run.items() if isinstance(value, str | int | float)}
    for key, value in facts.items():
        if not isinstance(value, str) and not abs(value) <= MOST_NUMBER:
            raise RecordError(f"{place}: {key} is not a number; was the file edited? measure again")
    return BenchmarkRow(str(run.get("kernel", run.get("name", "unnamed"))), facts, timing, over)
