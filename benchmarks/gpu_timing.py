"""Timing on a GPU: contenders take turns in one process, each as a graph of calls on copies that no cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gpu_rows import one_line
from gpu_shapes import Shapes

from xmsim.workloads.measurement import Timing

COLD_CACHES = 5  # bytes that the copies of operands have together, in sizes of the second-level cache
SHORT_CALL_MS = 0.2
_WARM_UP_SECONDS = 0.05
_HEAD_START_CLOCKS = 200_000  # the GPU waits so long for the host to hand over a graph: its launch is not timed

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work: the same call on one copy of the operands after the other."""

    name: str
    calls: tuple[Call, ...]


class Timed(NamedTuple):
    """Milliseconds of a call, {name: [rounds]}, whose entries of one round stand beside each other, so that ratios can be taken."""

    samples: dict[str, list[float]]
    failures: list[str]  # a sentence for each contender that has none


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    calls: int


def copies_wanted(operand_bytes: int, most: int) -> int:
    """Copies of operands of so many bytes that keep the second-level cache cold, but no more than `most`."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(max(2, -(-COLD_CACHES * cache // max(operand_bytes, 1))), most)


def timed_by_turns(contenders: Sequence[Contender], shapes: Shapes) -> Timed:
    """Time contenders; one that fails before the turns begin does not stop the others."""
    graphs, failures = {}, []
    for contender in contenders:
        try:
            graphs[contender.name] = _captured(contender.calls, shapes.short_calls)
        except Exception as error:  # whatever a kernel of ours or of a library raises: the others are still worth their time
            failures.append(f"{contender.name} is not timed: {one_line(error)}")
    started = time.perf_counter()
    while time.perf_counter() - started < _WARM_UP_SECONDS:
        for each in graphs.values():
            each.graph.replay()
        torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(shapes.rounds):
        for name, each in graphs.items():
            samples[name].append(_replay_ms(each.graph) / each.calls)
    return Timed(samples, failures)


def _captured(calls: Sequence[Call], short_calls: int) -> _Graph:
    """All calls, again and again where they are short."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    graph = _capture(calls, 1)
    for _ in range(2):
        call_ms = _replay_ms(graph) / len(calls)
    times = -(-short_calls // len(calls)) if call_ms < SHORT_CALL_MS else 1
    return _Graph(graph if times == 1 else _capture(calls, times), times * len(calls))


def _capture(calls: Sequence[Call], times: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            for call in calls:
                call()
    return graph


def _replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START_CLOCKS)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def fastest(samples: dict[str, list[float]]) -> str:
    """The contender with the lowest median.

    Raises:
        RuntimeError: there is none.
    """
    if not samples:
        raise RuntimeError("no baseline could be timed, so that nothing can be compared")
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
