"""The documents: they build into a site that fetches nothing, run as printed, and say in numbers what records and models say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.test_readme import script

from xmsim.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "getting_started.md", *sorted((DOCS / "tutorials").glob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"(<!-- slow -->\n)?```bash\n(.*?)```", re.DOTALL)
FETCHED = (  # what a browser fetches by itself
    re.compile(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//", re.IGNORECASE),
    re.compile(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//", re.IGNORECASE),
    re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", re.IGNORECASE),
    re.compile(r"(?:fetch|importScripts|import)\([\"'](?:https?:)?//", re.IGNORECASE),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; a link that leads nowhere stops it."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("torch")  # public functions of kernels are described
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_and_holds_every_page(site: Path) -> None:
    pages = [path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")]
    assert [page for page in pages if not (site / page).exists()] == []
    assert {"cli.html", "python.html", "records.html", "shipped.html"} <= {path.name for path in (site / "reference").iterdir()}


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text(encoding="utf-8")
            assert [found[0] for pattern in FETCHED for found in [pattern.search(text)] if found] == [], path


def test_the_reference_names_every_verb_and_every_public_name(site: Path) -> None:
    from xmsim import cli, reference, workloads  # noqa: F401 (the package must be there)

    commands = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    app = cli._app()
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    verbs += [f"{group.name} " for group in app.registered_groups]
    assert len(verbs) > 10
    for verb in verbs:
        assert f"xmsim {verb}" in commands
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in workloads.__all__:
        assert f">{name}<" in python


def test_the_tables_of_reproduction_are_those_of_records_and_models() -> None:
    text = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    assert script("make_reproduction").filled(text) == text, "run: python docs/make_reproduction.py"


def test_a_value_beyond_its_tolerance_is_said_not_to_be_reproduced() -> None:
    row = script("make_reproduction").Row
    assert row("x", 2.0, 2.1, 0.1, "command").reproduced == "yes"
    assert row("x", 2.0, 2.3, 0.1, "command").reproduced == "**no**"
    assert row("x", 2.0, 2.0, None, "command").reproduced == "other conditions"


@pytest.fixture(scope="module")
def traces() -> dict[str, Path]:
    """What `xmsim extract` wrote, by its command: pages begin with the same one."""
    return {}


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=lambda page: page.stem)
def test_a_page_runs_as_printed(
    page: Path, traces: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Commands, but for the blocks marked as slow unless XMSIM_SLOW_DOCS is set, and then the Python as one script."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    run = runner(monkeypatch, tmp_path)
    for slow, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if slow and not os.environ.get("XMSIM_SLOW_DOCS"):
            continue
        for line in block.strip().splitlines():
            out = tmp_path / line.rpartition(" --out ")[2]
            if line in traces:
                shutil.copytree(traces[line], out)
                continue
            assert run(line) == 0, f"{line}\n{capsys.readouterr().err}"
            if line.startswith("xmsim extract"):
                traces[line] = out
    assert "Traceback" not in capsys.readouterr().err
    code = "\n".join(PYTHON.findall(page.read_text(encoding="utf-8")))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr


def runner(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[str], int]:
    """Runs a line of a page, xmsim's in this process; gives its exit status."""

    def run(line: str) -> int:
        if not line.startswith("xmsim "):
            python = line.replace("python ", f"{shlex.quote(sys.executable)} ", 1) if line.startswith("python ") else line
            return subprocess.run(["bash", "-c", python], cwd=folder, check=False).returncode
        words = [match for word in shlex.split(line)[1:] for match in (sorted(map(str, folder.glob(word))) if "*" in word else [word])]
        monkeypatch.setattr(sys, "argv", ["xmsim", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return run
