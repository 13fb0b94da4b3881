"""docs/host_models.md shows the errors that the CPU model has on the committed record."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("make_host_table", ROOT / "docs" / "make_host_table.py")
assert spec and spec.loader
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_the_errors_on_the_page_are_those_of_the_record() -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.BEGIN in page and script.filled(page) == page, "run: python docs/make_host_table.py"
