"""xmsim calibrate: constants to a file and a table, and predictions beside measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.accel_models.host.hosts import calibration

from xmsim.cli import main
from xmsim.workloads.measuring.calibration.record import read_calibration, write_calibration

MEASURED = Path(__file__).resolve().parents[2] / "reports" / "measured"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["xmsim", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_constants_are_printed_with_samples_spread_and_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xmsim.workloads.measuring.calibration.calibrate.calibrate", lambda threads: calibration())
    assert run(monkeypatch, "calibrate", "--out", str(tmp_path / "host.json")) == 0
    said = capsys.readouterr().out
    assert "Constants of a processor, 2 cores" in said and "wrote" in said
    line = next(line for line in said.splitlines() if line.startswith("read") and "memory" in line)
    assert "2 (1.98–2.02)" in line and " 9 " in line and line.rstrip().endswith("32.0")  # a line of 64 bytes in 2 ns is 32 GB/s
    assert read_calibration(tmp_path / "host.json") == calibration()


def test_predictions_are_written_beside_measurements(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_calibration(tmp_path / "host.json", calibration())
    out = tmp_path / "check"
    arguments = ("--predict", str(MEASURED / "linear_cpu.json"), "--host", str(tmp_path / "host.json"), "--out", str(out))
    assert run(monkeypatch, "calibrate", *arguments) == 0
    said = capsys.readouterr().out
    assert "as calibrated: all: bias" in said and "coverage 100 %" in said
    names = {"cross_check.md", "cross_check.json", "predicted_against_measured.png", "predicted_against_measured.csv"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "cross_check.json").read_text())["format"] == "xmsim.cross_check"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--threads", "one"), "--threads one: numbers with commas"),
        (("--predict", str(MEASURED / "linear_cpu.json")), "none of the records has a calibration"),
        (("--predict", "no.json", "--host", "sapphire_rapids_32"), "no.json: cannot be read"),
        (("--predict", str(MEASURED / "linear_cpu.json"), "--host", "saphire"), "no host saphire"),
    ],
)
def test_a_mistake_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "calibrate", *arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
