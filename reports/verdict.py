"""The report's first screen: which accelerator, how much faster than what you have, why, and how sure that is. Every word from a number."""

from __future__ import annotations

from dataclasses import dataclass

from xmsim.reports.bench import Bench, benches
from xmsim.reports.collection import Collection
from xmsim.reports.comparison_views import EQUAL_AREA, RAW, View, comparison_views, energy_ratios, node_sentences
from xmsim.reports.cross_check import sure_words
from xmsim.reports.difference.difference import difference_between
from xmsim.reports.equal_accuracy import accuracy_groups, unused_targets
from xmsim.reports.estimates import bar_words
from xmsim.reports.layer_bounds import layer_bounds
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.measured_tables import speedup_words
from xmsim.reports.measured_work import GENERATION, TPOT, MeasuredKernel
from xmsim.reports.quality import quality_of
from xmsim.reports.rank_stability import rankings
from xmsim.reports.summary import extent_of
from xmsim.reports.totals import machine_totals, sampled_time
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import capitalised, counted, factor, listed, milliseconds, percent, significant
from xmsim.sim.result import DECODE

WHICH, HOW_MUCH, WHY, HOW_SURE = "Which accelerator", "How much faster than what you have", "Why", "How sure"
MOST_CAUSES = 3  # named in a sentence


@dataclass(frozen=True, slots=True)
class Answer:
    """A question of the reader's, and the answer in words."""

    question: str
    answer: str

    @property
    def sentence(self) -> str:
        """For a terminal."""
        return f"{self.question}: {self.answer}"


def verdict(collection: Collection) -> tuple[Answer, ...]:
    """The answers that the files allow; what would be needed for the others is said instead."""
    main = collection.main
    if main is None or not main.simulated:
        had = _measured_words(collection, None)
        told = [Answer(HOW_MUCH, f"{had} No accelerator was simulated: give results of xmsim simulate too.".strip())]
        told += [Answer(HOW_SURE, " ".join(_predicted_words(collection)))] if collection.predicted else []
        return tuple(told)
    group = max(view_groups(main), key=lambda group: len(group.members))  # the first of those with the most machines
    best = _fastest(group)
    return (
        Answer(WHICH, _which(group, main)),
        Answer(HOW_MUCH, _how_much(best, collection, main)),
        Answer(WHY, _why(best, group, main)),
        Answer(HOW_SURE, _how_sure(best, group, collection, main)),
    )


def _fastest(group: ViewGroup) -> Simulated:
    return min(group.members, key=lambda one: machine_totals(one.record).time_ms)


def _which(group: ViewGroup, comparison: Comparison) -> str:
    """The best by time, by time for its size, by energy, and at equal accuracy; one name where it is one machine."""
    if len(comparison.simulated) < 2:
        lines = [
            f"Only {group.baseline.label} was simulated: {sampled_time(group.baseline)}. Simulate others on the same trace to compare."
        ]
    elif len(group.members) < 2:
        lines = ["Every machine was given a mask of its own, so their times are not set side by side."]
    else:
        lines = [f"{name}{_loss_words(name, group, comparison)} {listed(reasons)}." for name, reasons in _bests(group).items()]
    for accuracy in accuracy_groups(comparison):
        own = min(accuracy.group.members[1:], key=lambda one: machine_totals(one.record).time_ms)
        ratio = comparison_views(accuracy.group)[0].speedups[own.label]  # raw
        name = own.label if own.method in own.label else f"{own.label} with {own.method}"
        lines.append(f"At {accuracy.name} the fastest is {name}, {bar_words(ratio)}× {accuracy.group.baseline.label}.")
    return " ".join(lines)


def _loss_words(name: str, group: ViewGroup, comparison: Comparison) -> str:
    """` (perplexity +2.5 ± 0.1 %)`, what the machine's method costs; empty: nothing, or it is not known."""
    one = next((one for one in group.members if one.label == name), None)
    quality = quality_of(one, comparison) if one else None
    return f" (perplexity {quality.run.increase_words})" if quality and quality.run.perplexity_increase else ""


def _bests(group: ViewGroup) -> dict[str, list[str]]:
    """{machine: what it is the best by, with its ratio}."""
    views = {view.name: view for view in comparison_views(group)}
    found = (
        ("is the fastest", ": {}× {}", views[RAW]),
        ("is the fastest for its size", ": {}× {} at equal area", views[EQUAL_AREA]),
        ("needs the least energy", ": {}× less than {}", energy_ratios(group)),
    )
    names: dict[str, list[str]] = {}
    for words, by, view in found:
        if best := _best(view):
            name, ratio, base = best
            names.setdefault(name, []).append(words if name == base else words + by.format(ratio, base))
    return names


def _best(view: View) -> tuple[str, str, str] | None:
    """(machine, its speedup in words, over whom); None: not known."""
    if not view.speedups:
        return None
    name, ratio = max(view.speedups.items(), key=lambda item: item[1].nominal)
    return name, bar_words(ratio), view.baseline


def _how_much(best: Simulated, collection: Collection, comparison: Comparison) -> str:
    lines = _against_measured(best, comparison)
    if not lines:
        decode = " --decode N" if best.phase == DECODE else ""
        lines.append(
            f"Not known: no measurement of the same {best.phase} is here. Measure the trace on your host (xmsim measure TRACE{decode}) and "
            f"give the file."
        )
    for bench in benches(comparison):
        if bench.dense and bench.sparse:
            ratio = bench.dense.total.median_ms / bench.with_mask(bench.sparse).median_ms
            mask = "its mask made too" if bench.mask_of(bench.sparse) else "its mask given"
            lines.append(f"On {bench.title.removeprefix('measured on ')}, {bench.sparse.name} is {factor(ratio)} as fast as dense, {mask}.")
    for other in collection.parts:
        if other is not comparison and other.simulated:
            fastest = _fastest(max(view_groups(other), key=lambda group: len(group.members)))
            lines += [f"{capitalised(extent_of(other))}: {sentence}" for sentence in _against_measured(fastest, other)]
    return " ".join((*lines, _measured_words(collection, comparison))).strip()


def _against_measured(best: Simulated, comparison: Comparison) -> list[str]:
    """A machine against the fastest attention that was measured, in a sentence; none where nothing was."""
    time_ms = machine_totals(best.record).time_ms
    fastest = [(found[0], found, bench) for bench in benches(comparison) if (found := _fastest_measured(bench))]
    return [
        f"{best.label} needs {milliseconds(time_ms)} (simulated) where {name} takes {milliseconds(median)} {bench.title} (quartiles "
        f"{significant(low)} to {significant(high)}, n = {n}): {factor(median / time_ms)} ({significant(low / time_ms)} to "
        f"{significant(high / time_ms)}), raw milliseconds of different technologies."
        for _, (median, low, high, name, n), bench in sorted(fastest, key=lambda item: item[0])[:1]
    ]


def _fastest_measured(bench: Bench) -> tuple[float, float, float, str, int] | None:
    """(median, quartiles, name, n) of the fastest attention of a host, a sparse one with its mask; None: nothing of the kind."""
    found = [(bench.dense.total, bench.dense.name)] if bench.dense else []
    if bench.sparse and (bench.mask_of(bench.sparse) or not bench.dense):
        found.append((bench.with_mask(bench.sparse), bench.sparse.name))
    if not found:
        return None
    total, name = min(found, key=lambda pair: pair[0].median_ms)
    return total.median_ms, total.first_quartile_ms, total.third_quartile_ms, name, total.n


def _measured_words(collection: Collection, comparison: Comparison | None) -> str:
    """The sparse linear layers of a whole model, in a sentence; empty without."""
    sparse = [row for row in collection.kernels if row.work.kind == GENERATION and row.work.what.startswith(TPOT) and not row.dense]
    rows = sparse or [row for row in collection.kernels if not row.dense and not row.is_part]
    if not rows or (comparison is not None and not sparse):
        return ""
    best = max(rows, key=_gain)
    bases = (("our dense kernel", best.over_dense), ("torch", best.over_torch))
    ratios = listed(f"{speedup_words(ratio)} as fast as with {name}" for name, ratio in bases if ratio)
    if best.work.kind != GENERATION:
        return f"Measured on {best.work.host}: {best.work.what} with {best.kernel} is {ratios}."
    return (
        f"Sparse weights: {best.work.what.removeprefix(f'{TPOT} of ')} with {best.kernel}, decodes {ratios} (measured, {best.work.host})."
    )


def _gain(row: MeasuredKernel) -> float:
    return (row.over_dense or row.over_torch).median if row.over_dense or row.over_torch else 0.0  # type: ignore[union-attr]


def _why(best: Simulated, group: ViewGroup, comparison: Comparison) -> str:
    totals = machine_totals(best.record)
    lines = []
    if best is not group.baseline and not any(one.record.sampling for one in (best, group.baseline)):
        found = difference_between(best, group.baseline, comparison)
        steps = sorted(found.cycles, key=lambda step: -abs(step.step_cycles))[:MOST_CAUSES]
        shares = listed(f"{step.cause} {_signed(step.step_cycles / found.b.total_cycles)}" for step in steps)
        lines.append(f"Of {group.baseline.label}'s {found.b.total_cycles:,} cycles, {best.label} saves or adds: {shares}.")
    kept = f"It computes {percent(totals.density)} of the pairs" if totals.density < 1 else "It computes every pair"
    left = max(layer_bounds(best), key=lambda bound: bound.left).left
    lines.append(f"{kept} and is bound by {totals.bound_by}; no other order of its jobs would gain more than {factor(left)} in any layer.")
    return " ".join(lines)


def _signed(share: float) -> str:
    """`−54 %`."""
    return f"{'−' if share < 0 else '+'}{percent(abs(share))}"


def _how_sure(best: Simulated, group: ViewGroup, collection: Collection, comparison: Comparison) -> str:
    lines = [_cycles_words(best)]
    found = rankings(group)
    named = set(_bests(group))
    unsafe = [(ranking.criterion, *pair) for ranking in found for pair in ranking.unsafe()]
    unsafe.sort(key=lambda pair: pair[1] not in named)  # those that the answers above rest on come first
    if unsafe:
        first = [pair for pair in unsafe if pair[1] in named] or unsafe[:1]
        pairs = listed(f"{winner} over {loser} by {criterion} ({percent(chance)} of draws)" for criterion, winner, loser, chance in first)
        more = f"; nor are {counted(len(unsafe) - len(first), 'other order')}" if len(unsafe) > len(first) else ""
        lines.append(f"Not safe within the error bars: {pairs}{more}.")
    elif found:
        lines.append("Every ranking by energy, at equal area and at equal power holds in 95 % of draws from the error bars, or more.")
    lines += [f"Area and energy are compared {sentence[0].lower()}{sentence[1:]}" for sentence in node_sentences(group)]
    lines.append(_accuracy_words(group, comparison))
    if unused := unused_targets(comparison):
        lines += unused[:1]
    phases = sorted({part.simulated[0].phase for part in collection.parts if part.simulated})
    if DECODE not in phases:
        lines.append("Decoding was not simulated.")
    return " ".join((*lines, *_predicted_words(collection)))


def _predicted_words(collection: Collection) -> list[str]:
    """How far the models of hosts are from what was measured there."""
    return [sure_words(one.record) for one in collection.predicted]


def _cycles_words(best: Simulated) -> str:
    if best.record.sampling:
        return f"The time is an estimate from a sample of heads, {sampled_time(best)}; a model's count, and no chip was run."
    return "Cycles are an exact count of what the models do; no chip was run, and what a model assumes has no error bar."


def _accuracy_words(group: ViewGroup, comparison: Comparison) -> str:
    """What the methods of the machines that are named cost."""
    named = [one for one in group.members if one.label in _bests(group) and one.method != "dense"]
    known = [(one, quality) for one in named if (quality := quality_of(one, comparison))]
    unknown = [one for one in named if one not in [other for other, _ in known]]
    lines = []
    if known:
        costs = listed(f"{one.label} {quality.run.increase_words}" for one, quality in known)
        lines.append(f"Perplexity over dense: {costs} ({known[0][1].source}).")
    if unknown:
        names = listed(f"{one.label}'s method ({one.method})" for one in unknown)
        verb = "costs" if len(unknown) == 1 else "cost"
        options = " ".join(f"--machine {one.record.machine.name}" for one in unknown)
        lines.append(f"What {names} {verb} in accuracy is not known here: give an evaluation (xmsim evaluate MODEL {options}).")
    return " ".join(lines) or "Dense attention costs no accuracy."
