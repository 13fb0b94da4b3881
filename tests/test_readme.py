"""What the README says in numbers is what the committed records say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_methods_is_that_of_the_records() -> None:
    place = ROOT / "docs" / "make_evaluation_table.py"
    spec = importlib.util.spec_from_file_location("make_evaluation_table", place)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.evaluation_table() in (ROOT / "README.md").read_text(encoding="utf-8")
