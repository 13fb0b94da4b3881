"""Write into docs/host_models.md how well the CPU model predicts the runs of the committed record: python docs/make_host_table.py"""

from __future__ import annotations

import re
from pathlib import Path

from xmsim.accel_models.host.cross_check import cross_check
from xmsim.configs.files import write_text
from xmsim.reports.cross_check import ALL, Accuracy, accuracies
from xmsim.workloads.measuring.host_check_record import CALIBRATED

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "reports" / "measured" / "host_check_cpu.json", ROOT / "docs" / "host_models.md"
BEGIN, END = "<!-- made by docs/make_host_table.py -->\n", "<!-- end -->\n"
GOAL_MEAN, GOAL_P95 = 0.10, 0.25
OPERATIONS = ("linear", "prefill", "decode", "prediction", "mask")


def error_table() -> str:
    """A verdict and a table in Markdown: all runs, then every operation, kernel and element; made anew from the record's constants."""
    rows = [row for row in accuracies(cross_check([RECORD])) if row.constants == CALIBRATED]
    rows.sort(key=lambda row: 0 if row.series == ALL else 1 + OPERATIONS.index(row.series.split(",")[0]))
    lines = [_verdict(rows[0]), "", "| series | runs | bias | mean error | 95th percentile |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.series} | {row.n} | {100 * row.bias:+.1f} % | {100 * row.mean:.1f} % | {100 * row.p95:.0f} % |")
    return "\n".join(lines) + "\n"


def _verdict(row: Accuracy) -> str:
    goals = (("mean", row.mean <= GOAL_MEAN), ("95th percentile", row.p95 <= GOAL_P95))
    met = [name for name, reached in goals if reached]
    said = {0: "meets neither goal", 1: f"meets the goal of the {''.join(met)} alone", 2: "meets both goals"}[len(met)]
    errors = f"mean {100 * row.mean:.1f} %, 95th percentile {100 * row.p95:.0f} %, bias {100 * row.bias:+.1f} %"
    return f"The model {said}: **{errors}**, over {row.n} runs."


def filled(page: str) -> str:
    """The page with the table of the record as it is."""
    return re.sub(f"({BEGIN}).*?({END})", lambda found: found[1] + error_table() + found[2], page, flags=re.DOTALL)


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    print(f"wrote {PAGE}")
