from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import xmsim.configs.files
from xmsim.cli import main
from xmsim.cli.extract import extract
from xmsim.cli.simulate import simulate
from xmsim.sim.result import read_result

pytest.importorskip("torch")
ACCELERATORS = Path(xmsim.configs.files.__file__).parent / "accelerators"


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


Refused = Callable[..., tuple[str, str]]


@pytest.fixture
def shown_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run `xmsim ...`, which ends with status 2; gives what it printed, and its sentence."""

    def run_main(*words: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["xmsim", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        output = capsys.readouterr()
        return output.out, output.err

    return run_main


def test_a_machine_whose_dram_is_a_kind_runs_to_the_end(trace: Path, tmp_path: Path) -> None:
    text = (ACCELERATORS / "dynax_s.yaml").read_text(encoding="utf-8")
    own = tmp_path / "dynax_lpddr5.yaml"
    own.write_text(re.sub(r"(?m)^dram: .*$", "dram: {kind: lpddr5_6400, channels: 2, latency_ns: 30}", text), encoding="utf-8")
    shown = run("simulate", trace, "-m", own, "--out", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    record = read_result(tmp_path / "results" / "dynax_lpddr5.json")
    assert record.machine.config["dram"]["preset"]["clock_mhz"] == 800
    for one in record.runs:
        dram = one.result.actions["dram"]
        assert dram["activate"] > 0 and dram["read_bits"] >= 8 * one.result.traffic["dram"]["read_bytes"]


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


def test_both_engines_write_the_same_timeline_for_each_layer(trace: Path, tmp_path: Path) -> None:
    events = {}
    for engine in ("compiled", "event"):
        folder, results = tmp_path / engine, tmp_path / f"{engine}_results"
        shown = run("simulate", trace, "-m", "dynax_s", "--layers", "0,2", "--engine", engine, "--timeline", folder, "--out", results)
        assert shown.exit_code == 0, shown.output
        assert sorted(path.name for path in folder.iterdir()) == ["dynax_s.layer0.window0.json.gz", "dynax_s.layer2.window0.json.gz"]
        files = [json.loads(gzip.decompress(path.read_bytes())) for path in sorted(folder.iterdir())]
        record = read_result(results / "dynax_s.json")
        assert [file["total_cycles"] for file in files] == [one.result.cycles for one in record.runs]
        assert [file["busy_cycles"] for file in files] == [one.result.busy for one in record.runs]
        events[engine] = [file["traceEvents"] for file in files]
    assert events["compiled"] == events["event"]


def table_rows(shown: Result) -> list[list[str]]:
    """Cells of the table of machines."""
    return [line.split() for line in shown.stdout.splitlines() if "native" in line.split()]


def test_every_shipped_machine_file_runs_on_one_trace_and_ends_in_one_table(trace: Path, tmp_path: Path) -> None:
    files = sorted(ACCELERATORS.glob("*.yaml"))
    shown = run("simulate", *files, "--trace", trace, "--layers", 0, "--out", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    assert [row[0] for row in table_rows(shown)] == [file.stem for file in files]
    assert shown.stdout.count("machine  ") == 1


def test_both_forms_of_the_command_do_the_same(trace: Path, tmp_path: Path) -> None:
    assert run("simulate", trace, "-m", "sanger", "-m", "dense", "--out", tmp_path / "one").exit_code == 0
    assert run("simulate", "sanger", "dense", "-t", trace, "--out", tmp_path / "two").exit_code == 0
    assert run("simulate", trace, "sanger", "-m", "dense", "--out", tmp_path / "three").exit_code == 0
    for name in ("sanger.json", "dense.json"):
        one, two, three = (read_result(tmp_path / folder / name) for folder in ("one", "two", "three"))
        assert one == two == three


def test_a_decode_is_a_file_of_its_own_with_a_run_for_each_layer_and_token(trace: Path, tmp_path: Path) -> None:
    shown = run("simulate", "dynax_s", "dense", "-t", trace, "--decode", 3, "--out", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    assert "3 tokens decoded" in shown.stdout and "ms/token" in shown.stdout
    record = read_result(tmp_path / "results" / "dynax_s.decode.json")
    assert record.phase == "decode"
    assert [(run.layer, run.query_tokens, run.key_tokens) for run in record.runs] == [
        (layer, 1, keys) for layer in range(3) for keys in (126, 127, 128)
    ]
    one = run("simulate", "dynax_s", "-t", trace, "--decode", 3, "--out", tmp_path / "results").stdout
    assert [line.split()[1] for line in one.splitlines() if line.split()[:1] == ["0"]] == ["126", "127", "128"]


def test_a_sample_of_heads_prints_the_total_with_its_interval(trace: Path, tmp_path: Path) -> None:
    shown = run("simulate", "dynax_s", "dense", "-t", trace, "--sample-heads", 2, "--out", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count(" (95 %)") == 4  # a line and a row each
    body = json.loads((tmp_path / "results" / "dynax_s.json").read_text())
    assert body["sampling"] == {"kv_heads": 2, "seed": 0}
    assert body["total_low_cycles"] == body["total_cycles"] == body["total_high_cycles"]  # the model has two


def test_what_one_machine_cannot_serve_is_said_after_the_results_of_the_others(trace: Path, tmp_path: Path, shown_error: Refused) -> None:
    small = tmp_path / "small.yaml"
    small.write_text(re.sub(r"buffer_bytes: \d+, stream", "buffer_bytes: 64, stream", (ACCELERATORS / "dynax_s.yaml").read_text()))
    shown, error = shown_error("simulate", small, "dense", "-t", trace, "--out", tmp_path / "results")
    assert "dense" in shown
    assert error.startswith("xmsim: 1 of 2 machines did not serve this trace: small: kv.buffer_bytes: 64 do not hold K and V")
    assert error.rstrip().endswith(f"the results of the others are in {tmp_path / 'results'}")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["dense.json"]


def test_strict_refuses_a_foreign_mask_by_machine(trace: Path, tmp_path: Path, shown_error: Refused) -> None:
    words = ("simulate", "salo_v2", "sanger", "-t", trace, "--method", "xm", "--layers", 0, "--out", tmp_path / "results")
    _, error = shown_error(*words, "--strict")
    assert "salo_v2: method.picks: 3 a row" in error and "the least that reach all" in error
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["sanger.xm.json"]
    loose = run(*words)
    assert loose.exit_code == 0 and "mask not native" in loose.stdout and "coverage from 0." in loose.stdout


def test_projections_that_are_simulated_have_rows_of_their_own_in_every_layer(trace: Path, tmp_path: Path) -> None:
    shipped = (ACCELERATORS / "dense_causal.yaml").read_text()
    (tmp_path / "with_projections.yaml").write_text(shipped.replace("projections: none", "projections: simulated"))
    shown = run("simulate", trace, "--machine", tmp_path / "with_projections.yaml", "--out", tmp_path)
    record = read_result(tmp_path / "with_projections.json")
    assert shown.output.count("input projections") == shown.output.count("output projection") == 2 * len(record.runs)
    assert "projections included" in shown.output
    for layer in record.runs:
        around = sum(phase.cycles for _, phase in layer.result.projection_phases())
        assert around > 0 and layer.result.cycles == around + sum(head.cycles for head in layer.result.heads)
