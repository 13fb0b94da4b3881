"""xmsim sweep: killed, started again, searched; every point in the table once."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from xmsim.cli import main

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TRACE = GOLDEN / "trace_v2"
SWEEP = "machines: [dynax_s]\naxes:\n  execute_array.count: [1, 2]\n  kv.buffer_bytes: [128, 131072]\n  clock_mhz: [400, 500]\n"
LONGER = """\
machines: [dynax_s]
axes:
  execute_array.count: [1, 2, 3, 4, 5, 6, 7, 8]
  scheduler.window_tiles: [1, 2, 4, 8]
  kv.buffer_bytes: [128, 131072]
  clock_mhz: [300, 400, 500]
"""
POINTS = 8 * 4 * 2 * 3


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xmsim", "sweep", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "points.csv").read_text().splitlines()))


def test_a_sweep_writes_its_store_its_table_and_the_front(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, small, "--trace", TRACE, "--out", "out", "--jobs", 1) == 0
    said = capsys.readouterr()
    assert "8 points: 4 simulated, 4 failed; 8 of them now" in said.out
    assert "failed, 4 points: dynax_s: kv.buffer_bytes: 128 do not hold K and V" in said.out
    assert said.err == ""  # no progress where there is no terminal
    rows = table(Path("out"))
    assert [row["clock_mhz"] for row in rows] == ["400.0", "500.0"] * 4
    assert all((row["total_cycles"] == "") == row["error"].startswith("dynax_s: kv.buffer_bytes") for row in rows)
    assert {path.name for path in Path("out").iterdir()} == {"points.sqlite", "points.csv", "pareto.csv", "pareto.png", "masks"}
    with sqlite3.connect("out/points.sqlite") as store:
        assert store.execute("SELECT count(*) FROM points WHERE metrics IS NULL").fetchone() == (4,)
    store.close()


def test_an_unchanged_sweep_simulates_nothing_and_failed_points_only_on_request(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (small, "--trace", TRACE, "--out", "out", "--jobs", 1)
    run(monkeypatch, *words)
    before = Path("out/points.csv").read_bytes()
    capsys.readouterr()
    assert run(monkeypatch, *words) == 0 and "0 of them now" in capsys.readouterr().out
    assert run(monkeypatch, *words, "--retry-failed") == 0 and "4 of them now" in capsys.readouterr().out
    assert Path("out/points.csv").read_bytes() == before
    small.write_text(SWEEP.replace("[400, 500]", "[400, 450, 500]"))  # what is common to both is not simulated again
    assert run(monkeypatch, *words) == 0 and "12 points: 6 simulated, 6 failed; 4 of them now" in capsys.readouterr().out


def test_an_unchanged_sweep_writes_nothing_and_waits_for_no_plots(small: Path) -> None:
    command = [sys.executable, "-c", SAYS_WHAT_IT_LOADED, "sweep", str(small), "--trace", str(TRACE), "--out", "out", "--jobs", "1"]
    assert finished(command).endswith("matplotlib True\n")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.name.split(".")[-1] in ("csv", "png", "npy")}
    assert finished(command).endswith("matplotlib False\n")
    assert len(before) > 3 and all(path.stat().st_mtime_ns == then for path, then in before.items())
    Path("out/pareto.png").unlink()
    assert finished(command).endswith("matplotlib True\n") and Path("out/pareto.png").exists()


SAYS_WHAT_IT_LOADED = """\
import sys
from xmsim.cli import main
try:
    main()
finally:
    print("matplotlib", "matplotlib" in sys.modules)
"""


def test_a_damaged_store_is_a_sentence(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = (small, "--trace", TRACE, "--out", "out", "--jobs", 1)
    run(monkeypatch, *words)
    store = Path("out/points.sqlite")
    store.write_bytes(store.read_bytes()[:5000])
    capsys.readouterr()
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("xmsim: out/points.sqlite: no run store, or a damaged one (database disk image is malformed); move it away")
    assert said.count("\n") == 1
    store.rename("away")
    assert run(monkeypatch, *words) == 0


def test_decoded_tokens_and_layers_are_named_beside_the_front(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (small, "--trace", TRACE, "--out", "out", "--jobs", 1)
    small.write_text(f"{SWEEP}decode: 2\nlayers: 1\n")
    assert run(monkeypatch, *words) == 0
    assert "Designs that no other beats, layer 1, last 2 tokens decoded" in capsys.readouterr().out
    small.write_text(f"{SWEEP}layers: 1\n")
    assert run(monkeypatch, *words) == 0 and "8 of them now" in capsys.readouterr().out
    with closing(sqlite3.connect("out/points.sqlite")) as store:
        said = [json.loads(config)["simulated"] for (config,) in store.execute("SELECT config FROM points")]
    assert said.count({"layers": [1], "decode_tokens": 2}) == said.count({"layers": [1], "decode_tokens": None}) == 8


def test_a_sweep_of_failures_alone_is_refused_with_the_first(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_text("machines: [dynax_s]\naxes:\n  kv.buffer_bytes: [128]\n")
    assert run(monkeypatch, small, "--trace", TRACE, "--jobs", 1) == 2
    assert "every point failed; the first: dynax_s: kv.buffer_bytes: 128 do not hold" in capsys.readouterr().err
    assert len(table(Path("sweep"))) == 1


def test_bad_input_leaves_nothing_behind(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_text("machines: [dynax_s]\naxes:\n  clock: [1]\n")
    assert run(monkeypatch, small, "--trace", TRACE) == 2
    assert capsys.readouterr().err == f"xmsim: {small}:3:3: clock: dynax_s has no such field; did you mean clock_mhz?\n"
    small.write_text(
        "machines: [dynax_s]\naxes:\n"
        + "".join(f"  {name}: {list(range(1, 200))}\n" for name in ("clock_mhz", "dividers", "execute_array.rows"))
    )
    assert run(monkeypatch, small, "--trace", TRACE) == 2
    assert "7880599 points are too many to simulate all; take fewer values, or --search N of them" in capsys.readouterr().err
    assert [path.name for path in small.parent.iterdir()] == ["small.yaml"]


def test_a_search_goes_on_where_it_was(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    small.write_text(LONGER)
    words = (small, "--trace", TRACE, "--out", "out", "--jobs", 1, "--search")
    assert run(monkeypatch, *words, 32) == 0
    first = capsys.readouterr().out
    assert run(monkeypatch, *words, 32) == 0 and "0 of them now" in capsys.readouterr().out
    assert run(monkeypatch, *words, 64) == 0
    (points, fresh) = (int(n) for n in re.findall(r"(\d+) points: .* (\d+) of them now", capsys.readouterr().out)[0])
    before = int(re.findall(r"(\d+) points: ", first)[-1])
    assert points == before + fresh == len(table(Path("out"))) <= 64


def test_perplexity_stands_beside_the_points_of_its_method(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_text("machines: [dense]\nmethods: [native, xm]\n")
    record = GOLDEN / "records" / "evaluation.v1.json"
    text = record.read_text()
    model = re.search(r'"name": "([^"]+)"', (TRACE / "manifest.json").read_text())
    assert model
    changed = small.parent / "evaluation.json"
    changed.write_text(re.sub(r'("model": \{[^}]*?"name": )"[^"]+"', rf'\1"{model.group(1)}"', text))
    assert run(monkeypatch, small, "--trace", TRACE, "--jobs", 1, "--evaluation", changed) == 0
    dense, xm = table(Path("sweep"))
    assert float(dense["perplexity"]) > 1 and xm["method"].startswith("xm")


def finished(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def stored_points(store: Path) -> int:
    """Points in a store that another process may be making."""
    if not store.exists():
        return 0
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5)
    try:
        return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
    except sqlite3.OperationalError:  # no table yet
        return 0
    finally:
        connection.close()


def test_after_kills_no_point_is_lost_or_simulated_twice(small: Path) -> None:
    small.write_text(LONGER)
    command = [sys.executable, "-m", "xmsim", "sweep", str(small), "--trace", str(TRACE), "--jobs", "1", "--out"]
    for at_least in (1, 100):
        with subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL) as killed:
            while stored_points(Path("killed/points.sqlite")) < at_least and killed.poll() is None:
                time.sleep(0.005)
            os.kill(killed.pid, signal.SIGKILL)
    there = stored_points(Path("killed/points.sqlite"))
    assert there >= 100
    said = finished([*command, "killed"])
    assert f"{POINTS} points: {POINTS // 2} simulated, {POINTS // 2} failed; {POINTS - there} of them now" in said
    finished([*command, "whole"])
    assert Path("killed/points.csv").read_bytes() == Path("whole/points.csv").read_bytes()
    assert Path("killed/pareto.csv").read_bytes() == Path("whole/pareto.csv").read_bytes()
    assert len(table(Path("killed"))) == stored_points(Path("killed/points.sqlite")) == POINTS
