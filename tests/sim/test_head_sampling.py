"""A total from a sample, and its interval."""

from __future__ import annotations

import math
import random

import pytest

from xmsim.sim.head_sampling import Estimate, Stratum, estimate_total, student_t_95


def drawn_from(population: list[list[float]], size: int, seed: int) -> Estimate:
    stream = random.Random(seed)
    return estimate_total(Stratum(len(members), tuple(stream.sample(members, size))) for members in population)


def population(strata: int, members: int, seed: int) -> list[list[float]]:
    """Cycles of KV groups: layers differ by factors, the groups of a layer by tens of per cent, and some are far above."""
    stream = random.Random(seed)
    return [[stream.choice((800, 2000, 3000)) * math.exp(stream.gauss(0, 0.25)) for _ in range(members)] for _ in range(strata)]


def test_all_members_give_the_exact_total_and_no_interval() -> None:
    estimate = estimate_total([Stratum(3, (5, 1, 6)), Stratum(2, (4, 4))])
    assert (estimate.total, estimate.low, estimate.high) == (20, 20, 20)


def test_one_stratum_counted_by_hand() -> None:
    estimate = estimate_total([Stratum(6, (10, 14, 12))])  # mean 12, variance 4, 6 × 3 / 3 × 4 = 24, two degrees of freedom
    assert estimate.total == 72
    assert estimate.half_width == pytest.approx(4.303 * math.sqrt(24))


def test_variances_of_strata_add_and_equal_strata_add_their_degrees_of_freedom() -> None:
    estimate = estimate_total([Stratum(6, (10, 14, 12)), Stratum(6, (20, 24, 22)), Stratum(2, (7, 8))])
    assert estimate.total == 72 + 132 + 15
    assert estimate.half_width == pytest.approx(2.776 * math.sqrt(48))


def test_degrees_of_freedom_between_two_of_the_table_take_the_wider_interval() -> None:
    assert student_t_95(2.9) == 4.303 and student_t_95(3.0) == 3.182 and student_t_95(1e6) == 1.980


def test_one_member_of_several_tells_nothing_about_the_others() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        estimate_total([Stratum(4, (5,))])


@pytest.mark.parametrize(("strata", "members", "size"), [(12, 8, 2), (6, 32, 4), (32, 8, 4), (1, 32, 16)])
def test_the_interval_covers_the_true_total_at_about_its_nominal_rate(strata: int, members: int, size: int) -> None:
    seeds = 1000
    covered = 0
    for seed in range(seeds):
        layers = population(strata, members, seed % 20)
        estimate = drawn_from(layers, size, seed)
        covered += estimate.low <= sum(map(sum, layers)) <= estimate.high
    assert 0.93 <= covered / seeds <= 0.985


def test_the_estimate_is_unbiased() -> None:
    layers = population(4, 8, seed=1)
    totals = [drawn_from(layers, 3, seed).total for seed in range(2000)]
    assert sum(totals) / len(totals) == pytest.approx(sum(map(sum, layers)), rel=0.005)
