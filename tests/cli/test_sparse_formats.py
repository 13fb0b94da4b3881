"""xmsim convert and xmsim prune --sweep, as they are typed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.convert import convert
from xmsim.cli.extract import extract
from xmsim.cli.prune import prune
from xmsim.configs.errors import XmsimError


def run(*words: object) -> Result:
    app = typer.Typer()
    for verb in (convert, extract, prune):
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
        "perplexity_split.png",
        "magnitude_0.25",
        "magnitude_0.4",
        "magnitude_0.5",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--sweep", "much"), "--sweep much: give total sparsities, e.g. 0.3,0.4,0.5"),
        (("--sweep", "1.5"), "total sparsity 1.5 is not a share to split"),
        (("--sweep", "0.5", "--policy", "sinks"), "no policy sinks; did you mean sinks_dense"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused_in_a_sentence(model: Path, tmp_path: Path, words: tuple[str, ...], sentence: str):
    refused = run("prune", model, *words, "--out", tmp_path / "sweep")
    assert isinstance(refused.exception, XmsimError) and sentence in str(refused.exception)
    assert not (tmp_path / "sweep").exists()
