"""What a host model says about one run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostPrediction:
    """Time of one call, and the time that each of its parts would take alone.

    Parts overlap, so that they may add up to more than the whole.
    """

    ns: float
    parts_ns: dict[str, float]  # e.g. call, fork, memory, products

    @property
    def ms(self) -> float:
        return self.ns / 1e6

    @property
    def bound_by(self) -> str:
        """The part that alone would take longest."""
        return max(self.parts_ns, key=lambda part: self.parts_ns[part])


def between(points: dict[float, float], at: float) -> float:
    """On the line through two measured points {place: value}."""
    (first, low), (second, high) = points.items()
    return low + (high - low) * (at - first) / (second - first)


def by_turns_ns(alone_ns: float, crowded_ns: float, elsewhere_ns: float) -> float:
    """Time that a thread spends with memory, while all threads do now that and now something of their own.

    Args:
        alone_ns, crowded_ns: the same if no other thread asked, and if all others did all the time.
        elsewhere_ns: what each spends without memory.
    Source: t = alone + (crowded - alone) * t / (t + elsewhere): another thread asks in that share of the time.
    """
    rest = crowded_ns - elsewhere_ns
    return (rest + math.sqrt(rest * rest + 4 * alone_ns * elsewhere_ns)) / 2


def overlapped_ns(first_ns: float, second_ns: float, sharpness: float) -> float:
    """Two things that one core does at once: (a^p + b^p)^(1/p), between the longer (p to infinity) and the sum (p = 1).

    Source: the roofline with a soft knee of the SparAMX note, section 4.2; p is measured, not fitted to kernels.
    """
    longer, shorter = max(first_ns, second_ns), min(first_ns, second_ns)
    return 0.0 if longer <= 0 else longer * float((1 + (shorter / longer) ** sharpness) ** (1 / sharpness))
