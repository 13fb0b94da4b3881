"""Terminals without our signs, names in brackets or of another encoding, and places that cannot be written to."""

from __future__ import annotations

import os
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import xmsim.configs.shipped
from xmsim import workloads
from xmsim.accel_models import load_accelerator
from xmsim.accel_models.runs import simulate_trace
from xmsim.cli import main
from xmsim.configs.errors import ConfigError
from xmsim.sim.result import read_result, write_result
from xmsim.traces.store import open_trace

RECORDS = Path(__file__).resolve().parents[1] / "golden" / "records"
RESULT = RECORDS / "result.v3.json"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `xmsim ...`; gives its exit status, what it printed, and what it complained about."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xmsim", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        return int(stopped.value.code or 0), output.out, output.err

    return run


def test_a_terminal_that_lacks_our_signs_shows_the_rest() -> None:
    command = [sys.executable, "-m", "xmsim", "explain", str(RESULT), "area_mm2"]
    ran = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b"execute_array" in ran.stdout and b"?" in ran.stdout


def test_what_stands_in_brackets_is_printed(shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "[low, nominal, high]" in " ".join(shown("explain", RESULT, "area_mm2")[1].split())
    monkeypatch.chdir(tmp_path)
    shutil.copy(RESULT, "a.json")
    assert "difference[red]/waterfall.json" in shown("diff", "a.json", RESULT, "--out", "difference[red]")[1]


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("calibrate", "--out", "taken/host.json"), "taken/host.json"),
        (("evaluate", "no-such-model", "--out", "taken"), "taken/evaluation.json"),
        (("convert", "no-such-model", "--format", "packed", "--out", "taken/packed"), "taken/packed"),
        (("measure", "--model", "no-such-model", "--out", "taken/generation.json"), "taken/generation.json"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(
    shown, words: tuple[str, ...], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xmsim.workloads.measuring.calibration.calibrate.calibrate", pytest.fail)
    Path("taken").write_text("a file where a folder should be")
    status, _, complaint = shown(*words)
    assert (status, complaint) == (2, f"xmsim: {file}: cannot be written (Not a directory); choose a folder you may write to\n")


def test_a_machine_whose_name_no_result_can_hold_is_refused(tmp_path: Path) -> None:
    own = tmp_path / os.fsdecode(b"m\xfc.yaml")  # ü in Latin-1, which is no UTF-8
    shutil.copy(Path(xmsim.configs.shipped.__file__).parent / "accelerators" / "dense.yaml", own)
    with pytest.raises(ConfigError, match="give it a name of printable characters"):
        load_accelerator(own)


def test_a_result_is_written_and_read_by_a_path_that_is_text(tmp_path: Path) -> None:
    record = read_result(str(RESULT))
    write_result(f"{tmp_path}/copy.json", record)
    assert read_result(f"{tmp_path}/copy.json") == record


def test_what_a_notebook_shows_of_an_object_fits_on_a_screen() -> None:
    record = read_result(RESULT)
    assert max(len(repr(shown)) for shown in (record.runs[0].result, record.costs)) < 4000
    assert repr(load_accelerator("dynax_s")) == "Dynax('dynax_s')"


def test_help_names_what_is_imported_on_first_use() -> None:
    text = pydoc.render_doc(workloads, renderer=pydoc.plaintext)
    assert "class AttentionWorkload" in text and "extract_trace(" in text
    assert "simulate_trace" in pydoc.render_doc(xmsim, renderer=pydoc.plaintext) and callable(simulate_trace) and callable(open_trace)
