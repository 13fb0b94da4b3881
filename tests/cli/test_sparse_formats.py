"""xmsim convert and xmsim prune --sweep, as they are typed."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.convert import convert
from xmsim.cli.extract import extract
from xmsim.cli.measure import measure
from xmsim.cli.prune import prune
from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.measuring.generation_record import read_generation


def run(*words: object) -> Result:
    app = typer.Typer()
    for verb in (convert, extract, measure, prune):
        app.command()(verb)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("thequickbrownfoxjumpsoverthelazydog" * 20)
    return path


def test_convert_says_what_it_wrote_and_extract_reads_it(model: Path, text: Path, tmp_path: Path):
    done = run("convert", model, "--format", "spdp", "--out", tmp_path / "packed")
    assert done.exit_code == 0, done.output
    line, wrote = done.stdout.splitlines()
    assert line.startswith("model  spdp  float32  21 layers  density 1.0000  ") and line.endswith(" bits a weight")
    assert wrote == f"wrote {tmp_path / 'packed'}"
    traced = run("extract", tmp_path / "packed", "--text", text, "--tokens", 64, "--activations", "--weights", "--out", tmp_path / "trace")
    assert traced.exit_code == 0, traced.output
    assert "activation histograms  21 linear layers" in traced.stdout and "weight bitmaps  3 of 3 layers" in traced.stdout


def test_convert_refuses_a_format_that_is_none(model: Path, tmp_path: Path):
    refused = run("convert", model, "--format", "tcbme", "--out", tmp_path / "packed")
    assert isinstance(refused.exception, XmsimError)
    assert "no format tcbme; did you mean tcabme" in str(refused.exception)


def test_a_sweep_writes_its_table_and_its_plot(model: Path, text: Path, tmp_path: Path):
    words = ["--text", text, "--samples", 2, "--length", 32, "--windows", 2, "--method", "magnitude", "--out", tmp_path / "sweep"]
    swept = run("prune", model, "--sweep", "0.4,0.5", "--step", 0.25, "--policy", "sinks_dense", *words)
    assert swept.exit_code == 0, (swept.output, swept.exception)
    with (tmp_path / "sweep" / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["s1", "s2", "Uniform_PPL", "static_sparsity", "dynamic_sparsity", "total_sparsity"]
    assert [row["s1"] for row in rows] == ["0.0", "0.0", "0.0", "0.25", "0.25", "0.4", "0.5"]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {
        "splits.csv",
        "splits.json",
        "perplexity_split.png",
        "perplexity_split.pdf",
        "magnitude_0.25",
        "magnitude_0.4",
        "magnitude_0.5",
    }


def test_a_second_run_times_decoding_of_the_rows_that_are_there(model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["--text", text, "--samples", 2, "--length", 32, "--windows", 2, "--method", "magnitude", "--out", tmp_path / "sweep"]
    asked = ("prune", model, "--sweep", "0.5", "--step", 0.5, *words)
    assert run(*asked).exit_code == 0
    table = (tmp_path / "sweep" / "splits.csv").read_text()
    monkeypatch.setattr("xmsim.workloads.quality.spdp_sweep.evaluate_model", None)
    timed = run(*asked, "--tpot")
    assert timed.exit_code == 0, (timed.output, timed.exception)
    assert (tmp_path / "sweep" / "splits.csv").read_text() == table and (tmp_path / "sweep" / "perplexity_tpot.png").exists()
    with (tmp_path / "sweep" / "split_times.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["s1"], row["s2"]) for row in rows] == [("0.0", "0.0"), ("0.0", "0.5"), ("0.5", "0.0")]
    assert all(float(row["TPOT_ms"]) > 0 for row in rows)
    other = run(*asked, "--policy", "sinks_dense")
    assert "splits.json: holds a sweep with another policy" in str(other.exception)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--sweep", "0.5", "--tpot", "--device", "cuda"), "--tpot: decoding is timed on the CPU, device cuda was asked for"),
        (("--sparsity", "0.5", "--tpot"), "--tpot times the splits of --sweep"),
        (("--sweep", "much"), "--sweep much: give total sparsities, e.g. 0.3,0.4,0.5"),
        (("--sweep", "1.5"), "total sparsity 1.5 is not a share to split"),
        (("--sweep", "0.5", "--policy", "sinks"), "no policy sinks; did you mean sinks_dense"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused_in_a_sentence(model: Path, tmp_path: Path, words: tuple[str, ...], sentence: str):
    refused = run("prune", model, *words, "--out", tmp_path / "sweep")
    assert isinstance(refused.exception, XmsimError) and sentence in str(refused.exception)
    assert not (tmp_path / "sweep").exists()


QUICK = ("--device", "cpu", "--input-tokens", 6, "--max-new-tokens", 2, "--repeat", 2, "--warmup", 0, "--threads", 1)


@pytest.fixture(scope="module")
def pruned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of its weights zero, and histograms of what its layers read in `trace` beside it."""
    folder = tmp_path_factory.mktemp("formats")
    text = folder / "text.txt"
    text.write_text("thequickbrownfoxjumpsoverthelazydog" * 20)
    for words in (
        ("prune", model, "--method", "magnitude", "--sparsity", 0.5, "--out", folder / "pruned"),
        ("extract", folder / "pruned", "--text", text, "--tokens", 64, "--activations", "--out", folder / "trace"),
    ):
        done = run(*words)
        assert done.exit_code == 0, (done.output, done.exception)
    return folder / "pruned"


@pytest.mark.skipif(native.library() is None, reason="no compiled kernels")
@pytest.mark.parametrize(("format", "dtype"), [("spdp", "float16"), ("tcabme", "bfloat16"), ("tcabme", "float16"), ("bitmap", "float32")])
def test_a_pruned_folder_is_measured_in_a_format_and_its_packed_folder_too(pruned: Path, tmp_path: Path, format: str, dtype: str):
    dynamic = ["--dynamic-sparsity", 0.5, "--histograms", pruned.parent / "trace"] if format == "spdp" else []
    options = ["--format", format, *dynamic, "--dtype", dtype, *QUICK, "--out", tmp_path / "out.json"]
    assert run("convert", pruned, "--format", format, "--out", tmp_path / "packed").exit_code == 0
    for folder in (pruned, tmp_path / "packed"):
        measured = run("measure", folder, *options)
        assert measured.exit_code == 0, (measured.output, measured.exception)
        record = read_generation(tmp_path / "out.json")
        torch, ours = record.generations
        assert (torch.kernel, ours.kernel, ours.exchanged_layers) == ("torch", format, 21)
        assert ours.time_to_first_token.median_ms > 0 and ours.p50_ms > 0
        assert (record.conditions["dtype"], record.conditions["dynamic_sparsity"]) == (dtype, 0.5 if dynamic else None)
        assert record.model["weights"] == "trained"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--format", "tcabme", "--device", "cuda"), "torch finds no CUDA GPU on this host; use --device cpu"),
        (("--format", "tcabme", "--device", "tpu"), "device: no tpu; choose cpu or cuda"),
        (("--format", "2:4", "--allow-dense"), "cannot be stored as 2:4"),
        (("--format", "csr", "--allow-dense"), "no format csr; linear layers are stored as bitmap"),
        (("--format", "tcabme", "--dynamic-sparsity", 0.5, "--histograms", "nowhere"), "kernels spdp and teal alone skip inputs"),
        (("--format", "teal", "--allow-dense"), "format teal does not run on the CPU"),
    ],
)
def test_a_measurement_that_cannot_be_made_is_refused_in_a_sentence(
    model: Path, tmp_path: Path, words: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = run("measure", model, "--out", tmp_path / "out.json", *words)
    assert isinstance(refused.exception, XmsimError) and sentence in str(refused.exception)
    assert not (tmp_path / "out.json").exists()


def test_an_export_of_nsys_is_shown_and_one_that_is_none_refused(tmp_path: Path):
    path = tmp_path / "run.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, shortName INTEGER)")
        database.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER)")
        database.execute("INSERT INTO StringIds VALUES (1, 'spdp_columns')")
        database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, 1)", [(1000, 2000), (3000, 3500)])
        database.execute("INSERT INTO NVTX_EVENTS VALUES (0, 5000, 'token 0', NULL)")
        database.commit()
    shown = run("measure", "--nsys", path)
    assert shown.exit_code == 0, shown.output
    assert "spdp_columns" in shown.output and "decoded tokens" in shown.output
    refused = run("measure", "--nsys", tmp_path / "none.sqlite")
    assert isinstance(refused.exception, XmsimError) and "No such file" in str(refused.exception)


def test_experiments_at_several_sparsities_are_drawn(model: Path, tmp_path: Path):
    table, folder = tmp_path / "table.csv", tmp_path / "runs"
    lines = ("model,kernel,sparsity,batch,context,threads,dtype", *(f"{model},tcabme,{share},1,6,1,float32" for share in (0.3, 0.6)))
    table.write_text("\n".join(lines) + "\n")
    measured = run("measure", "--experiments", table, "--out", folder, "--allow-dense", *QUICK)
    assert measured.exit_code == 0, (measured.output, measured.exception)
    (drawn,) = folder.glob("tpot_sparsity_*.csv")
    with drawn.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["layers"], row["sparsity"]) for row in rows] == [("tcabme", "0.3"), ("tcabme", "0.6"), ("torch", "0.3"), ("torch", "0.6")]
    assert {path.suffix for path in folder.glob("tpot_sparsity_*")} == {".csv", ".png", ".pdf"}
