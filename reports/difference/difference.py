"""From two results to the steps that lead from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from xmsim.configs.costs import Term
from xmsim.configs.errors import XmsimError
from xmsim.reports.collection import load
from xmsim.reports.difference.cycle_causes import DRAIN, USEFUL, cycle_causes, whole_numbers
from xmsim.reports.difference.record import CycleStep, Difference, EnergyStep, Side
from xmsim.reports.estimates import energy_of, energy_terms, missing_energy, uncertain
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.phases import PHASES, unit_phase
from xmsim.reports.words import factor, listed, milliseconds, signed, significant

LARGEST = 3  # causes named in a sentence


def difference(a: Path, b: Path) -> Difference:
    """Why A is faster or slower than B, on the layers, windows and tokens that both files have.

    Raises:
        RecordError: a file cannot be used, or the two are not of the same work.
        XmsimError: not two results, or heads were sampled.
    """
    comparison = load([a, b])
    if len(comparison.simulated) != 2:
        raise XmsimError(f"diff: {a} and {b}: need two different result files; name those that simulate wrote")
    return difference_between(*comparison.simulated, comparison)


def difference_between(one: Simulated, other: Simulated, comparison: Comparison) -> Difference:
    """Why the first is faster or slower than the second of a comparison.

    Raises:
        XmsimError: heads were sampled.
    """
    energies, why = _energies(one, other)
    own, others = (sum(energy.values()) for energy in energies) if energies else (None, None)
    by_unit = _energy_steps(one, other, energies) if energies else ()
    notes = list(comparison.left_out)
    if one.record.machine.clock_mhz != other.record.machine.clock_mhz:
        notes.append("The clocks differ, so that cycles of the two are of different length; milliseconds are above.")
    if energies and (nodes := [source.record.costs.node_nm for source in (one, other) if source.record.costs])[0] != nodes[-1]:
        notes.append(
            f"{one.label} is made at {nodes[0]:g} nm and {other.label} at {nodes[-1]:g} nm: a part of each step in energy is the node's; "
            "xmsim compare sets them side by side at one."
        )
    if why:
        notes.append(f"No energy: {why}.")
    return Difference(
        a=_side(one, own),
        b=_side(other, others),
        trace={key: str(value) for key, value in comparison.trace.items()},
        cycles=_cycle_steps(one, other),
        energy=by_unit,
        phases=_phase_steps(one, other, by_unit),
        notes=tuple(notes),
    )


def _side(one: Simulated, energy_pj: int | None) -> Side:
    cycles, machine = one.record.cycles, one.record.machine
    return Side(one.path.name, one.label, one.method, machine.clock_mhz, cycles, one.record.milliseconds(cycles), energy_pj)


def _cycle_steps(one: Simulated, other: Simulated) -> tuple[CycleStep, ...]:
    """Work first, at B's width; then the width, at A's work; then what the array did besides, cause by cause."""
    own, others = cycle_causes(one), cycle_causes(other)
    own_macs, other_macs = (sum(run.result.useful_macs for run in source.record.runs) for source in (one, other))
    useful = own[USEFUL] - others[USEFUL]
    work = round(Fraction(own_macs - other_macs, other.record.machine.peak_macs_per_cycle))
    steps = [
        CycleStep(f"{_fewer(work <= 0)} MACs asked for by the mask", None, None, work),
        CycleStep(f"{_fewer(useful - work > 0)} multipliers", None, None, useful - work),
    ]
    for cause in sorted(dict.fromkeys((*own, *others)), key=lambda name: name == DRAIN):  # what comes last, last
        a_cycles, b_cycles = own.get(cause, 0), others.get(cause, 0)
        if cause != USEFUL and (a_cycles or b_cycles):
            steps.append(CycleStep(cause, a_cycles, b_cycles, a_cycles - b_cycles))
    return tuple(steps)


def _fewer(is_fewer: bool) -> str:
    return "fewer" if is_fewer else "more"


def _energies(one: Simulated, other: Simulated) -> tuple[tuple[dict[str, int], dict[str, int]] | None, str]:
    """{unit: whole pJ} of both, adding up to their nominal totals; or why there is none."""
    for source in (one, other):
        if energy_of(source) is None:
            return None, f"{source.path.name}: {missing_energy(source)}"
    return (_by_unit(one), _by_unit(other)), ""


def _by_unit(one: Simulated) -> dict[str, int]:
    exact: dict[str, Fraction] = {}
    for term in _terms(one):
        exact[term.unit] = exact.get(term.unit, Fraction(0)) + Fraction(term.nominal)
    return whole_numbers(exact, round(sum(exact.values())))


def _terms(one: Simulated) -> tuple[Term, ...]:
    costs = energy_of(one)
    assert costs is not None
    return energy_terms(costs)


def _energy_steps(one: Simulated, other: Simulated, energies: tuple[dict[str, int], dict[str, int]]) -> tuple[EnergyStep, ...]:
    """By unit, the units of a phase together."""
    own, others = energies
    units = sorted(dict.fromkeys((*own, *others)), key=lambda unit: PHASES.index(unit_phase(unit)))
    steps = []
    for unit in units:
        low, high = _limits(one, other, {unit})
        a_pj, b_pj = own.get(unit, 0), others.get(unit, 0)
        steps.append(EnergyStep(unit_phase(unit), unit, a_pj, b_pj, a_pj - b_pj, low, high))
    return tuple(steps)


def _phase_steps(one: Simulated, other: Simulated, units: tuple[EnergyStep, ...]) -> tuple[EnergyStep, ...]:
    """The same by phase: two machines may call the array that does the same work by different names."""
    steps = []
    for phase in dict.fromkeys(step.phase for step in units):
        parts = [step for step in units if step.phase == phase]
        low, high = _limits(one, other, {step.unit for step in parts})
        a_pj, b_pj = sum(step.a for step in parts), sum(step.b for step in parts)
        steps.append(EnergyStep(phase, "", a_pj, b_pj, a_pj - b_pj, low, high))
    return tuple(steps)


def _limits(one: Simulated, other: Simulated, units: set[str]) -> tuple[float, float]:
    """5th and 95th percentile of what the first needs more on these units."""
    own, others = (uncertain([term for term in _terms(source) if term.unit in units]) for source in (one, other))
    bar = own.minus(others).bar
    return bar.low, bar.high


def difference_sentences(found: Difference) -> tuple[str, ...]:
    """How much faster A is, why, and where its energy goes."""
    a, b = found.a, found.b
    if a.total_ms <= b.total_ms:
        verdict = f"{a.machine} is {factor(b.total_ms / a.total_ms)} as fast as {b.machine}"
    else:
        verdict = f"{a.machine} takes {factor(a.total_ms / b.total_ms)} the time of {b.machine}"
    lines = [
        f"{verdict}: {milliseconds(a.total_ms)} ({a.total_cycles:,} cycles at {significant(a.clock_mhz)} MHz, {a.method}) against "
        f"{milliseconds(b.total_ms)} ({b.total_cycles:,} cycles at {significant(b.clock_mhz)} MHz, {b.method}), simulated."
    ]
    change = a.total_cycles - b.total_cycles
    largest = _largest([(step.cause, step.step_cycles) for step in found.cycles])
    lines.append(f"{abs(change):,} cycles {'fewer' if change < 0 else 'more'}. The largest steps: {largest}.")
    if a.total_energy_pj is not None and b.total_energy_pj is not None:
        ratio = a.total_energy_pj / b.total_energy_pj
        steps = [(step.phase, round(step.step / 1e6)) for step in found.phases]
        lines.append(f"{factor(ratio)} the energy, nominal, chip and DRAM. The largest steps, in µJ: {_largest(steps)}.")
    return (*lines, *found.notes)


def _largest(steps: Sequence[tuple[str, int]]) -> str:
    ordered = sorted((step for step in steps if step[1]), key=lambda step: -abs(step[1]))[:LARGEST]
    return listed(f"{name} {signed(step)}" for name, step in ordered) if ordered else "none"
