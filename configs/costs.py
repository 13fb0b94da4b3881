"""What an estimate of area and energy says: low, nominal and high, by unit, and the rows of the tables that it comes from.

Standard library only, so that reports need nothing else to read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xmsim.configs.codec import json_key


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its error bar: of a table's row its limits, of a total the 5th and 95th percentile."""

    low: float
    nominal: float
    high: float


@dataclass(frozen=True, slots=True)
class Factor:
    """One number of a derivation, with where it comes from. Factors of one name are one number: they vary together."""

    name: str
    value: Bar
    unit: str  # pJ, mm2 or mW; empty: a ratio
    source: str


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a unit: how many, times the product of the factors."""

    unit: str  # of the machine
    part: str
    count: float
    factors: tuple[Factor, ...]

    @property
    def nominal(self) -> float:
        """The term with every factor at its nominal value."""
        product = self.count
        for factor in self.factors:
            product *= factor.value.nominal
        return product


@dataclass(frozen=True, slots=True)
class Quantity:
    """A sum of terms; its unit is that of the record's key."""

    total: Bar
    by_unit: dict[str, Bar]
    terms: tuple[Term, ...] = field(repr=False)  # they fill screens

    def largest(self, count: int = 5) -> tuple[Term, ...]:
        """The terms that contribute most to the nominal total."""
        return tuple(sorted(self.terms, key=lambda term: -term.nominal)[:count])


@dataclass(frozen=True, slots=True)
class Costs:
    """Area, power and energy of a machine on all that a record holds; DRAM is no part of area and power."""

    area: Quantity = field(metadata=json_key("area_mm2"))
    on_chip_energy: Quantity = field(metadata=json_key("on_chip_energy_pj"))  # of actions, and leakage over the time
    dram_energy: Quantity = field(metadata=json_key("dram_energy_pj"))
    energy: Bar = field(metadata=json_key("energy_pj"))
    power: Bar = field(metadata=json_key("power_mw"))  # on-chip energy / time
    node_nm: float
    notes: tuple[str, ...]  # where a table was left
