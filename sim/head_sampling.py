"""A total from a sample of heads, and how far it may be off. Standard library only, as result records are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, variance

# Student's t, two-sided 95 %, by degrees of freedom; Abramowitz and Stegun, Handbook of Mathematical Functions, table 26.10
_STUDENT_T_95 = {
    **{1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228},
    **{11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110, 18: 2.101, 19: 2.093, 20: 2.086},
    **{25: 2.060, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980},
}


@dataclass(frozen=True, slots=True)
class Stratum:
    """Members that were drawn from together, without replacement: the KV groups of one layer of one window."""

    members: int  # drawn or not
    drawn: tuple[float, ...]  # their values, e.g. in cycles


@dataclass(frozen=True, slots=True)
class Estimate:
    """A total, and the half of its 95 % confidence interval; 0 where everything was counted."""

    total: float
    half_width: float

    @property
    def low(self) -> float:
        return self.total - self.half_width

    @property
    def high(self) -> float:
        return self.total + self.half_width


def estimate_total(strata: Iterable[Stratum]) -> Estimate:
    """The sum over all members of all strata, with Student's interval and the correction for finite populations.

    Raises:
        ValueError: one member was drawn of several; how they differ cannot be told.
    Source: Cochran, Sampling Techniques (3rd edition, 1977), chapter 5: the stratified estimate, its variance, and effective degrees of
        freedom (Satterthwaite).
    """
    total, variances = 0.0, []
    for stratum in strata:
        members, drawn = stratum.members, len(stratum.drawn)
        total += members * mean(stratum.drawn)
        if drawn == members:
            continue
        if drawn < 2:
            raise ValueError(f"one of {members} drawn; draw at least 2, or all")
        variances.append((members * (members - drawn) / drawn * variance(stratum.drawn), drawn - 1))
    whole = sum(part for part, _ in variances)
    if not whole:
        return Estimate(total, 0.0)
    freedom = whole**2 / sum(part**2 / own for part, own in variances)
    return Estimate(total, student_t_95(freedom) * math.sqrt(whole))


def student_t_95(freedom: float) -> float:
    """Student's t for a two-sided 95 % interval; between tabulated degrees of freedom (1 or more) the larger t."""
    return _STUDENT_T_95[max(known for known in _STUDENT_T_95 if known <= freedom + 1e-9)]
