from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.tune import tune
from xmsim.configs.errors import XmsimError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("thequickbrownfoxjumpsoverthelazydog" * 20)
    return path


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(tune)
    return CliRunner().invoke(app, [str(word) for word in words])


SHORT = ("--steps", 2, "--length", 64, "--batch", 1)


def test_tune_tells_what_it_did_and_the_loss_before_and_after(model: Path, text: Path, tmp_path: Path):
    outcome = run(model, "--text", text, "--out", tmp_path / "tuned", *SHORT)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stderr == ""  # no progress bar where there is no terminal
    done, losses, heads, *table, wrote = outcome.stdout.splitlines()
    assert done.startswith("model  recipe full  method xm  2 steps  126 tokens  ")
    assert losses == "loss on the held-out end, nats a token (8 windows of 64 tokens)"
    assert heads.split() == ["before", "after"]
    dense, sparse, cost = (line.split() for line in table)
    assert (dense[0], sparse[0], cost[:3]) == ("dense", "xm", ["cost", "of", "xm"])
    assert float(cost[3]) == pytest.approx(float(sparse[1]) - float(dense[1]), abs=1.1e-4)
    assert float(cost[6]) == pytest.approx(float(sparse[2]) - float(dense[2]), abs=1.1e-4)
    assert wrote == f"wrote {tmp_path / 'tuned'}"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers by an old name
def test_an_adapter_is_tuned_and_merged_by_the_command_it_prints(model: Path, text: Path, tmp_path: Path):
    pytest.importorskip("peft")
    tuned = run(model, "--lora", "--text", text, "--out", tmp_path / "adapter", "--dtype", "float32", *SHORT)
    assert tuned.exit_code == 0, tuned.output
    command = tuned.stdout.splitlines()[-1].partition("xmsim tune ")[2].split()
    assert command == ["--merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "adapter-merged")]
    merged = run(*command)
    assert merged.exit_code == 0, merged.output
    assert merged.stdout == f"model  adapter {tmp_path / 'adapter'} merged in float32  {tmp_path / 'adapter-merged'}\n"
    assert (tmp_path / "adapter-merged" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lora", "--qlora"], "--recipe, --lora and --qlora each choose a recipe; give one of them"),
        (["--recipe", "full", "--lora"], "--recipe, --lora and --qlora each choose a recipe; give one of them"),
        (["--qlora"], "4-bit weights (--qlora) need an NVIDIA GPU: use --device cuda, or --lora"),
        (["--recipe", "fulll"], "no recipe fulll; did you mean full?"),
        (["--epochs", 1], "recipe full with its overrides: give either steps"),
        (["--rate", -1], "recipe full with its overrides: rate: input should be greater than 0 (got -1.0)"),
        (["--dtype", "float16"], "dtype: input should be 'float32' or 'bfloat16'"),
        (["--method", "xm_23"], "no method xm_23; did you mean xm_32?"),
        (["--length", 5000], "reads at most 2048 tokens"),
    ],
)
def test_bad_options_are_one_sentence(model: Path, text: Path, tmp_path: Path, options: list[object], sentence: str):
    outcome = run(model, "--text", text, "--out", tmp_path / "tuned", *SHORT, *options)
    assert isinstance(outcome.exception, XmsimError)
    assert sentence in str(outcome.exception) and "\n" not in str(outcome.exception)
    assert not (tmp_path / "tuned").exists() and not (tmp_path / "tuned.part").exists()


def test_a_model_is_asked_for(tmp_path: Path):
    assert "name the model to tune, or an adapter to --merge" in str(run("--out", tmp_path / "tuned").exception)
