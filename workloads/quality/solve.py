"""Equal accuracy: the free parameter of each method such that perplexity is a given share above the dense model's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xmsim.configs.errors import XmsimError
from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord, SolvedFor, TriedValue
from xmsim.workloads.methods.kinds import FreeParameter
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.models.loading import LoadedModel
from xmsim.workloads.quality.evaluate import Progress, check_scorable, evaluation_record, no_progress, with_dense_first
from xmsim.workloads.quality.most_pruning import Boundary, fall, is_near, most_pruning
from xmsim.workloads.quality.solve_store import SolveStore
from xmsim.workloads.quality.solved_method import method_text, solved_name
from xmsim.workloads.quality.token_losses import window_loss
from xmsim.workloads.quality.window_scores import (
    TextWindows,
    Variant,
    cut_windows,
    evaluated_run,
    method_facts,
    score_windows,
)
from xmsim.workloads.texts.corpora import Corpus

LARGEST_TARGET = 10.0  # +1000 %


@dataclass(frozen=True, slots=True)
class Solvable:
    """A method and what of it is solved for."""

    method: Method
    parameter: FreeParameter


@dataclass(frozen=True, slots=True)
class Solution:
    """All that was solved for."""

    record: EvaluationRecord  # dense first, then every method at every target
    method_files: dict[str, str]  # {file name: YAML} of the targets that were reached


def solve_targets(words: str) -> tuple[float, ...]:
    """The shares that `1%,5%` means: (0.01, 0.05), in ascending order.

    Raises:
        XmsimError: something else, no more than 0 %, or beyond 1000 %.
    """
    found = []
    for word in words.split(","):
        number = re.fullmatch(r"\s*\+?(\d{1,4}(?:\.\d{1,6})?)\s*%\s*", word)
        if number is None or not 0 < float(number[1]) <= 100 * LARGEST_TARGET:
            raise XmsimError(f"--solve {words}: {word or 'nothing'} is not an increase of perplexity in percent; give e.g. 1%,5%")
        found.append(float(number[1]) / 100)
    return tuple(sorted(set(found)))


def solvable_methods(methods: Sequence[Method], key_tokens: int) -> tuple[list[Solvable], list[Method]]:
    """The methods that can be solved for on windows of so many tokens, and those that have no free parameter.

    Raises:
        XmsimError: none can be, or two would write the same file.
    """
    solvable, fixed = [], []
    for method in with_dense_first(methods)[1:]:
        parameter = method.config.free_parameter(key_tokens)
        if parameter is None:
            fixed.append(method)
        else:
            solvable.append(Solvable(method, parameter))
    if not solvable:
        raise XmsimError("none of these methods has a free parameter to solve for; give another --method, e.g. xm")
    names = [solved_name(one.method, 0) for one in solvable]
    if twice := next((one for one, name in zip(solvable, names, strict=True) if names.count(name) > 1), None):
        raise XmsimError(f"two methods would be written as {solved_name(twice.method, 0.01)}.yaml; rename one of the files")
    return solvable, fixed


def solve_methods(
    loaded: LoadedModel,
    solvable: Sequence[Solvable],
    targets: Sequence[float],
    corpus: Corpus,
    *,
    length: int = 1024,
    protocol: str = "dynax",
    windows: int | None = None,
    store: Path | None = None,
    progress: Progress = no_progress,
) -> Solution:
    """For each method and target the most pruning whose perplexity is no further above the dense model's.

    Windows, protocol and scoring are those of `evaluate_model`, and so are the numbers.

    Args:
        loaded: a causal language model with its tokenizer.
        solvable: of `solvable_methods`, for the tokens of this protocol and length.
        targets: perplexity / dense perplexity − 1, each more than 0.
        length, protocol, windows: as `evaluate_model`, of one length.
        store: file of what was scored, read first and written after every value tried; None: none.
        progress: (windows read, windows to read at most), called after each window.
    Raises:
        XmsimError: whatever is wrong with the model, the text, the choice or the store, in one sentence.
    """
    check_scorable(loaded, windows)
    cut = cut_windows(loaded, corpus, protocol, length, windows)
    empty = evaluation_record(loaded, corpus, protocol, ())
    most = 1 + len(targets) * sum(len(one.parameter.values).bit_length() for one in solvable)
    kept = SolveStore(store, empty, length=length, windows=len(cut.windows))
    scorer = _Scorer(loaded, cut, kept, lambda read: progress(read, most * len(cut.windows)))
    runs, files = [scorer.dense], {}
    for one in solvable:
        for run, method in _solved(one, targets, scorer):
            runs.append(run)
            if run.solved_for and run.solved_for.reached:
                files[f"{method.name}.yaml"] = method_text(method, _sources(one.method, method, run, empty))
    return Solution(replace(empty, runs=tuple(runs)), files)


class _Scorer:
    """Scores a method, unless the store has it."""

    def __init__(self, loaded: LoadedModel, cut: TextWindows, store: SolveStore, progress: Callable[[int], None]) -> None:
        self._loaded, self._cut, self._store = loaded, cut, store
        self._loss = window_loss(loaded.model, cut.windows[0].ids)
        self._read = itertools.count(1)
        self._step = lambda: progress(next(self._read))
        self._dense_losses: tuple[float, ...] | None = None
        self.dense = self.run(load_method("dense"))
        self._dense_losses = self.dense.window_losses

    def run(self, method: Method) -> EvaluatedRun:
        run = self._store.find(method_facts(method))
        if run is None:
            own = score_windows(self._loaded, Variant(method, None), self._cut, self._loss, self._step)
            run = evaluated_run(method, self._cut, own, dense_losses=self._dense_losses or own.window_losses)
            self._store.add(run)
        return run


def _solved(one: Solvable, targets: Sequence[float], scorer: _Scorer) -> list[tuple[EvaluatedRun, Method]]:
    """For each target the run with the most pruning within it, and its method, named after the target."""
    runs: dict[int, EvaluatedRun] = {}

    def cost(step: int) -> float:
        if step not in runs:
            runs[step] = scorer.run(_method_at(one, step))
        return runs[step].perplexity_increase

    steps = len(one.parameter.values)
    found = [most_pruning(steps, target, cost, to_the_step=one.parameter.whole) for target in targets]
    costs = {step: run.perplexity_increase for step, run in runs.items()}
    solved = []
    for target, ends in zip(targets, found, strict=True):
        step = ends.within or 0
        method = replace(_method_at(one, step), name=solved_name(one.method, target))
        solved_for = _solved_for(one.parameter, ends, costs, target)
        solved.append((replace(runs[step], method=method_facts(method), solved_for=solved_for), method))
    return solved


def _method_at(one: Solvable, step: int) -> Method:
    return replace(one.method, config=one.method.config.with_free(one.parameter, one.parameter.values[step]))


def _solved_for(parameter: FreeParameter, ends: Boundary, costs: Mapping[int, float], target: float) -> SolvedFor:
    """What came of it. Args: costs: of all steps of this method that were tried."""

    def said(step: int) -> str:
        return f"{parameter.name} {parameter.values[step]:g} costs {100 * costs[step]:+.2f} %"

    last = len(parameter.values) - 1
    near = ends.within is not None and is_near(costs[ends.within], target)
    reached, notes = True, []
    if ends.within is None:
        reached = False
        notes.append(f"out of reach: even the least pruning, {said(0)}")
    elif near:
        pass
    elif ends.within == last:
        reached = False
        notes.append(f"out of reach: even the most pruning, {said(last)}")
    elif ends.beyond is not None:
        further = f"{parameter.values[ends.beyond]:g}, a step further, {100 * costs[ends.beyond]:+.2f} %"
        notes.append(f"{said(ends.within)}, and {further}")
    if seen := fall(costs, target):
        notes.append(
            f"perplexity does not rise with pruning throughout ({said(seen[0])}, {said(seen[1])}), so there may be other solutions"
        )
    return SolvedFor(
        target_relative=target,
        parameter=parameter.name,
        value=parameter.values[ends.within or 0],
        reached=reached,
        bracket=tuple(TriedValue(parameter.values[step], costs[step]) for step in (ends.within, ends.beyond) if step is not None),
        note="; ".join(notes),
    )


def _sources(given: Method, solved: Method, run: EvaluatedRun, record: EvaluationRecord) -> dict[str, str]:
    """Where the values come from that solving changed."""
    assert run.solved_for is not None
    why = (
        f"solved by xmsim evaluate for {100 * run.solved_for.target_relative:+g} % perplexity over dense of {record.model['name']} on "
        f"{record.text.name}, protocol {record.protocol}, {run.windows} windows of {run.length_tokens} tokens; reached "
        f"{100 * run.perplexity_increase:+.2f} %"
    )
    before, after = given.parameters, solved.parameters
    solved_key = run.solved_for.parameter
    follows = f"moves with {solved_key}, in the proportion of {given.name}"
    return {key: why if key == solved_key else follows for key in after if key == solved_key or after[key] != before[key]}
