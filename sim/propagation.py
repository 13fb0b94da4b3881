"""Error bars: sums of terms whose factors are uncertain, by Monte Carlo.

Every factor is drawn between its limits, most often near its nominal value, and factors of one name are one draw, in all terms and all
machines, so that an error in a multiplier's row does not decide which machine is better. The stream depends on the name alone: equal
records have equal bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from xmsim.configs.costs import Bar, Factor, Quantity, Term

SAMPLES = 4000
SEED = 0


def quantity(terms: Iterable[Term]) -> Quantity:
    """The sum of the terms with its bar, in all and by unit; nominal values add up exactly."""
    kept = tuple(term for term in terms if term.count)
    units = list(dict.fromkeys(term.unit for term in kept))
    return Quantity(_total(kept), {unit: _total([term for term in kept if term.unit == unit]) for unit in units}, kept)


def probability_less(one: Sequence[Term], other: Sequence[Term]) -> float:
    """The probability that the first sum is less than the second, with what they share drawn once."""
    return float(np.mean(samples(one) < samples(other)))


def samples(terms: Iterable[Term]) -> np.ndarray:
    """Draws of the sum of the terms; float64 [SAMPLES]."""
    total = np.zeros(SAMPLES)
    for term in terms:
        drawn = np.full(SAMPLES, float(term.count))
        for factor in term.factors:
            drawn *= _drawn(factor)
        total += drawn
    return total


def _drawn(factor: Factor) -> np.ndarray:
    """Between the limits; the logarithm is triangular on either side of nominal."""
    value, place = factor.value, _places(factor.name)
    limit = np.where(place < 0, value.low, value.high)
    return value.nominal * (limit / value.nominal) ** np.abs(place)


@cache
def _places(name: str) -> np.ndarray:
    """Places from −1 (low) to 1 (high), most of them near 0."""
    stream = np.random.default_rng([SEED, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])
    return stream.triangular(-1, 0, 1, SAMPLES)


def _total(terms: Sequence[Term]) -> Bar:
    return bar_of(samples(terms), sum(term.nominal for term in terms))


def bar_of(drawn: np.ndarray, nominal: float) -> Bar:
    """The 5th and 95th percentile of the draws around the nominal value."""
    low, high = np.percentile(drawn, (5, 95))
    return Bar(float(low), nominal, float(high))
