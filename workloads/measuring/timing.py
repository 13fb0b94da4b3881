"""How long one call takes: warm-up, then repeated calls, of one kernel or of several by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from xmsim.workloads.measurement import Timing

WARM_UP_SECONDS = 0.05  # compiling, waking threads, and the clock settling
FEWEST_SAMPLES = 5


def time_in_turns(calls: Mapping[str, Callable[[], object]], *, rounds: int, before: Callable[[], object]) -> dict[str, Timing]:
    """Time each call once a round, one after the other, so that what else the host does meets all of them; one round is not counted.

    Args:
        rounds: that count, at least 2.
        before: runs before every call, untimed.
    """
    samples_ms: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            before()
            begin = time.perf_counter()
            call()
            if turn:
                samples_ms[name].append(1e3 * (time.perf_counter() - begin))
    return {name: Timing.of(samples) for name, samples in samples_ms.items()}


def time_calls(call: Callable[[], object], *, repeats: int = 25, seconds: float = 0.3) -> Timing:
    """Time `call` until there are `repeats` samples or `seconds` have passed, but at least FEWEST_SAMPLES times.

    Every sample is the wall-clock time of one whole call, which must return only when its work is done.
    """
    warm = time.perf_counter() + WARM_UP_SECONDS
    call()
    while time.perf_counter() < warm:
        call()
    samples_ms: list[float] = []
    while len(samples_ms) < FEWEST_SAMPLES or (len(samples_ms) < repeats and sum(samples_ms) < 1e3 * seconds):
        begin = time.perf_counter()
        call()
        samples_ms.append(1e3 * (time.perf_counter() - begin))
    return Timing.of(samples_ms)
