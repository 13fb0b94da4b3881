"""Bisection for the most pruning within a target: against trying every step, and where costs do not rise."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from xmsim.workloads.quality.most_pruning import Boundary, fall, is_near, most_pruning


class Tried:
    """Costs that remember which of them were asked for."""

    def __init__(self, costs: Sequence[float]) -> None:
        self._costs, self.steps = costs, list[int]()

    def __call__(self, step: int) -> float:
        assert step not in self.steps, "asked twice"
        self.steps.append(step)
        return self._costs[step]


@pytest.mark.parametrize("steps", range(1, 34))
def test_the_most_pruning_within_the_target_is_found_in_log2_of_the_steps(steps: int) -> None:
    for last_within in range(-1, steps):
        tried = Tried([0.01 * step for step in range(steps)])
        found = most_pruning(steps, 0.01 * last_within + 0.005, tried, to_the_step=True)
        expected = Boundary(last_within if last_within >= 0 else None, last_within + 1 if last_within + 1 < steps else None)
        assert found == expected
        assert len(tried.steps) <= steps.bit_length()
        assert {found.within, found.beyond} - {None} <= set(tried.steps), "an end that was not tried"


def test_a_fine_parameter_is_near_enough_within_a_tenth_below_the_target() -> None:
    tried = Tried([0.0001 * step for step in range(1000)])
    found = most_pruning(1000, 0.05, tried, to_the_step=False)
    assert tried.steps == [499] and found == Boundary(499, None)
    assert [is_near(cost, 0.05) for cost in (0.0449, 0.0451, 0.05, 0.0501)] == [False, True, True, False]


def test_costs_that_do_not_rise_end_all_the_same_at_a_crossing() -> None:
    draw = random.Random(5)
    for _ in range(200):
        costs = [draw.random() for _ in range(draw.randint(1, 60))]
        tried = Tried(costs)
        found = most_pruning(len(costs), 0.5, tried, to_the_step=draw.random() < 0.5)
        assert len(tried.steps) <= len(costs).bit_length()
        assert found.within is None or costs[found.within] <= 0.5
        assert found.beyond is None or costs[found.beyond] > 0.5


def test_a_fall_counts_near_the_target_and_beyond_the_tolerance() -> None:
    assert fall({0: 0.001, 3: 0.012, 9: 0.004}, target=0.01) == (3, 9)
    assert fall({9: 0.02, 3: 0.01, 0: 0.0105}, target=0.01) is None  # rises but for less than a tenth of the target
    assert fall({0: 0.5, 1: 0.3}, target=0.01) is None  # far beyond, where it does not matter
    assert fall({}, target=0.01) is None
