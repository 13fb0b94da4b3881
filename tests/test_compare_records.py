"""Ratios of new timings to the committed ones: runs of one name on other shapes and threads are other runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare_records

    return compare_records


def printed(compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *records: Path) -> list[list[str]]:
    """Committed, new, ratio and name of each line."""
    monkeypatch.setattr("sys.argv", ["compare_records.py", *map(str, records)])
    compare.main()
    lines = capsys.readouterr().out.splitlines()
    return [line.split(None, 3) for line in lines[3:]]


def test_every_committed_run_is_compared_with_itself(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = compare.committed_benchmarks()
    assert {"linear_cpu.json", "attention_cpu.json", "masks_cpu.json", "engines_cpu.json"} <= {path.name for path in paths}
    rows = printed(compare, monkeypatch, capsys, *paths)
    assert len(rows) > 200 and len({name for *_, name in rows}) == len(rows)
    assert [name for old, new, ratio, name in rows if old != new or ratio != "1.00"] == []


def test_a_run_on_more_threads_is_held_against_the_same_threads(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = [{"name": "dense", "in_features": 8, "threads": threads, "tokens": 1, "median_ms": 4.0 / threads} for threads in (1, 2)]
    record = {"format": "xmsim.benchmark", "version": 1, "xmsim": "0", "host": {"cpu": "c", "system": "s"}, "runs": runs}
    committed = tmp_path / "committed"
    committed.mkdir()
    (committed / "linear_cpu.json").write_text(json.dumps(record))
    shutil.copy(committed / "linear_cpu.json", tmp_path / "new.json")
    new = json.loads((tmp_path / "new.json").read_text())
    new["runs"][1]["median_ms"] = 3.0
    new["runs"].append(new["runs"][1] | {"threads": 4})
    (tmp_path / "new.json").write_text(json.dumps(new))
    monkeypatch.setattr(compare, "COMMITTED", committed)
    rows = printed(compare, monkeypatch, capsys, tmp_path / "new.json")
    assert [row[:3] for row in rows] == [["4.000", "4.000", "1.00"], ["2.000", "3.000", "1.50"], ["-", "3.000", "-"]]


def test_runs_that_nothing_tells_apart_are_not_compared(compare: ModuleType) -> None:
    with pytest.raises(ValueError, match="IDENTIFYING"):
        compare.numbers({"runs": [{"name": "dense", "median_ms": 1.0}] * 2})
