"""What a host model says about one run."""

from __future__ import annotations

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


def overlapped_ns(first_ns: float, second_ns: float, sharpness: float) -> float:
    """Two things that one core does at once: (a^p + b^p)^(1/p), between the longer (p to infinity) and the sum (p = 1).

    Source: the roofline with a soft knee of the SparAMX note, section 4.2; p is measured, not fitted to kernels.
    """
    longer, shorter = max(first_ns, second_ns), min(first_ns, second_ns)
    return 0.0 if longer <= 0 else longer * float((1 + (shorter / longer) ** sharpness) ** (1 / sharpness))
