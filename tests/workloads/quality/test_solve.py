"""Equal accuracy: methods solved for a perplexity, on losses that are made up where their course matters, and on a real model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.densities import Densities
from xmsim.configs.errors import XmsimError
from xmsim.workloads.evaluation import EvaluatedRun, TriedValue, read_evaluation, write_evaluation
from xmsim.workloads.methods.library import Method, MethodReference, load_method
from xmsim.workloads.models.loading import LoadedModel, load_model
from xmsim.workloads.quality.evaluate import evaluate_model
from xmsim.workloads.quality.solve import Solution, solvable_methods, solve_methods, solve_targets
from xmsim.workloads.quality.window_scores import TextWindows, Variant, WindowScores
from xmsim.workloads.texts.corpora import RunningText

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = RunningText("letters", "".join(chr(97 + number * number % 23) for number in range(200)))
Costs = Callable[[Method], float]  # perplexity over dense − 1


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


class Bench:
    """A solver on losses that are made up, which counts how many it asks for."""

    def __init__(self, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loaded = loaded
        self.asked: list[Method] = []
        self.costs: Costs = lambda method: 0.0
        self.interrupted_after = math.inf
        monkeypatch.setattr("xmsim.workloads.quality.solve.score_windows", self._score)

    def _score(self, loaded: LoadedModel, variant: Variant, cut: TextWindows, *rest: Any) -> WindowScores:
        if len(self.asked) >= self.interrupted_after:
            raise KeyboardInterrupt
        self.asked.append(variant.method)
        cost = 0.0 if variant.method.name == "dense" else self.costs(variant.method)
        return WindowScores((2.0 + math.log1p(cost),) * len(cut.windows), Densities(1.0, 0.5, 1.0), (), None)

    def solve(self, *methods: Method, targets: tuple[float, ...] = (0.01,), **options: Any) -> Solution:
        solvable, _ = solvable_methods(methods, 32)
        return solve_methods(self._loaded, solvable, targets, TEXT, **({"length": 32, "windows": 2} | options))


@pytest.fixture
def bench(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(loaded, monkeypatch)


def topk(costs: Callable[[int], float]) -> Costs:
    return lambda method: costs(method.config.kept)


def solved(solution: Solution) -> list[EvaluatedRun]:
    return [run for run in solution.record.runs if run.solved_for]


def test_a_whole_parameter_is_the_most_pruning_that_meets_the_target_and_its_neighbours_are_told(bench: Bench):
    bench.costs = topk(lambda kept: 0.08 / kept)  # 8 keys cost 1 %, 7 more; 2 keys 4 %, 1 key 8 %
    solution = bench.solve(load_method("topk"), targets=(0.01, 0.05))
    assert [run.label for run in solution.record.runs] == ["dense", "topk_plus1", "topk_plus5"]
    one, five = solved(solution)
    assert (one.method["kept"], one.perplexity_increase) == (8, pytest.approx(0.01))
    assert (five.method["kept"], five.perplexity_increase) == (2, pytest.approx(0.04))
    assert (five.solved_for.target_relative, five.solved_for.parameter, five.solved_for.value) == (0.05, "kept", 2)
    assert five.solved_for.reached and [point.value for point in five.solved_for.bracket] == [2, 1]
    assert five.solved_for.note == "kept 2 costs +4.00 %, and 1, a step further, +8.00 %"


def test_a_fine_parameter_ends_within_a_tenth_of_the_target(bench: Bench):
    bench.costs = lambda method: 2 * method.config.threshold
    (run,) = solved(bench.solve(load_method("sanger"), targets=(0.02,)))
    assert 0.018 <= run.perplexity_increase <= 0.02 and run.solved_for.reached and run.solved_for.note == ""
    assert len(bench.asked) < 13  # not to the last of 7200 values


def test_targets_share_what_was_scored(bench: Bench):
    bench.costs = topk(lambda kept: 0.08 / kept)
    bench.solve(load_method("topk"), targets=(0.01, 0.05))
    assert len({method.config.model_dump_json() for method in bench.asked}) == len(bench.asked) == 1 + 8  # dense; 5 steps and 3 more


@pytest.mark.parametrize(
    ("cost", "value", "note"),
    [
        (0.02, 32, "out of reach: even the least pruning, kept 32 costs +2.00 %"),
        (0.001, 1, "out of reach: even the most pruning, kept 1 costs +0.10 %"),
    ],
)
def test_a_target_out_of_reach_is_marked_and_has_no_file(bench: Bench, cost: float, value: int, note: str):
    bench.costs = topk(lambda kept: cost)
    solution = bench.solve(load_method("topk"), load_method("nm", block=8, kept=2, sources={}))
    run = solved(solution)[0]
    assert (run.solved_for.reached, run.solved_for.value, run.method["kept"], run.solved_for.note) == (False, value, value, note)
    assert run.solved_for.bracket == (TriedValue(value, pytest.approx(cost)),)
    assert solution.method_files == {}


def test_costs_that_fall_with_pruning_end_and_are_told(bench: Bench):
    bench.costs = topk(lambda kept: 0.02 if kept < 8 else 0.002 if kept == 8 else 0.009)
    (run,) = solved(bench.solve(load_method("topk")))
    assert run.method["kept"] == 8
    assert run.solved_for.note == (
        "kept 8 costs +0.20 %, and 7, a step further, +2.00 %; perplexity does not rise with pruning throughout "
        "(kept 9 costs +0.90 %, kept 8 costs +0.20 %), so there may be other solutions"
    )


def test_an_interrupted_solve_goes_on_and_scores_nothing_twice(bench: Bench, tmp_path: Path):
    bench.costs = topk(lambda kept: 0.08 / kept)
    whole = bench.solve(load_method("topk"), targets=(0.01, 0.05))
    needed, bench.asked = len(bench.asked), []
    bench.interrupted_after = 4
    with pytest.raises(KeyboardInterrupt):
        bench.solve(load_method("topk"), targets=(0.01, 0.05), store=tmp_path / "tried.json")
    assert len(read_evaluation(tmp_path / "tried.json").runs) == 4
    bench.interrupted_after = math.inf
    again = bench.solve(load_method("topk"), targets=(0.01, 0.05), store=tmp_path / "tried.json")
    assert len(bench.asked) == needed and again.record.runs == whole.record.runs
    assert bench.solve(load_method("topk"), targets=(0.05,), store=tmp_path / "tried.json").record.runs[1] == whole.record.runs[2]
    assert len(bench.asked) == needed


def test_a_store_of_other_windows_is_refused(bench: Bench, tmp_path: Path):
    bench.solve(load_method("topk"), store=tmp_path / "tried.json")
    for options, words in ({"windows": 3}, "windows"), ({"length": 16}, "length"), ({"protocol": "wanda"}, "protocol"):
        with pytest.raises(XmsimError, match=rf"tried\.json: holds runs of another {words}; move it away or choose another --out$"):
            bench.solve(load_method("topk"), store=tmp_path / "tried.json", **options)


def test_methods_without_a_free_parameter_are_set_aside(bench: Bench):
    solvable, fixed = solvable_methods([load_method(name) for name in ("dense", "fixed", "xm")], 32)
    assert [one.method.name for one in solvable] == ["xm"] and [one.name for one in fixed] == ["fixed"]
    with pytest.raises(XmsimError, match=r"^none of these methods has a free parameter to solve for; give another --method, e\.g\. xm$"):
        solvable_methods([load_method("fixed")], 32)


def test_two_methods_that_would_share_a_file_are_refused(tmp_path: Path):
    (tmp_path / "xm_1_4_6bit.yaml").write_text((Path(__file__).parents[3] / "configs/methods/xm.yaml").read_text())
    with pytest.raises(XmsimError, match=r"^two methods would be written as xm_1_4_6bit_plus1\.yaml; rename one of the files$"):
        solvable_methods([load_method("xm:1_4_6bit"), load_method(tmp_path / "xm_1_4_6bit.yaml")], 32)


def test_a_written_method_is_the_one_that_was_scored_and_says_what_for(bench: Bench, tmp_path: Path):
    bench.costs = lambda method: 0.2 / method.config.kept_high
    solution = bench.solve(load_method("xm:1_4_6bit"), targets=(0.005, 0.01))
    assert list(solution.method_files) == ["xm_1_4_6bit_plus0.5.yaml", "xm_1_4_6bit_plus1.yaml"]
    path = tmp_path / "xm_1_4_6bit_plus1.yaml"
    path.write_text(solution.method_files[path.name])
    method, run = load_method(path), solved(solution)[1]
    assert {"name": method.name} | method.parameters == run.method
    assert MethodReference(name=str(path)).load() == method
    assert (method.config.kept_high, method.config.kept_low, method.prediction.bits) == (20, 10, 6)
    assert method.config.sources["kept_high"] == (
        "solved by xmsim evaluate for +1 % perplexity over dense of model on letters, "
        "protocol dynax, 2 windows of 32 tokens; reached +1.00 %"
    )
    assert method.config.sources["kept_low"] == "moves with kept_high, in the proportion of xm"
    assert method.config.sources["threshold_low"] == load_method("xm").config.sources["threshold_low"]


def test_the_record_survives_the_file_and_an_earlier_version_was_solved_for_nothing(bench: Bench, tmp_path: Path):
    bench.costs = topk(lambda kept: 0.08 / kept)
    record = bench.solve(load_method("topk")).record
    path = tmp_path / "evaluation.json"
    write_evaluation(path, record)
    assert read_evaluation(path) == record
    body = json.loads(path.read_text()) | {"version": 2}
    for run in body["runs"]:
        del run["solved_for"]
    path.write_text(json.dumps(body))
    assert [run.solved_for for run in read_evaluation(path).runs] == [None, None]


def test_a_solved_run_is_what_evaluate_finds_for_its_file(loaded: LoadedModel, tmp_path: Path):
    solvable, _ = solvable_methods([load_method("topk")], 32)
    steps: list[tuple[int, int]] = []
    solution = solve_methods(loaded, solvable, (0.05,), TEXT, length=32, windows=2, progress=lambda done, most: steps.append((done, most)))
    run = solved(solution)[0]
    dense, again = evaluate_model(
        loaded, [Method(run.method["name"], load_method("topk", kept=run.method["kept"]).config)], TEXT, lengths=(32,), windows=2
    ).runs
    assert (solution.record.runs[0], run.window_losses, run.perplexity_increase) == (dense, again.window_losses, again.perplexity_increase)
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {most for _, most in steps} == {2 * (1 + 6)} and len(steps) <= 14


@pytest.mark.parametrize(("words", "targets"), [("1%", (0.01,)), ("5%, +1 %,1%", (0.01, 0.05)), ("0.5%", (0.005,))])
def test_targets_are_percent_in_ascending_order(words: str, targets: tuple[float, ...]):
    assert solve_targets(words) == targets


@pytest.mark.parametrize("words", ["", "1", "1%,", "0%", "-1%", "1e2%", "nan%", "1001%", "1%;5%"])
def test_what_is_no_increase_in_percent_is_one_sentence(words: str):
    with pytest.raises(XmsimError, match=r"is not an increase of perplexity in percent; give e\.g\. 1%,5%$"):
        solve_targets(words)
