"""Area and energy from an inventory, action counts and the component tables, with error bars or nominal alone.

    area    = instances × row × scaling × overhead, and the macros of the memories
    energy  = actions × row × scaling × overhead, accesses × macro, and leakage × time; DRAM: `dram_energy`

`propagation` makes the bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import exp, log

from xmsim.configs.costs import Bar, Costs, Factor, Term
from xmsim.configs.errors import ConfigError
from xmsim.configs.technology_tables import LogicRow, SramCell, SramPoint, TechnologyConfig, bar, technology_tables
from xmsim.sim.dram_energy import DramWork
from xmsim.sim.inventory import ComponentCounts, Memory
from xmsim.sim.propagation import bar_of, quantity, samples
from xmsim.sim.technology_scaling import Operation, area_ratio, energy_ratio

UNITY = Bar(1.0, 1.0, 1.0)
PICOJOULES_PER_MILLIWATT = 1e6  # and millisecond
LEAKAGE = "leakage"  # how parts of terms end that belong to time and not to an action
Actions = Mapping[str, Mapping[str, float]]  # {unit: {action: count}}


@dataclass(frozen=True, slots=True)
class NominalCosts:
    """What an estimate says with every factor at its nominal value."""

    area_mm2: float
    on_chip_energy_pj: float
    dram_energy_pj: float


def estimate_costs(
    inventory: ComponentCounts, technology: TechnologyConfig, clock_mhz: float, actions: Actions, dram: DramWork, time_ms: float
) -> Costs:
    """Area of the machine, and energy of these actions and of its DRAM over this time.

    Raises:
        ConfigError: a component or a node that the tables do not have, or a memory slower than the clock.
    """
    terms = _cost_terms(inventory, technology, clock_mhz, actions, time_ms)
    of_dram_terms = dram.terms()
    on_chip, of_dram = quantity(terms.energy), quantity(of_dram_terms)
    both = samples(terms.energy) + samples(of_dram_terms)
    milliwatts = 1 / (time_ms * PICOJOULES_PER_MILLIWATT) if time_ms else 0.0
    power = on_chip.total
    return Costs(
        area=quantity(terms.area),
        on_chip_energy=on_chip,
        dram_energy=of_dram,
        energy=bar_of(both, on_chip.total.nominal + of_dram.total.nominal),
        power=Bar(power.low * milliwatts, power.nominal * milliwatts, power.high * milliwatts),
        node_nm=technology.node_nm,
        notes=tuple(dict.fromkeys(terms.notes)),
    )


def nominal_costs(
    inventory: ComponentCounts, technology: TechnologyConfig, clock_mhz: float, actions: Actions, dram: DramWork, time_ms: float
) -> NominalCosts:
    """The nominal values of `estimate_costs` without its bars, for sweeps; raises as it does."""
    terms = _cost_terms(inventory, technology, clock_mhz, actions, time_ms)
    return NominalCosts(*(sum(term.nominal for term in some) for some in (terms.area, terms.energy, dram.terms())))


@dataclass(frozen=True, slots=True)
class _CostTerms:
    """Terms of the area in mm², and of the energy on chip in pJ."""

    area: list[Term]
    energy: list[Term]
    notes: list[str]


def _cost_terms(inventory: ComponentCounts, technology: TechnologyConfig, clock_mhz: float, actions: Actions, time_ms: float) -> _CostTerms:
    area: list[Term] = []
    energy: list[Term] = []
    notes: list[str] = []
    leaking = time_ms * PICOJOULES_PER_MILLIWATT
    for part in inventory.parts:
        logic = _logic_factors(part.component, part.bits, technology)
        notes += logic.notes
        area.append(Term(part.unit, logic.name, part.instances, logic.area))
        counts = actions.get(part.unit, {})
        for action, uses in part.uses.items():
            energy.append(Term(part.unit, f"{logic.name}, {action}", uses * counts.get(action, 0), logic.energy))
        energy.append(Term(part.unit, f"{logic.name}, {LEAKAGE}", part.instances * leaking, logic.leakage))
    for memory in inventory.memories:
        sram = _sram_factors(memory.banks, memory.bank_bytes, memory.port_bits, technology)
        _refuse_slow_memory(memory, sram, clock_mhz)
        notes += [f"{memory.unit}: {note}" for note in sram.notes]
        macros, port_bytes = memory.macros * memory.groups, memory.port_bits / 8
        guess = () if memory.size_known else (_guessed_size(),)
        area.append(Term(memory.unit, sram.name, macros, (sram.area, *guess)))
        for access in memory.accesses:
            count = actions.get(access.unit, {}).get(access.action, 0)
            for label, own_bytes, factor in (("read", access.read_bytes, sram.read), ("write", access.write_bytes, sram.write)):
                if own_bytes:
                    energy.append(Term(memory.unit, f"{sram.name}, {label}", count * own_bytes / port_bytes, (factor,)))
        energy.append(Term(memory.unit, f"{sram.name}, {LEAKAGE}", macros * leaking, (sram.leakage, *guess)))
    return _CostTerms(area, energy, notes)


@dataclass(frozen=True, slots=True)
class _LogicFactors:
    """Of one instance of a component in a technology: area in mm², an operation in pJ, leakage in mW, each as a product."""

    name: str
    area: tuple[Factor, ...]
    energy: tuple[Factor, ...]
    leakage: tuple[Factor, ...]  # moves with the area, as current does (assumed)
    notes: tuple[str, ...]


@lru_cache(maxsize=4096)
def _logic_factors(component: str, bits: int, technology: TechnologyConfig) -> _LogicFactors:
    tables = technology_tables()
    row, width = _row_of_width(tables.logic_rows(component), bits)
    name = f"{component} {bits}-bit"
    widths: tuple[Factor, ...] = ()
    if width != "row":
        limits = tables.logic.between_rows if width == "between" else tables.logic.beyond_rows
        widths = (Factor(f"{name}, width", bar(limits), "", f"width {width} rows"),)
    source, target = Operation(row.node_nm, row.voltage_v), Operation(technology.node_nm, technology.voltage_v)
    move, both = f"{row.node_nm:g} to {technology.node_nm:g} nm", "Stillmaker-Baas and classical scaling"
    over = tables.overhead
    area_move, energy_move = area_ratio(source.node_nm, target.node_nm), energy_ratio(source, target)
    areas = (
        *widths,
        *((Factor(f"logic area, {move}", area_move, "", both),) if area_move != UNITY else ()),
        Factor("logic area, overhead", bar(over.logic_area.ratio), "", over.logic_area.source),
    )
    energies = (
        *widths,
        *((Factor(f"logic energy, {move}, {target.voltage_v:g} V", energy_move, "", both),) if energy_move != UNITY else ()),
        Factor("logic energy, overhead", bar(over.logic_energy.ratio), "", over.logic_energy.source),
    )
    return _LogicFactors(
        name=name,
        area=(Factor(f"{name}, area", _times(bar(row.area_um2), 1e-6), "mm2", row.area_source or row.source), *areas),
        energy=(Factor(f"{name}, energy", bar(row.energy_pj), "pJ", row.source), *energies),
        leakage=(Factor(f"{name}, leakage", _times(bar(row.leakage_uw), 1e-3), "mW", row.source), *areas),
        notes=(f"{name}: beyond the rows of the table, bar widened",) if width == "beyond" else (),
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


@dataclass(frozen=True, slots=True)
class _SramFactors:
    """Of one macro, from the grid: area in mm², an access in pJ, leakage in mW; the grid has the node, so nothing is scaled."""

    name: str
    area: Factor
    read: Factor
    write: Factor
    leakage: Factor
    access_ns: float
    notes: tuple[str, ...]


@lru_cache(maxsize=4096)
def _sram_factors(banks: int, bank_bytes: int, port_bits: int, technology: TechnologyConfig) -> _SramFactors:
    table, cell = technology_tables().sram, technology.sram_cell
    wanted = (technology.node_nm, bank_bytes, port_bits, banks)
    point = sram_point(technology_tables().sram_grid[cell], _axes(cell), wanted)
    beyond = any(not axis[0] <= value <= axis[-1] for value, axis in zip(wanted, _axes(cell), strict=True))
    widen = table.beyond_grid if beyond else (1.0, 1.0, 1.0)
    process = f"{cell}, {technology.node_nm:g} nm"
    name = f"SRAM {banks} × {bank_bytes} bytes, {port_bits}-bit port, {process}"

    def factor(kind: str, value: float, unit: str) -> Factor:
        low, nominal, high = (value * limit * wider for limit, wider in zip(getattr(table, kind), widen, strict=True))
        # one draw for all macros of a node: CACTI errs alike on them
        return Factor(f"SRAM {kind}, {process}", Bar(low, nominal, high), unit, table.source)

    return _SramFactors(
        name=name,
        area=factor("area", point.area_mm2, "mm2"),
        read=factor("read_and_write", point.read_pj, "pJ"),
        write=factor("read_and_write", point.write_pj, "pJ"),
        leakage=factor("leakage", point.leakage_mw, "mW"),
        access_ns=point.access_ns,
        notes=(f"{name}: beyond the CACTI grid, bar widened",) if beyond else (),
    )


def _guessed_size() -> Factor:
    return Factor("SRAM, unpublished sizes", bar(technology_tables().sram.unpublished_size), "", "no size is published")


def _refuse_slow_memory(memory: Memory, sram: _SramFactors, clock_mhz: float) -> None:
    if sram.access_ns * clock_mhz > 1e3:
        raise ConfigError(
            f"technology.sram_cell: {memory.unit}: {sram.name} takes {sram.access_ns:.2f} ns, a cycle at {clock_mhz:g} MHz "
            f"{1e3 / clock_mhz:.2f} ns; choose a faster cell, a smaller buffer or a lower clock_mhz"
        )


@cache
def _axes(cell: SramCell) -> tuple[tuple[int, ...], ...]:
    return grid_axes(technology_tables().sram_grid[cell])


def grid_axes(grid: Iterable[tuple[int, int, int, int]]) -> tuple[tuple[int, ...], ...]:
    """Values of each axis of a grid, ascending."""
    return tuple(tuple(sorted(set(column))) for column in zip(*grid, strict=True))


def sram_point(grid: Mapping[tuple[int, int, int, int], SramPoint], axes: Sequence[Sequence[int]], wanted: Sequence[float]) -> SramPoint:
    """An array of (node_nm, bank_bytes, port_bits, banks), interpolated in logarithms; beyond the grid its last cells go on."""
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


def _times(value: Bar, ratio: float) -> Bar:
    return Bar(value.low * ratio, value.nominal * ratio, value.high * ratio)
