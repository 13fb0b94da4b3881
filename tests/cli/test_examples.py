"""The example under each verb's --help works as printed, one after the other in an empty folder."""

import re
import shlex
import sys

import pytest

import xmsim
from xmsim.cli import main
from xmsim.reference.kernels.native import offered_isa

MEASURES_FOR_A_MINUTE = {"calibrate"}  # its steps are shortened in test_calibrate.py
ORDER = [
    "doctor",
    "show",
    "extract",
    "trace info",
    "simulate",
    "sweep",
    "explain",
    "measure",
    "evaluate",
    "tune",
    "prune",
    "convert",
    "compare",
    "diff",
    "demo",
]


def run(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["xmsim", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def example_of(verb, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, [*verb.split(), "--help"]) == 0
    (example,) = re.findall(r"Example:\s+xmsim (.+)", capsys.readouterr().out)
    return example.strip()


def test_examples_work_as_printed(monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for verb in ORDER:
        example = example_of(verb, monkeypatch, capsys)
        assert example.startswith(verb)
        words = [match for word in shlex.split(example) for match in (sorted(map(str, tmp_path.glob(word))) if "*" in word else [word])]
        assert run(monkeypatch, words) == 0, example
        printed = capsys.readouterr().out
        assert printed
    assert (tmp_path / "report" / "report.html").exists()
    summary = printed.split("\n\n")[-1].strip().splitlines()
    (sure,) = (line for line in summary if line.startswith("How sure: "))
    assert "Perplexity over dense: " in sure and "± " in sure and "not known" not in sure
    assert len(summary) <= 10 and (tmp_path / "xmsim-demo" / "report" / "report.html").exists()
    for start in ("How much faster than what you have: ", "CPU dense attention", "CPU sparse attention"):
        assert any(line.startswith(start) for line in summary), start
    results = {path.name for path in (tmp_path / "xmsim-demo" / "results").iterdir()}
    decoded = {"dynax_l.decode.json", "dense_causal.decode.json"} | ({"host.decode.json"} if offered_isa() else set())
    assert results == {"dynax_s.json", "dynax_l.json", "dense.json", "dense_causal.json", "host.json", "evaluation.json"} | decoded


def test_every_verb_is_in_this_list(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, ["--help"]) == 0
    verbs = re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert set(verbs) == {verb.split()[0] for verb in ORDER} | MEASURES_FOR_A_MINUTE


def test_version_needs_no_verb(monkeypatch, capsys):
    assert run(monkeypatch, ["--version"]) == 0
    assert capsys.readouterr().out == f"xmsim {xmsim.__version__}\n"
