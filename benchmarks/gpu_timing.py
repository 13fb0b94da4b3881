"""Timing on a GPU: contenders take turns in one process, each as a graph of calls on copies that no cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xmsim.workloads.measurement import Timing

LEAST_ROUNDS = 50
COLD_CACHES = 5  # bytes that the copies of operands have together, in sizes of the second-level cache
_WARM_UP_SECONDS = 0.05

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work: the same call on one copy of the operands after the other."""

    name: str
    calls: tuple[Call, ...]


def copies_wanted(operand_bytes: int) -> int:
    """Copies of operands of so many bytes that keep the second-level cache cold."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, -(-COLD_CACHES * cache // max(operand_bytes, 1)))


def timed_by_turns(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a call, {name: [rounds]}; entries of one round stand beside each other, so that ratios can be taken."""
    graphs = {contender.name: _captured(contender.calls) for contender in contenders}
    counts = {contender.name: len(contender.calls) for contender in contenders}
    started = time.perf_counter()
    while time.perf_counter() - started < _WARM_UP_SECONDS:
        for graph in graphs.values():
            graph.replay()
        torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(start.elapsed_time(end) / counts[name])
    return samples


def _captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def fastest(samples: dict[str, list[float]]) -> str:
    """The contender with the lowest median."""
    return min(samples, key=lambda name: statistics.median(samples[name]))


def speedup(baseline: list[float], ours: list[float]) -> dict[str, float]:
    """Ratios round by round: how many times as fast as the baseline."""
    ratios = [before / after for before, after in zip(baseline, ours, strict=True)]
    first, median, third = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"speedup_median": median, "speedup_first_quartile": first, "speedup_third_quartile": third}


def summary(samples: list[float]) -> dict[str, float]:
    """Timing as the entries of a row."""
    timing = Timing.of(samples)
    return {name: getattr(timing, name) for name in Timing.__dataclass_fields__}
