"""The page on equal accuracy states what the evaluation record holds."""

import re
from pathlib import Path

import pytest

from xmsim.workloads.evaluation import read_evaluation

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "equal_accuracy.md").read_text()
SOLVED = [run for run in read_evaluation(ROOT / "reports" / "measured" / "evaluation_xm_tiny_equal_accuracy.json").runs if run.solved_for]


@pytest.mark.parametrize("run", SOLVED, ids=lambda run: run.method["name"])
def test_each_solved_method_stands_on_the_page_as_recorded(run):
    solved = run.solved_for
    section = PAGE.split(f"### +{100 * solved.target_relative:.0f} % perplexity")[1].split("###")[0]
    row = f"\\| {solved.parameter} {solved.value:.3g} \\| [0-9.]+ \\| \\+{100 * run.perplexity_increase:.2f} % \\|"
    assert re.search(row, section), row


def test_no_other_row_stands_there():
    assert len(re.findall(r"^\| (?!machine)\w", PAGE, re.M)) == len(SOLVED)
