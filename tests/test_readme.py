"""What the documents say in numbers is what committed records and the models say."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from xmsim.reports.figures.perplexity_density import perplexity_density
from xmsim.workloads.evaluation import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(\d+(?:\.\d+)?)×?")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module of a class
    spec.loader.exec_module(module)
    return module


def test_the_table_of_methods_is_that_of_the_records() -> None:
    assert script("make_evaluation_table").evaluation_table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_kernels_are_those_of_the_records() -> None:
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    for table in script("make_kernel_tables").TABLES:
        assert table() in page


@pytest.mark.parametrize("page", script("make_numbers_in_prose").PAGES)
def test_what_running_text_says_in_numbers_is_what_the_records_hold(page: str) -> None:
    assert script("make_numbers_in_prose").missing(page) == [], "run: python docs/make_numbers_in_prose.py"


def test_the_numbers_of_the_density_figure_are_those_of_the_record() -> None:
    record = read_evaluation(ROOT / "reports" / "measured" / "evaluation_xm_tiny.json")
    assert perplexity_density(record).csv() == (ROOT / "docs" / "figures" / "perplexity_density.csv").read_text(encoding="utf-8")


def test_the_numbers_of_the_speedup_figure_are_what_the_machines_give(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # extracts the trace
    made = script("make_speedup_figure").figure(tmp_path).csv()
    written = (ROOT / "docs" / "figures" / "speedup_simulated.csv").read_text(encoding="utf-8")
    ours, theirs = ([row.items() for row in csv.DictReader(io.StringIO(text))] for text in (made, written))
    assert len(ours) == len(theirs) > 30
    for row, other in zip(ours, theirs, strict=True):
        for (column, value), (same, stated) in zip(row, other, strict=True):
            assert column == same
            if re.fullmatch(r"[0-9.e+-]+", value):  # floats of a model differ in their last bits from host to host
                assert float(value) == pytest.approx(float(stated), rel=0.02), "run: python docs/make_speedup_figure.py"
            else:
                assert value == stated


def test_the_headline_comparison_on_synthetic_operands_is_what_the_models_give(capsys: pytest.CaptureFixture[str]) -> None:
    headline = script("make_headline")
    headline.print_tables("synthetic operands", [headline.synthetic_layer()])
    printed = table_cells(capsys.readouterr().out)
    document = (ROOT / "docs" / "headline.md").read_text(encoding="utf-8")
    synthetic, _ = document.split("## MiniLM")  # the rest needs a package that is not there everywhere
    written = table_cells(synthetic)
    assert len(printed) == len(written) > 0
    for ours, theirs in zip(printed, written, strict=True):
        number, other = (NUMBER.fullmatch(cell) for cell in (ours, theirs))
        if number and other:  # sines differ in their last bit from host to host
            assert float(number[1]) == pytest.approx(float(other[1]), rel=0.01)
        else:
            assert ours == theirs


def table_cells(text: str) -> list[str]:
    return [cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")]
