from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.evaluate import evaluate
from xmsim.cli.prune import prune
from xmsim.configs.errors import XmsimError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("thequickbrownfoxjumpsoverthelazydog" * 20)
    return path


def run(verb: object, *words: object) -> Result:
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_model_is_pruned_to_a_pattern_that_evaluate_finds_in_it(model: Path, text: Path, tmp_path: Path):
    pruned = run(prune, model, "--pattern", "2:4", "--text", text, "--samples", 2, "--length", 64, "--out", tmp_path / "pruned")
    assert pruned.exit_code == 0, pruned.output
    assert pruned.stderr == ""  # no progress bar where there is no terminal
    done, wrote = pruned.stdout.splitlines()
    assert done.startswith("model  wanda  pattern 2:4  2 samples of 64 tokens  21 layers  23040 weights  sparsity 0.5000  ")
    assert wrote == f"wrote {tmp_path / 'pruned'}"
    options = ("--text", text, "--length", 64, "--windows", 1, "--method", "dense", "--out", tmp_path / "evaluation")
    outcome = run(evaluate, tmp_path / "pruned", *options)
    assert outcome.exit_code == 0, outcome.output
    assert "pattern 2:4: 5760 of 5760 groups obey it, all of them in 21 of 21 layers" in outcome.stdout

    other = run(evaluate, tmp_path / "pruned", "--pattern", "1:4", *options)
    assert "pattern 1:4: 0 of 5760 groups obey it, all of them in 0 of 21 layers" in other.stdout
    assert "  model.layers.0.self_attn.q_proj: 0 of 256, 0.00 %" in other.stdout
    dense = run(evaluate, model, *options)
    assert dense.exit_code == 0 and "pattern" not in dense.stdout

    twice = run(prune, tmp_path / "pruned", "--method", "magnitude", "--sparsity", 0.75, "--out", tmp_path / "twice")
    assert "21 layers had zeros already, 0.5000 of each on average; they count towards the sparsity" in twice.stdout
    assert "  no text read  " in twice.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sparsity", 1.5], "sparsity 1.5: a share of the weights is needed"),
        (["--pattern", "3:7"], "are not divided into blocks of 7"),
        (["--sparsity", 0.5, "--method", "obs"], "no pruning method obs; "),
        (["--sparsity", 0.5, "--text", "missing.txt"], "missing.txt: cannot be read"),
        (["--sparsity", 0.5, "--length", 5000], "reads at most 2048 tokens"),
    ],
)
def test_bad_options_are_one_sentence(model: Path, tmp_path: Path, options: list[object], sentence: str):
    outcome = run(prune, model, "--out", tmp_path / "pruned", *options)
    assert isinstance(outcome.exception, XmsimError)
    assert sentence in str(outcome.exception) and "\n" not in str(outcome.exception)
    assert not (tmp_path / "pruned").exists()


def test_a_folder_that_holds_something_is_left_alone(model: Path):
    outcome = run(prune, model, "--sparsity", 0.5, "--out", model)
    assert isinstance(outcome.exception, XmsimError) and "exists and is not empty" in str(outcome.exception)
