"""Ways to put machines of different size side by side, one function a view. No two views share a bar group.

Each view says how long a machine would take with as much of something as the reference has: multipliers, area, power. It assumes that
time falls in proportion, DRAM bandwidth included, which no real machine obeys; that is why every view says what it scales to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xmsim.configs.costs import Bar
from xmsim.reports.estimates import (
    NOT_ESTIMATED,
    Uncertain,
    area_beside,
    area_of,
    certain,
    energy_beside,
    energy_terms,
    missing_energy,
    uncertain,
)
from xmsim.reports.load import Simulated
from xmsim.reports.totals import machine_totals, peak_gmacs
from xmsim.reports.views import ViewGroup
from xmsim.reports.words import listed, significant, spaced

RAW = "raw"
EQUAL_PEAK = "equal peak MACs"
EQUAL_AREA = "equal area"
EQUAL_POWER = "equal power"
PAPERS = "128 multipliers at 1 GHz"
ENERGY = "energy"

PAPERS_MULTIPLIERS = 128
PAPERS_CLOCK_MHZ = 1000.0
ENERGY_STAYS = "Energy is the same in every view: k copies do the same actions, and leak k times as much for a k-th of the time."
MULTIPLIERS = ("integer_mac", "integer_multiplier", "float16_mac")  # components of the tables that multiply


@dataclass(frozen=True, slots=True)
class View:
    """Times of the machines of a group, all scaled to one reference."""

    name: str
    reference: str  # what every machine is scaled to
    baseline: str  # the machine that others are compared with; empty: nothing is known
    times_ms: Mapping[str, Bar]  # by machine; those of which the amount is not known are missing
    speedups: Mapping[str, Bar]  # over the baseline
    missing: Mapping[str, str]  # by machine, why
    pitfalls: tuple[str, ...]


def comparison_views(group: ViewGroup) -> tuple[View, ...]:
    """All views of speed."""
    return raw(group), equal_peak(group), equal_area(group), equal_power(group), papers_normalisation(group)


def raw(group: ViewGroup) -> View:
    """As simulated: cycles / clock."""
    return _view(group, RAW, lambda _: certain(1.0), lambda *_: "milliseconds as simulated", ())


def equal_peak(group: ViewGroup) -> View:
    """With the reference's full-precision multiply-accumulates a second."""
    pitfall = "Multipliers that only predict scores are not counted, and all others count the same, whatever their width."
    return _view(
        group,
        EQUAL_PEAK,
        lambda one: certain(peak_gmacs(one.record.machine)),
        lambda amount, base: f"{significant(amount)} GMAC/s, that of {base}",
        (pitfall,),
    )


def equal_area(group: ViewGroup) -> View:
    """With the reference's estimated area; the bars are those of the ratio, what two machines share drawn once."""
    return _view(
        group,
        EQUAL_AREA,
        lambda one: uncertain(quantity.terms) if (quantity := area_beside(one)) else NOT_ESTIMATED,
        lambda amount, base: f"{significant(amount)} mm² estimated, that of {base}",
        (
            *node_sentences(group),
            "Areas are estimates, without DRAM; published areas are not used. Operands keep their widths, and narrow ones are small.",
        ),
    )


def equal_power(group: ViewGroup) -> View:
    """With the reference's estimated power on chip, DRAM left out."""
    return _view(
        group,
        EQUAL_POWER,
        lambda one: _power_mw(one) if energy_beside(one) else missing_energy(one),
        lambda amount, base: f"{significant(amount)} mW estimated on chip, that of {base}",
        (
            *_same_node(group),
            "As time × power is energy, a machine is as much faster here as it needs less energy on chip. DRAM is left out.",
        ),
    )


def papers_normalisation(group: ViewGroup) -> View:
    """Throughput × 128 / multipliers × 1 GHz / clock, as SALO's authors compare designs."""
    return _view(
        group,
        PAPERS,
        lambda one: certain(peak_gmacs(one.record.machine)),
        lambda amount, base: "128 multipliers at 1 GHz, as in SALO's comparison",
        (
            "The ratios are those of equal peak MACs; only the reference differs.",
            "A 9-bit multiplier counts as much as a 16-bit one, and those that predict or match do not count; the time of prediction does.",
            "A clock is taken as free, where SRAM and energy are not; memory, DRAM bandwidth and prediction are not scaled with the array.",
            "Published figures of this kind differ in what they count: some divide by the dense layer with its projections, "
            "some by attention alone, and some are copied from papers that do not say.",
            *(_uncounted(one) for one in group.members if _uncounted(one)),
        ),
        reference=PAPERS_MULTIPLIERS * PAPERS_CLOCK_MHZ / 1e3,
    )


def node_sentences(group: ViewGroup) -> tuple[str, ...]:
    """At which node area, power and energy stand side by side; empty where every machine is made at the same."""
    costs = {one.label: one.record.costs for one in (group.baseline, *group.members) if one.record.costs}
    moved = {one.label: one.moved_costs for one in group.members if one.moved_costs}
    node_nm = next((own.node_nm for own in (*moved.values(), *costs.values())), 0.0)
    made = {label: f"{label} ({own.node_nm:g} nm)" for label, own in costs.items() if label in moved or own.node_nm != node_nm}
    lines = []
    if moved:
        anew = listed(made[label] for label in moved)
        lines.append(f"At {node_nm:g} nm, for which estimates are made anew of {anew}; clocks, kinds of SRAM cell and DRAM stay.")
    if left := [name for label, name in made.items() if label not in moved]:
        lines.append(f"Not at one node, as no estimate at {node_nm:g} nm can be made here: {listed(left)}.")
    return tuple(lines)


def _same_node(group: ViewGroup) -> tuple[str, ...]:
    return ("Estimated at the node of equal area.",) if node_sentences(group) else ()


def energy_uj(one: Simulated) -> Uncertain | None:
    """Of chip and DRAM; None: not estimated."""
    costs = energy_beside(one)
    return uncertain(energy_terms(costs)).times(1e-6) if costs else None


def energy_ratios(group: ViewGroup) -> View:
    """How many times less energy than the baseline, chip and DRAM; `times_ms` is empty."""
    known = {one.label: energy for one in (group.baseline, *group.members) if (energy := energy_uj(one))}
    missing = {one.label: missing_energy(one) for one in group.members if one.label not in known}
    base = next(iter(known), "")
    ratios = {one.label: known[base].over(known[one.label]).bar for one in group.members if one.label in known}
    reference = f"{significant(known[base].nominal)} µJ of {base}, chip and DRAM" if base else "energy is not estimated"
    return View(ENERGY, reference, base, {}, ratios, missing, (*_same_node(group), ENERGY_STAYS))


def dense_gops(one: Simulated, time_ms: float) -> float:
    """10⁹ operations a second of the dense attention, all query-key pairs, two operations a multiply-accumulate, in `time_ms`.

    This is what papers on sparse attention call effective throughput; projections count where they were simulated.
    """
    macs = 0
    for run in one.record.runs:
        macs += 2 * run.heads * run.query_tokens * run.key_tokens * run.head_dim
        macs += round(run.expansion * sum(phase.useful_macs for _, phase in run.result.projection_phases()))
    return 2 * macs / (time_ms * 1e6)


def _view(
    group: ViewGroup,
    name: str,
    amount_of: Callable[[Simulated], Uncertain | str],
    reference_words: Callable[[float, str], str],
    pitfalls: tuple[str, ...],
    *,
    reference: float | None = None,
) -> View:
    """`amount_of` says how much of it a machine has, or why that is not known; without a `reference` it is the baseline's."""
    amounts = {one.label: amount_of(one) for one in (group.baseline, *group.members)}
    known = {label: amount for label, amount in amounts.items() if isinstance(amount, Uncertain)}
    missing = {one.label: amount for one in group.members if isinstance(amount := amounts[one.label], str)}
    if not known:
        return View(name, f"{name}: not estimated for any machine", "", {}, {}, missing, pitfalls)
    base = next(iter(known))
    whole = known[base] if reference is None else certain(reference)
    times = {one.label: machine_totals(one.record).time_ms for one in (group.baseline, *group.members)}
    scaled = {one.label: known[one.label].times(times[one.label]) for one in group.members if one.label in known}
    return View(
        name=name,
        reference=reference_words(whole.nominal, base),
        baseline=base,
        times_ms={label: time.over(whole).bar for label, time in scaled.items()},
        speedups={label: known[base].times(times[base]).over(time).bar for label, time in scaled.items()},
        missing=missing,
        pitfalls=pitfalls,
    )


def _power_mw(one: Simulated) -> Uncertain:
    costs = energy_beside(one)
    assert costs is not None
    return uncertain(costs.on_chip_energy.terms).times(1e-6 / machine_totals(one.record).time_ms)  # 1 µJ in 1 ms is 1 mW


def _uncounted(one: Simulated) -> str:
    """Which multipliers a machine is made of, where they are not just those that count; empty where nothing is estimated."""
    quantity = area_of(one)
    found = [term for term in quantity.terms if term.part.startswith(MULTIPLIERS)] if quantity else []
    counted = one.record.machine.peak_macs_per_cycle
    if sum(term.count for term in found) in (0, counted):
        return ""
    parts = [f"{term.count:,.0f} of {term.part.split()[-1]} in the {spaced(term.unit)}" for term in found]
    return f"{one.label} counts as {counted:,} multipliers and has {listed(parts)}."
