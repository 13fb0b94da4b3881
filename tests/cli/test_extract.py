from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from xmsim.cli.extract import extract
from xmsim.cli.trace import info
from xmsim.configs.errors import XmsimError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("thequickbrownfoxjumpsoverthelazydog" * 4)
    return path


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(extract)
    app.command()(info)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_extract_prints_one_line_with_units_and_info_tells_the_rest(model: Path, text: Path, tmp_path: Path):
    trace = tmp_path / "trace"
    extracted = run(
        "extract",
        model,
        "--text",
        text,
        "--tokens",
        64,
        "--windows",
        2,
        "--layers",
        "0,2",
        "--heads",
        "1,3",
        "--dtype",
        "bfloat16",
        "--out",
        trace,
    )
    assert extracted.exit_code == 0, extracted.output
    assert extracted.stderr == ""  # no progress bar where there is no terminal
    assert extracted.stdout == f"model  2 layers  2 heads on 2 KV heads  2 × 64 tokens  bfloat16  0.0 MB  {trace}\n"

    shown = run("info", trace, "--method", "xm", "--method", "dense")
    assert shown.exit_code == 0, shown.output
    assert "q is [windows, heads, tokens, head_dim] [2, 2, 64, 8], k and v are [2, 2, 64, 8]" in shown.stdout
    tables = shown.stdout.split("xm: blocks of 64 keys")[1].split("dense: blocks of 64 keys")
    assert len(tables) == 2
    for table in tables:
        assert [line.split()[0] for line in table.splitlines()[2:5]] == ["0", "2", "all"]
    # dense, all layers: density 100 %, full density 65 / 128, kv density 100 %, no empty block, every tile live; unions of the last
    # row of 1, 4, 16, 64 and 128 (64 there are); 2080 pairs fill 160 sub-rows of 16
    unions = ["32.5", "34.0", "40.0", "64.0", "64.0"]
    assert tables[1].splitlines()[4].split() == ["all", "100.0", "50.8", "100.0", "0.0", *["100.0"] * 5, *unions, "81.2"]
    # a KV head's one head: unions of the last row of 1, 16 and 32
    together = tables[1].split("dense: 1 query head of a KV head together")[1].splitlines()
    assert together[4].split() == ["all", *["100.0"] * 3, "32.5", "40.0", "48.0", "1.00"]


def test_info_keeps_statistics_and_predictions_of_a_gpu_in_a_file(model: Path, text: Path, tmp_path: Path):
    from xmsim.workloads.methods.mask_record import GROUP_ROWS, read_masks

    run("extract", model, "--text", text, "--tokens", 64, "--layers", "0,2", "--out", tmp_path / "trace")
    shown = run("info", tmp_path / "trace", "--method", "dense", "--method", "nm", "--gpu", "h200", "--out", tmp_path / "masks.json")
    assert shown.exit_code == 0, shown.output
    assert "h200: predicted by constants that nothing validates" in shown.stdout
    assert shown.stdout.endswith(f"wrote {tmp_path / 'masks.json'}\n")
    record = read_masks(tmp_path / "masks.json")
    assert [one.method["name"] for one in record.methods] == ["dense", "nm"]
    assert (record.gpu, record.group_rows, record.trace["path"]) == ("h200", GROUP_ROWS, "trace")
    dense, pruned = ([layer.statistics for layer in one.layers] for one in record.methods)
    assert len(dense) == len(pruned) == 2
    assert dense[0].unions[3] == 64 > pruned[0].unions[0] > 0 and dense[0].gather_turns == 1 < pruned[0].gather_turns
    for layer in record.methods[0].layers:  # every tile is live, and skipping costs something
        assert layer.gpu.skipping_ms > layer.gpu.dense_ms > 0.003


def test_masks_and_weights_are_a_line_each_with_their_maker_and_info_repeats_them(model: Path, text: Path, tmp_path: Path):
    trace = tmp_path / "trace"
    extracted = run(
        "extract", model, "--text", text, "--tokens", 64, "--layers", "1", "--out", trace, "--masks", "topk,xm:1_2_4bit", "--weights"
    )
    assert extracted.exit_code == 0, extracted.output
    lines = extracted.stdout.splitlines()[1:]
    maker = r"(numpy|native \w+)  \d+\.\d\d ms a layer  0\.0 MB"
    assert re.fullmatch(rf"mask topk  1 of 1 layers  8320 pairs  {maker}", lines[0])
    assert re.fullmatch(rf"mask xm, 4-bit 1:2  1 of 1 layers  \d+ pairs  {maker}", lines[1])
    assert re.fullmatch(rf"weight bitmaps  1 of 1 layers  \d+ nonzero weights  {maker}", lines[2])
    shown = run("info", trace, "--method", "dense").stdout.splitlines()
    assert set(lines) <= set(shown)


def test_info_shows_every_shipped_method_by_default(model: Path, text: Path, tmp_path: Path):
    from xmsim.workloads.methods.library import shipped_methods

    run("extract", model, "--text", text, "--tokens", 64, "--out", tmp_path / "trace")
    shown = run("info", tmp_path / "trace").stdout
    assert [f"{name}: blocks" in shown for name in shipped_methods()] == [True] * len(shipped_methods())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layers", "first"], "--layers first: write numbers and ranges, e.g. 0-3,5"),
        (["--layers", "2-1"], "--layers 2-1: no layer chosen"),
        (["--heads", "0-"], "--heads 0-: write numbers and ranges"),
        (["--layers", "2-3"], "model: no layer 3; it has layers 0 to 2"),
        (["--dtype", "int8"], "no storage dtype int8"),
        (["--tokens", "200"], "has 140 tokens, too short for 1 × 200"),
    ],
)
def test_bad_options_are_one_sentence(model: Path, text: Path, tmp_path: Path, options: list[str], sentence: str):
    outcome = run("extract", model, "--text", text, "--tokens", 64, "--out", tmp_path / "trace", *options)
    assert isinstance(outcome.exception, XmsimError)
    assert sentence in str(outcome.exception) and "\n" not in str(outcome.exception)
    assert not (tmp_path / "trace").exists()
