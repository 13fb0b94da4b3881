from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.extract import extract
from xmsim.cli.simulate import simulate
from xmsim.sim.result import read_result

pytest.importorskip("torch")


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(extract)
    app.command()(simulate)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def trace(model: Path, tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("thequickbrownfoxjumpsoverthelazydog" * 4)
    assert run("extract", model, "--text", text, "--tokens", 128, "--out", tmp_path / "trace").exit_code == 0
    return tmp_path / "trace"


def test_several_machines_end_in_one_table_with_a_row_for_each(trace: Path, tmp_path: Path) -> None:
    names = ("dynax_s", "sanger", "salo", "salo_v2", "dense", "dense_ws")
    shown = run("simulate", trace, *(word for name in names for word in ("-m", name)), "--out", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    rows = [
        line.split() for line in shown.stdout.splitlines() if line.split()[:1] and line.split()[0] in names and "native" in line.split()
    ]
    assert [row[0] for row in rows] == list(names)
    for row in rows:
        record = read_result(tmp_path / "results" / f"{row[0]}.json")
        assert int(row[4]) == record.cycles and row[1] == record.method["name"]


def test_both_engines_write_the_same_results(trace: Path, tmp_path: Path) -> None:
    for engine in ("compiled", "event"):
        assert run("simulate", trace, "-m", "dynax_l", "--engine", engine, "--out", tmp_path / engine).exit_code == 0
    compiled, event = (read_result(tmp_path / engine / "dynax_l.json") for engine in ("compiled", "event"))
    assert (compiled.engine, event.engine) == ("compiled", "event")
    assert compiled.runs == event.runs
