"""Search: seeded, the same whoever simulates, and free of what the store remembers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.accel_models.sweep.points import Point, Sweep
from xmsim.accel_models.sweep.search import search
from xmsim.accel_models.sweep.sweep_file import read_sweep
from xmsim.configs.errors import XmsimError

pytest.importorskip("optuna")
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SPACE = """\
machines: [dynax_s]
axes:
  execute_array.count: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
  dividers: [16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136]
  clock_mhz: [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
"""


@pytest.fixture
def space(tmp_path: Path) -> Sweep:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return read_sweep(path, [GOLDEN / "trace_v2"])


def made_up(points: Sequence[Point]) -> Mapping[str, Mapping[str, float] | None]:
    """Latency falls and area rises with the arrays, both are least at 64 dividers; a clock above 900 fails."""
    found: dict[str, Mapping[str, float] | None] = {}
    for point in points:
        count, clock = point.values["execute_array.count"], point.values["clock_mhz"]
        waste = 1 + abs(point.values["dividers"] - 64)
        metrics = {"latency_ms": waste * 1e4 / clock / count, "energy_pj": waste * 1.0, "area_mm2": waste * count / 10}
        found[point.key] = None if clock > 900 else metrics
    return found


def test_a_search_is_the_same_for_one_seed_and_another_for_another(space: Sweep) -> None:
    first, again, other = (search(space, made_up, trials=70, seed=seed) for seed in (1, 1, 2))
    assert [point.key for point in first] == [point.key for point in again] != [point.key for point in other]
    assert len({point.key for point in first}) == len(first) <= 70


def test_a_longer_search_begins_with_a_shorter_one(space: Sweep) -> None:
    short, long = (search(space, made_up, trials=trials) for trials in (64, 128))
    assert [point.key for point in long][: len(short)] == [point.key for point in short]


def test_it_finds_the_front_where_chance_finds_a_quarter(space: Sweep) -> None:
    tried = search(space, made_up, trials=640)  # of 2560 points
    front = {p.values["execute_array.count"] for p in tried if p.values["dividers"] == 64 and p.values["clock_mhz"] == 900}
    assert len(front) >= 14  # of 16 numbers of arrays


def test_what_cannot_be_searched_gets_a_sentence(space: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(XmsimError, match="--objective speed: dynax_s has no such number; it has latency_ms, energy_pj, area_mm2"):
        search(space, made_up, trials=2, objectives=["speed"])
    with pytest.raises(XmsimError, match="times on 2 traces do not compare; search one of them at a time"):
        search(replace(space, traces=space.traces * 2), made_up, trials=2)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(XmsimError, match=r'pip install "xmsim\[search\]"'):
        search(space, made_up, trials=2)
