"""The most pruning that costs no more than a target, by bisection over the steps of a parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

TOLERANCE = 0.1  # of the target: a cost so near below it is taken for it, and a fall of no more is none


@dataclass(frozen=True, slots=True)
class Boundary:
    """The two steps next to each other, of those tried, between which costs cross the target. Steps count from the least pruning, 0."""

    within: int | None  # costs no more than the target; None: not even step 0 does
    beyond: int | None  # costs more; None: not even the last step does, or none that was tried


def most_pruning(steps: int, target: float, cost: Callable[[int], float], *, to_the_step: bool) -> Boundary:
    """Bisect until neighbouring steps lie on either side of the target, or, not `to_the_step`, a cost is it within the tolerance.

    Which steps are tried depends on the costs alone. It ends after log2(steps) of them, rounded up, even where costs do not rise
    with pruning: it then has found a crossing, and there may be others.

    Args:
        steps: how many there are, from the least pruning to the most.
        target: of the cost, more than 0.
        cost: of a step.
    """
    low, high = -1, steps
    while high - low > 1:
        middle = (low + high) // 2
        found = cost(middle)
        if found > target:
            high = middle
        else:
            low = middle
            if not to_the_step and is_near(found, target):
                break
    return Boundary(within=low if low >= 0 else None, beyond=high if high < steps else None)


def is_near(cost: float, target: float) -> bool:
    """Whether a cost is the target within the tolerance, from below."""
    return (1 - TOLERANCE) * target <= cost <= target


def fall(costs: Mapping[int, float], target: float) -> tuple[int, int] | None:
    """Two steps of which the one that prunes more costs less, by more than the tolerance, and less than twice the target; None: none.

    Args: costs: by step, of all that were tried.
    """
    for less, more in pairwise(sorted(costs)):
        if costs[less] - costs[more] > TOLERANCE * target and costs[more] < 2 * target:
            return less, more
    return None
