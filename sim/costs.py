"""Area and energy from an inventory, action counts and the component tables, each with an error bar.

    area    = instances × row × scaling × overhead, and the macros of the memories
    energy  = actions × row × scaling × overhead, accesses × macro, and leakage × time; DRAM: bits × its kind

Bars are made by Monte Carlo: every factor is drawn between its limits, most often near its nominal value, and factors of one name are
one draw, in all terms and all machines, so that an error in a multiplier's row does not decide which machine is better. The stream
depends on the name alone: equal records have equal bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import exp, log

import numpy as np

from xmsim.configs.costs import Bar, Costs, Factor, Quantity, Term
from xmsim.configs.errors import ConfigError
from xmsim.configs.technology_tables import LogicRow, SramPoint, TechnologyConfig, TechnologyTables, bar, technology_tables
from xmsim.sim.dram_preset import DramPreset
from xmsim.sim.inventory import ComponentCounts, Memory, Part
from xmsim.sim.technology_scaling import Operation, area_ratio, energy_ratio

SAMPLES = 4000
SEED = 0
UNITY = Bar(1.0, 1.0, 1.0)
Actions = Mapping[str, Mapping[str, float]]  # {unit: {action: count}}


def estimate_costs(
    inventory: ComponentCounts,
    technology: TechnologyConfig,
    clock_mhz: float,
    actions: Actions,
    dram_bytes: float,
    time_ms: float,
    dram_preset: DramPreset | None = None,
) -> Costs:
    """Area of the machine, and energy of these actions and bytes over this time.

    DRAM with banks costs its activations, bits and refreshes; a line (no preset) its bytes at the energy of `technology.dram`.

    Raises:
        ConfigError: a component, a DRAM kind or a node that the tables do not have, or a memory slower than the clock.
    """
    tables = technology_tables()
    notes: list[str] = []
    area, leakage_mw, energy = [], [], []
    for part in inventory.parts:
        row = _LogicValues(tables, part, technology, notes)
        area.append(Term(part.unit, row.name, part.instances, (row.area, *row.area_ratios)))
        leakage_mw.append(Term(part.unit, f"{row.name}, leakage", part.instances, (row.leakage, *row.area_ratios)))  # as current does
        for action, uses in part.uses.items():
            count = uses * actions.get(part.unit, {}).get(action, 0)
            energy.append(Term(part.unit, f"{row.name}, {action}", count, (row.energy, *row.energy_ratios)))
    for memory in inventory.memories:
        values = _SramValues(tables, memory, technology, clock_mhz, notes)
        macros = memory.macros * memory.groups
        area.append(Term(memory.unit, values.name, macros, (values.factor("area", "area_mm2", "mm2"), *values.size)))
        leakage_mw.append(
            Term(memory.unit, f"{values.name}, leakage", macros, (values.factor("leakage", "leakage_mw", "mW"), *values.size))
        )
        port_bytes = memory.port_bits / 8
        for access in memory.accesses:
            count = actions.get(access.unit, {}).get(access.action, 0)
            for label, own_bytes in (("read", access.read_bytes), ("write", access.write_bytes)):
                if own_bytes:
                    factor = values.factor("read_and_write", f"{label}_pj", "pJ")
                    energy.append(Term(memory.unit, f"{values.name}, {label}", count * own_bytes / port_bytes, (factor,)))
    pj_per_mw = time_ms * 1e6  # 1 mW for 1 ms is 1 µJ
    energy += [Term(term.unit, term.part, term.count * pj_per_mw, term.factors) for term in leakage_mw]
    dram = _dram_terms(dram_preset, actions.get("dram", {})) if dram_preset else _line_terms(tables, technology.dram, dram_bytes)
    on_chip, of_dram = quantity(energy), quantity(dram)
    both = samples(energy) + samples(dram)
    milliwatts = 1 / pj_per_mw if time_ms else 0.0
    power = on_chip.total
    return Costs(
        area=quantity(area),
        on_chip_energy=on_chip,
        dram_energy=of_dram,
        energy=_bar(both, on_chip.total.nominal + of_dram.total.nominal),
        power=Bar(power.low * milliwatts, power.nominal * milliwatts, power.high * milliwatts),
        node_nm=technology.node_nm,
        notes=tuple(dict.fromkeys(notes)),
    )


def _line_terms(tables: TechnologyTables, name: str, dram_bytes: float) -> list[Term]:
    kind = tables.dram_kind(name)
    return [Term("dram", "bits", 8 * dram_bytes, (Factor(f"{name}, a bit", bar(kind.energy_pj_per_bit), "pJ", kind.source),))]


def _dram_terms(preset: DramPreset, counts: Mapping[str, float]) -> list[Term]:
    prices = {"activate": "activate_pj", "read_bits": "read_pj_per_bit", "write_bits": "write_pj_per_bit", "refresh": "refresh_pj"}
    terms = []
    for action, name in prices.items():
        value = bar(getattr(preset.energy, name))
        source = preset.sources.get(f"energy.{name}", preset.sources.get("energy", ""))
        terms.append(Term("dram", action, counts.get(action, 0), (Factor(f"{preset.standard}, {action}", value, "pJ", source),)))
    return terms


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
    return _bar(samples(terms), sum(term.nominal for term in terms))


def _bar(drawn: np.ndarray, nominal: float) -> Bar:
    low, high = np.percentile(drawn, (5, 95))
    return Bar(float(low), nominal, float(high))


class _LogicValues:
    """Energy, area and leakage of a part's component at its width, and what brings them to the machine's node."""

    def __init__(self, tables: TechnologyTables, part: Part, technology: TechnologyConfig, notes: list[str]) -> None:
        rows = tables.logic_rows(part.component)
        row, width = _row_of_width(rows, part.bits)
        self.name = f"{part.component} {part.bits}-bit"
        self.energy = Factor(f"{self.name}, energy", bar(row.energy_pj), "pJ", row.source)
        self.area = Factor(f"{self.name}, area", _times(bar(row.area_um2), 1e-6), "mm2", row.source)
        self.leakage = Factor(f"{self.name}, leakage", _times(bar(row.leakage_uw), 1e-3), "mW", row.source)
        widths: list[Factor] = []
        if width != "row":
            limits = tables.logic.between_rows if width == "between" else tables.logic.beyond_rows
            widths = [Factor(f"{self.name}, width", bar(limits), "", f"width {width} rows")]
            if width == "beyond":
                notes.append(f"{self.name}: beyond the rows of the table, bar widened")
        source, target = Operation(row.node_nm, row.voltage_v), Operation(technology.node_nm, technology.voltage_v)
        both = "Stillmaker-Baas and classical scaling"
        over = tables.overhead
        move = f"{row.node_nm:g} to {technology.node_nm:g} nm"
        area, energy = area_ratio(source.node_nm, target.node_nm), energy_ratio(source, target)
        self.area_ratios = (
            *widths,
            *([Factor(f"logic area, {move}", area, "", both)] if area != UNITY else []),
            Factor("logic area, overhead", bar(over.logic_area.ratio), "", over.logic_area.source),
        )
        self.energy_ratios = (
            *widths,
            *([Factor(f"logic energy, {move}, {target.voltage_v:g} V", energy, "", both)] if energy != UNITY else []),
            Factor("logic energy, overhead", bar(over.logic_energy.ratio), "", over.logic_energy.source),
        )


def _row_of_width(rows: Sequence[LogicRow], bits: int) -> tuple[LogicRow, str]:
    """The row of this width, or one made of the nearest two ("between" them or "beyond" all); a lone row goes in proportion."""
    for row in rows:
        if row.bits == bits:
            return row, "row"
    at = min(max(1, sum(row.bits < bits for row in rows)), len(rows) - 1)
    low, high = (rows[at - 1], rows[at]) if len(rows) > 1 else (rows[0], rows[0])

    def limits(name: str) -> tuple[float, ...]:
        pairs = zip(getattr(low, name), getattr(high, name), strict=True)
        return tuple(sorted(a * (bits / low.bits) ** _slope(low.bits, high.bits, a, b) for a, b in pairs))

    values = {name: limits(name) for name in ("energy_pj", "area_um2", "leakage_uw")}
    return low.model_copy(update={"bits": bits} | values), "between" if rows[0].bits < bits < rows[-1].bits else "beyond"


def _slope(low_bits: int, high_bits: int, low: float, high: float) -> float:
    return log(high / low) / log(high_bits / low_bits) if high_bits > low_bits else 1.0


class _SramValues:
    """Numbers of one macro: the grid's, interpolated; the grid has the node, so nothing is scaled."""

    def __init__(self, tables: TechnologyTables, memory: Memory, technology: TechnologyConfig, clock_mhz: float, notes: list[str]) -> None:
        grid = tables.sram_grid[technology.sram_cell]
        wanted = (technology.node_nm, memory.bank_bytes, memory.port_bits, memory.banks)
        self._process = f"{technology.sram_cell}, {technology.node_nm:g} nm"
        self.name = f"SRAM {memory.banks} × {memory.bank_bytes} bytes, {memory.port_bits}-bit port, {self._process}"
        self._point = sram_point(grid, wanted)
        self._table = tables.sram
        self._beyond = any(not least <= value <= most for value, least, most in zip(wanted, *_corners(grid), strict=True))
        if self._beyond:
            notes.append(f"{memory.unit}: {self.name}: beyond the CACTI grid, bar widened")
        guessed = Factor("SRAM, unpublished sizes", bar(tables.sram.unpublished_size), "", "no size is published")
        self.size = () if memory.size_known else (guessed,)
        if self._point.access_ns * clock_mhz > 1e3:
            raise ConfigError(
                f"technology.sram_cell: {memory.unit}: {self.name} takes {self._point.access_ns:.2f} ns, a cycle at {clock_mhz:g} MHz "
                f"{1e3 / clock_mhz:.2f} ns; choose a faster cell, a smaller buffer or a lower clock_mhz"
            )

    def factor(self, kind: str, name: str, unit: str) -> Factor:
        """A number of the grid with the bar of its kind."""
        value, limits = getattr(self._point, name), getattr(self._table, kind)
        widen = self._table.beyond_grid if self._beyond else (1.0, 1.0, 1.0)
        low, nominal, high = (value * limit * wider for limit, wider in zip(limits, widen, strict=True))
        # one draw for all macros of a node: CACTI errs alike on them
        return Factor(f"SRAM {kind}, {self._process}", Bar(low, nominal, high), unit, self._table.source)


def sram_point(grid: Mapping[tuple[int, int, int, int], SramPoint], wanted: Sequence[float]) -> SramPoint:
    """An array of (node_nm, bank_bytes, port_bits, banks), interpolated in logarithms; beyond the grid its last cells go on."""
    axes = [sorted({key[axis] for key in grid}) for axis in range(4)]
    corners: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for axis, value in zip(axes, wanted, strict=True):
        at = min(max(1, sum(tick < value for tick in axis)), len(axis) - 1)
        share = log(value / axis[at - 1]) / log(axis[at] / axis[at - 1])
        corners = [
            ((*key, tick), weight * part)
            for key, weight in corners
            for tick, part in ((axis[at - 1], 1 - share), (axis[at], share))
            if part
        ]
    names = ("read_pj", "write_pj", "leakage_mw", "area_mm2", "access_ns")
    return SramPoint(*(exp(sum(weight * log(getattr(grid[key], name)) for key, weight in corners)) for name in names))  # type: ignore[index, misc]


def _corners(grid: Iterable[tuple[int, int, int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Least and greatest value of each axis."""
    columns = list(zip(*grid, strict=True))
    return tuple(min(column) for column in columns), tuple(max(column) for column in columns)


def _times(value: Bar, ratio: float) -> Bar:
    return Bar(value.low * ratio, value.nominal * ratio, value.high * ratio)
