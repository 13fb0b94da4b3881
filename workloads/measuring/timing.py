"""How long one call takes: warm-up, then repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable

from xmsim.workloads.measurement import Timing

WARM_UP_SECONDS = 0.05  # compiling, waking threads, and the clock settling
FEWEST_SAMPLES = 5


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
