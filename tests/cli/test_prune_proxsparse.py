from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.prune import prune
from xmsim.configs.errors import XmsimError
from xmsim.workloads.pruning.record import read_pruning

pytest.importorskip("torch")
pytest.importorskip("transformers")


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(prune)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_options_replace_what_the_preset_says(model: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("thequickbrownfoxjumpsoverthelazydog" * 20)
    options = (
        "--lambda1",
        0.5,
        "--lambda2",
        0.25,
        "--epsilon",
        0.5,
        "--project-lambda2",
        "--ctx-len",
        32,
        "--samples",
        4,
        "--batch-size",
        2,
    )
    more = ("--lr", 3e-4, "--dtype", "float32", "--text", text, "--out", tmp_path / "pruned")
    outcome = run(model, "--method", "proxsparse", "--preset", "llama2-7b", *options, *more)
    assert outcome.exit_code == 0, outcome.output
    settled, done, wrote = outcome.stdout.splitlines()
    assert settled.endswith("of the blocks of four had at most two weights when training ended")
    assert done.startswith("model  proxsparse  pattern 2:4  4 samples of 32 tokens  21 layers  23040 weights  sparsity 0.5000  ")
    assert wrote == f"wrote {tmp_path / 'pruned'}"
    said = read_pruning(tmp_path / "pruned").method
    assert (said["lambda1"], said["lambda2"], said["epsilon"], said["length"], said["samples"], said["batch"]) == (0.5, 0.25, 0.5, 32, 4, 2)
    assert (said["preset"], said["rate"], said["dtype"], said["clip"]) == ("llama2-7b", 3e-4, "float32", 1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--method", "wanda", "--lambda1", 0.5], "--lr are for --method proxsparse"),
        (["--method", "proxsparse", "--pattern", "4:8"], "trains every layer to 2:4; leave --pattern, --sparsity and --budget out"),
        (["--method", "proxsparse", "--sparsity", 0.6], "trains every layer to 2:4"),
        (["--method", "proxsparse", "--sweep", "0.5"], "--sweep prunes to many sparsities, method proxsparse to 2:4 only"),
        (["--method", "proxsparse", "--preset", "llama2"], "no preset llama2; did you mean llama2-7b"),
        (["--method", "proxsparse"], "no preset .*model; known are .* give a .yaml file"),
        (["--method", "proxsparse", "--preset", "llama2-7b", "--project-lambda2"], "--project-lambda2: preset llama2-7b has lambda2 0"),
        (["--method", "proxsparse", "--preset", "llama2-7b"], "model: reads at most 2048 tokens, samples of 4096 were asked for"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence(model: Path, tmp_path: Path, options: list[object], sentence: str):
    outcome = run(model, "--out", tmp_path / "pruned", *options)
    assert isinstance(outcome.exception, XmsimError)
    with pytest.raises(XmsimError, match=sentence) as refusal:
        raise outcome.exception
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
