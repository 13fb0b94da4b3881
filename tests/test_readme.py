"""What the documents say in numbers is what committed records and the models say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module of a class
    spec.loader.exec_module(module)
    return module


def test_the_table_of_methods_is_that_of_the_records() -> None:
    assert script("make_evaluation_table").evaluation_table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_headline_comparison_is_what_the_models_give(capsys: pytest.CaptureFixture[str]) -> None:
    script("make_headline").main()
    assert capsys.readouterr().out in (ROOT / "docs" / "headline.md").read_text(encoding="utf-8")
