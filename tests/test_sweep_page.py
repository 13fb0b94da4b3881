"""docs/sweep.md says of speed what the record says, and names the goals that are missed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.record import read_record

ROOT = Path(__file__).resolve().parents[1]
GOALS = {  # (number of the record, at most, how the page calls the goal)
    ("sweep_s", 900, "15 minutes"),
    ("largest_process_mb", 600, "600 MB"),
    ("unchanged_rerun_s", 3, "3 s"),
    ("interruption_s", None, "1 %"),  # of sweep_s
}


@pytest.fixture(scope="module")
def page() -> str:
    return " ".join((ROOT / "docs" / "sweep.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_record(ROOT / "reports" / "measured" / "sweep_cpu.json", "benchmark", 1)


def test_the_page_has_the_numbers_of_the_record(page: str, record: dict[str, Any]) -> None:
    assert (record["points"], record["jobs"], record["host"]["cores"]) == (10_000, 2, 2)
    points = f"{record['points']:,}".replace(",", " ")
    each = f"{record['cpu_ms_per_point']:.0f} CPU-ms a point, largest process {record['largest_process_mb']} MB"
    said = (
        f"{points} points in {record['sweep_s']:.0f} s ({each}), and {record['unchanged_rerun_s']:.1f} s to find that nothing has changed"
    )
    assert said in page, said


def test_the_page_says_what_an_interruption_costs_if_that_was_measured(page: str, record: dict[str, Any]) -> None:
    if "resume" not in record:
        assert "An interruption costs" not in page
        return
    resumed = record["resume"]
    assert resumed["tables_equal"] and resumed["overhead_share"] == pytest.approx(resumed["interruption_s"] / record["sweep_s"], abs=1e-4)
    said = f"An interruption costs {resumed['interruption_s']:.1f} s, {100 * resumed['overhead_share']:.1f} % of them"
    assert said in page, said


def test_goals_are_met_or_named_as_missed(page: str, record: dict[str, Any]) -> None:
    numbers = record | record.get("resume", {})
    for name, most, goal in GOALS:
        missed = name in numbers and numbers[name] > (record["sweep_s"] / 100 if most is None else most)
        assert (f"the goal of {goal} is missed" in page) == missed, f"{name} {numbers.get(name)}"


def test_a_record_keeps_the_measurements_of_one_host_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    added = importlib.import_module("sweep").added
    here, there = {"host": "here"}, {"host": "there"}
    resumed = {"points": 2500, "interruption_s": 2.0}
    body = added(added({}, here, "resume", resumed), here, "speed", {"points": 10_000, "sweep_s": 250.0})
    assert body == here | {"points": 10_000, "sweep_s": 250.0, "resume": resumed | {"overhead_share": 0.008}}
    assert added(body, here, "kills", {"kills": 20}) == body | {"kills": {"kills": 20}}
    assert added(body, there, "speed", {"sweep_s": 1.0}) == there | {"sweep_s": 1.0}
