"""The page on equal accuracy states what the evaluation record holds, and what the machines make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.test_readme import script, table_cells

from xmsim.workloads.evaluation import EvaluatedRun, read_evaluation

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "equal_accuracy.md").read_text(encoding="utf-8")
SOLVED = [run for run in read_evaluation(ROOT / "reports" / "measured" / "evaluation_xm_tiny_equal_accuracy.json").runs if run.solved_for]
DENSITY, EQUAL_PEAK, EQUAL_AREA = "density", "equal peak MACs", "equal area"


@pytest.mark.parametrize("run", SOLVED, ids=lambda run: run.method["name"])
def test_each_solved_method_stands_on_the_page_as_recorded(run: EvaluatedRun) -> None:
    solved = run.solved_for
    assert solved
    row = f"\\| {solved.parameter} {solved.value:.3g} \\| [0-9.]+ \\| \\+{100 * run.perplexity_increase:.2f} % \\|"
    assert re.search(row, section(round(100 * solved.target_relative))), row


def test_no_other_row_stands_there() -> None:
    assert len(re.findall(r"^\| (?!machine)\w", PAGE, re.M)) == len(SOLVED)


def test_speedups_and_energies_are_what_the_machines_give(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # extracts the trace
    made = table_cells("\n".join(script("make_equal_accuracy").tables(tmp_path)))
    page = table_cells(PAGE)
    assert len(made) == len(page) > 100
    for ours, written in zip(made, page, strict=True):
        words, numbers = zip(*(split(cell) for cell in (ours, written)), strict=True)
        assert words[0] == words[1]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02), f"{ours} instead of {written}: run docs/make_equal_accuracy.py"


def test_the_conclusions_are_those_of_the_tables() -> None:
    one, five = rows(1), rows(5)
    peak = {name: row[EQUAL_PEAK] for name, row in one.items()}
    said = " ".join(PAGE.split())
    area, more_area = ({name: row[EQUAL_AREA] for name, row in table.items()} for table in (one, five))
    assert f"({area['salo_v2']:.1f} against {area['dynax_s']:.1f}, bars overlap)" in said
    assert f"at equal area ({more_area['salo_v2']:.1f} against {more_area['dynax_s']:.1f})" in said
    assert f"it gains {area['sanger']:.1f} and {more_area['sanger']:.1f} times over the dense array" in said
    assert f"`dynax_s` gains {peak['dynax_s']:.1f} times over the dense array" in said
    assert f"`salo_v2` and `sanger` {peak['salo_v2']:.1f} and {peak['sanger']:.1f}." in said
    assert min(peak["dynax_s"], peak["dynax_l"]) > max(peak["sanger"], peak["salo"], peak["salo_v2"])
    assert f"({five['salo_v2'][EQUAL_PEAK]:.1f} against {five['dynax_s'][EQUAL_PEAK]:.1f} at equal peak)" in said
    densities = [min(table.items(), key=lambda row: row[1][DENSITY]) for table in (one, five)]
    assert {name for name, _ in densities} == {"sanger"}
    assert f"({densities[0][1][DENSITY]:.3f} and {densities[1][1][DENSITY]:.3f} of the pairs)" in said


def section(percent: int) -> str:
    return PAGE.split(f"### +{percent} % perplexity")[1].split("##")[0]


def rows(percent: int) -> dict[str, dict[str, float]]:
    """The nominal numbers of a table, by machine and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section(percent).splitlines() if line.startswith("| ")]
    return {
        cells[0]: {name: split(cell)[1][0] for name, cell in zip(lines[0], cells, strict=True) if split(cell)[1]} for cells in lines[1:]
    }


def split(cell: str) -> tuple[str, list[float]]:
    """What a cell says in words, and its numbers."""
    number = r"\d+(?:\.\d+)?"
    return re.sub(number, "#", cell), [float(found) for found in re.findall(number, cell)]
