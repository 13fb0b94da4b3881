"""Area, energy and power of a result, with error bars and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmsim.configs.costs import Bar, Costs, Quantity, Term
from xmsim.reports.load import Simulated
from xmsim.reports.words import significant
from xmsim.sim.propagation import bar_of, samples

PERCENTILES = "5 to 95 %"
NOT_ESTIMATED = "the machine's YAML has no technology"
OF_OTHER_RUNS = "the estimate is of all runs of its file, and some are left out"


@dataclass(frozen=True, slots=True, eq=False)
class Uncertain:
    """A number and its draws; what two of them share was drawn once, so that their ratio is as certain as it can be."""

    nominal: float
    drawn: np.ndarray | float  # float64 [SAMPLES]; a number that is certain

    @property
    def bar(self) -> Bar:
        if isinstance(self.drawn, float):
            return Bar(self.nominal, self.nominal, self.nominal)
        return bar_of(self.drawn, self.nominal)

    def times(self, factor: float) -> Uncertain:
        return Uncertain(self.nominal * factor, self.drawn * factor)

    def over(self, other: Uncertain) -> Uncertain:
        return Uncertain(self.nominal / other.nominal, self.drawn / other.drawn)

    def minus(self, other: Uncertain) -> Uncertain:
        return Uncertain(self.nominal - other.nominal, self.drawn - other.drawn)


def certain(value: float) -> Uncertain:
    return Uncertain(value, float(value))


def uncertain(terms: Sequence[Term]) -> Uncertain:
    """The sum of the terms."""
    return Uncertain(sum(term.nominal for term in terms), samples(terms))


def area_of(one: Simulated) -> Quantity | None:
    """In mm²; None: not estimated."""
    return one.record.costs.area if one.record.costs else None


def energy_of(one: Simulated) -> Costs | None:
    """Energy and power of the runs that are compared; None: not estimated, or of other runs."""
    return one.record.costs if one.complete else None


def costs_beside(one: Simulated) -> Costs | None:
    """What stands beside other machines: at the node of the one that all are compared with, where it can be estimated there."""
    return one.moved_costs or one.record.costs


def area_beside(one: Simulated) -> Quantity | None:
    """As `area_of`, beside other machines."""
    costs = costs_beside(one)
    return costs.area if costs else None


def energy_beside(one: Simulated) -> Costs | None:
    """As `energy_of`, beside other machines."""
    return costs_beside(one) if one.complete else None


def energy_terms(costs: Costs) -> tuple[Term, ...]:
    """Of chip and DRAM, in pJ."""
    return (*costs.on_chip_energy.terms, *costs.dram_energy.terms)


def missing_energy(one: Simulated) -> str:
    """Why there is no energy."""
    return OF_OTHER_RUNS if one.record.costs and not one.complete else NOT_ESTIMATED


def bar_words(value: Bar, scale: float = 1.0) -> str:
    """`2.04 (1.72 to 2.61)`, or the number alone where the bar is narrower than its digits."""
    low, nominal, high = (significant(scale * limit) for limit in (value.low, value.nominal, value.high))
    return nominal if low == nominal == high else f"{nominal} ({low} to {high})"


def basis(costs: Costs) -> str:
    """In a phrase, what the estimates rest on."""
    return f"component tables at {costs.node_nm:g} nm, bars {PERCENTILES}"
