"""xmsim show: what comes with xmsim, to be read or copied."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xmsim.accel_models import load_accelerator
from xmsim.cli import main
from xmsim.configs.shipped import find_config, shipped_folders, shipped_names


def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit status, what was printed, and what was complained about."""
    monkeypatch.setattr(sys, "argv", ["xmsim", "show", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


def test_every_shipped_file_is_listed_with_its_folder(monkeypatch, capsys):
    _, said, _ = show(monkeypatch, capsys)
    listed = {line.split()[0]: tuple(line.split()[1:]) for line in said.splitlines()}
    assert listed == {folder: shipped_names(folder) for folder in shipped_folders()}
    assert "dynax_s" in listed["accelerators"] and "xm" in listed["methods"]


def test_a_copy_is_the_same_machine(tmp_path: Path, monkeypatch, capsys):
    copy = tmp_path / "mine.yaml"
    assert show(monkeypatch, capsys, "dynax_s", "--out", copy) == (0, f"wrote {copy}\n", "")
    assert load_accelerator(copy).config == load_accelerator("dynax_s").config
    assert show(monkeypatch, capsys, "dynax_s")[1] == copy.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["methods/sanger", "accelerators/sanger.yaml"])
def test_a_name_that_two_folders_have_is_told_apart_by_the_folder(monkeypatch, capsys, name):
    folder, _, stem = name.removesuffix(".yaml").partition("/")
    assert show(monkeypatch, capsys, name)[1] == find_config(folder, stem, "file").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sanger"], "say accelerators/sanger or methods/sanger"),
        (["dynax_x"], "no file dynax_x comes with xmsim; did you mean"),
        (["methods/dynax_s"], "no file methods/dynax_s comes with xmsim"),
        (["../pyproject"], "no file ../pyproject comes with xmsim"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(monkeypatch, capsys, words, sentence):
    status, said, complaint = show(monkeypatch, capsys, *words)
    assert (status, said) == (2, "") and sentence in complaint and complaint.count("\n") == 1


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text("mine")
    status, _, complaint = show(monkeypatch, capsys, "dynax_s", "--out", mine)
    assert status == 2 and "exists and is not overwritten" in complaint and mine.read_text() == "mine"
