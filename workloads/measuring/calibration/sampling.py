"""Times of short steps: long enough to be timed, short enough that other programs interrupt few of them."""

from __future__ import annotations

import time
from collections.abc import Callable

SAMPLE_NS = 400_000.0
SAMPLES = 21
MOST_PASSES = 1 << 24


def samples_ns(
    run: Callable[..., object], steps: float, *, after: tuple[int, ...] = (), offset_ns: float = 0.0, samples: int = SAMPLES
) -> list[float]:
    """Nanoseconds of one step, some samples.

    Args:
        run: run(passes, *after) does so many passes over its steps.
        steps: of one pass.
        offset_ns: of a call whatever its passes: handing over to threads; taken off.
    """
    passes = 1
    while passes < MOST_PASSES and (spent := _shortest_ns(run, passes, after)) < SAMPLE_NS / 2:
        passes = min(MOST_PASSES, max(2 * passes, int(passes * SAMPLE_NS / max(spent, 1.0) / 2)))
    return [max(0.0, timed_ns(run, passes, *after) - offset_ns) / (passes * steps) for _ in range(samples)]


def timed_ns(call: Callable[..., object], *arguments: object) -> float:
    """Wall clock of one call."""
    begin = time.perf_counter_ns()
    call(*arguments)
    return float(time.perf_counter_ns() - begin)


def _shortest_ns(run: Callable[..., object], passes: int, after: tuple[int, ...]) -> float:
    return min(timed_ns(run, passes, *after) for _ in range(3))
