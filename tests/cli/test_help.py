"""What --help says, and that saying it loads nothing heavy: a terminal should not wait for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# each costs more than all else that --help needs, or leads to what does
HEAVY = (
    "asyncio",
    "importlib.metadata",
    "logging",
    "markdown_it",
    "matplotlib",
    "multiprocessing",
    "numba",
    "numpy",
    "pydantic",
    "pygments",
    "rich",
    "safetensors",
    "simpy",
    "sqlite3",
    "tempfile",
    "torch",
    "transformers",
    "unittest",
    "yaml",
)
CODE = """
import json, sys
from xmsim.cli import main
sys.argv = ["xmsim", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def helped(*words: str) -> tuple[str, list[str]]:
    """What xmsim prints, and the modules that are loaded by then."""
    ran = subprocess.run([sys.executable, "-c", CODE, json.dumps(words)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, json.loads(ran.stderr.splitlines()[-1])


def test_help_loads_nothing_heavy() -> None:
    printed, modules = helped("--help")
    assert "Usage: xmsim" in printed and "xmsim.cli" in modules
    assert [name for name in HEAVY if name in modules] == []
    assert not [name for name in modules if name.startswith(("xmsim.sim", "xmsim.workloads", "xmsim.accel_models", "xmsim.reports"))]


def test_help_of_a_verb_loads_nothing_that_the_verb_runs_with() -> None:
    printed, modules = helped("simulate", "--help")
    assert "Usage: xmsim simulate" in printed
    assert [name for name in ("numpy", "numba", "torch", "simpy", "rich", "xmsim.sim", "xmsim.accel_models") if name in modules] == []


def test_the_list_of_verbs_says_whole_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = helped("--help")[0]
    assert "... " not in printed and "...\n" not in printed.partition("\n")[2]
    assert "bytes for every layer and head.\n" in printed


def test_an_example_stands_on_one_line_however_narrow_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    (line,) = [line for line in helped("tune", "--help")[0].splitlines() if "Example:" in line]
    assert line.strip().endswith("--out xm-tiny-tuned")


def test_the_short_option_says_the_same_as_help() -> None:
    assert helped("-h")[0] == helped("--help")[0]
    assert helped("trace", "info", "-h")[0] == helped("trace", "info", "--help")[0]


@pytest.mark.parametrize(("typed", "offered"), [("xmsim si", "simulate"), ("xmsim simulate --eng", "--engine"), ("xmsim trace i", "info")])
def test_a_shell_completes_verbs_and_options(typed: str, offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_XMSIM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    ran = subprocess.run([sys.executable, "-c", CODE, "[]"], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == [offered], ran.stderr
