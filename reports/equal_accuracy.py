"""Machines at equal accuracy: each with a method whose perplexity is the same share above the dense model's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.quality import Quality, qualities_of
from xmsim.reports.views import ViewGroup, baseline
from xmsim.reports.words import percent
from xmsim.workloads.evaluation import EvaluatedRun, method_label

TOLERANCE = 0.1  # of the target: within it, a perplexity is at the target


@dataclass(frozen=True, slots=True)
class AccuracyGroup:
    """What may stand side by side at one target; the dense baseline is the first member."""

    target: float  # perplexity / dense perplexity − 1
    group: ViewGroup
    qualities: tuple[Quality | None, ...]  # of each member; None: dense and not evaluated
    notes: tuple[str, ...]  # sentences: solved methods that are not here, and what flatters those that are

    @property
    def name(self) -> str:
        """`equal accuracy (+1 %)`."""
        return f"equal accuracy ({target_words(self.target)})"


def target_words(target: float) -> str:
    return f"{100 * target:+g} %"


def accuracy_groups(comparison: Comparison) -> tuple[AccuracyGroup, ...]:
    """A group for each target of the evaluations, from the smallest; none without a dense machine or a machine that meets one."""
    runs = [run for evaluated in comparison.evaluated for run in evaluated.record.runs]
    targets = sorted({run.solved_for.target_relative for run in runs if run.solved_for})
    base = baseline(comparison)
    if base is None or base.method != "dense":
        return ()
    found = []
    for target in targets:
        at_target = [(one, quality) for one in comparison.simulated if one is not base and (quality := _at(one, target, comparison))]
        members = [(one, quality) for one, quality in at_target if served_share(one) == 1]
        if members:
            label = f"equal accuracy ({target_words(target)}): each machine with a method whose perplexity is so much above dense"
            named = _told_apart([base, *(one for one, _ in members)])
            group = ViewGroup(label, tuple(named), named[0])
            dense = next(iter(qualities_of(base, comparison)), None)
            partial = _served_in_part([one for one, _ in at_target])
            notes = (*_missing(target, runs, comparison), *partial, *_exact_scores([one for one, _ in members]))
            found.append(AccuracyGroup(target, group, (dense, *(quality for _, quality in members)), notes))
    return tuple(found)


def unused_targets(comparison: Comparison) -> tuple[str, ...]:
    """A sentence for each target of which no result is here."""
    runs = [run for evaluated in comparison.evaluated for run in evaluated.record.runs]
    used = {group.target for group in accuracy_groups(comparison)}
    left = sorted({run.solved_for.target_relative for run in runs if run.solved_for} - used)
    return tuple(
        f"Methods solved for {target_words(target)} perplexity were evaluated, but no result of them beside a dense machine is here: "
        "simulate with --method and the file that evaluate --solve wrote."
        for target in left
    )


def meets(run: EvaluatedRun, target: float) -> bool:
    """Whether a method was solved for the target and keeps to it, or is at it as it is."""
    if run.solved_for and run.solved_for.target_relative == target:
        return run.solved_for.reached and run.perplexity_increase <= target * (1 + TOLERANCE)
    return run.solved_for is None and abs(run.perplexity_increase - target) <= TOLERANCE * target


def _at(one: Simulated, target: float, comparison: Comparison) -> Quality | None:
    """The evaluation that puts the machine's method at the target."""
    return next((quality for quality in qualities_of(one, comparison) if meets(quality.run, target)), None)


def served_share(one: Simulated) -> float:
    """The least share of a layer's mask that the machine computed: less than 1 where it serves its own pattern alone."""
    return min(run.result.metrics.get("coverage", 1.0) for run in one.record.runs)


def _served_in_part(members: list[Simulated]) -> list[str]:
    """Machines whose accuracy is not that of the mask they were given."""
    return [
        f"{one.label} is left out: of the pairs that {one.method} keeps it computes {percent(share)} at least, by its own pattern, "
        "so that the accuracy of the method is not its own; give its YAML the pattern that was solved."
        for one in members
        if (share := served_share(one)) < 1
    ]


def _exact_scores(members: list[Simulated]) -> list[str]:
    """Masks that no machine could make so cheaply."""
    exact = dict.fromkeys(one.method for one in members if not one.record.method.get("prediction"))
    return [
        f"{name}: its mask is made from exact scores, not from predicted ones as a machine has them, which flatters it." for name in exact
    ]


def _told_apart(members: list[Simulated]) -> list[Simulated]:
    """With the method in the name where a machine stands there with several."""
    seen = Counter(one.label for one in members)
    return [replace(one, label=f"{one.label} · {one.method}") if seen[one.label] > 1 else one for one in members]


def _missing(target: float, runs: list[EvaluatedRun], comparison: Comparison) -> tuple[str, ...]:
    lines = []
    for run in runs:
        if run.solved_for and run.solved_for.target_relative == target:
            name = method_label(run.method)
            if not meets(run, target):
                lines.append(f"{name} does not meet {target_words(target)} and is left out: {run.solved_for.note or 'its loss is larger'}.")
            elif not any(quality.run is run for one in comparison.simulated for quality in qualities_of(one, comparison)):
                lines.append(f"{name} meets {target_words(target)}, and no machine ran it.")
            elif run.solved_for.note:
                lines.append(f"{name}: {run.solved_for.note.rstrip('.')}.")
    return tuple(dict.fromkeys(lines))
