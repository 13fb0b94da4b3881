"""How far a host model's predictions are off: bias, mean and 95th percentile of each kind of run, and the share that it predicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.files import write_text, write_whole
from xmsim.reports.figures.predicted_against_measured import predicted_against_measured
from xmsim.reports.table import Cell, Number, Table
from xmsim.reports.words import percent
from xmsim.workloads.measuring.host_check_record import CALIBRATED, CheckedRun, CrossCheckRecord

ALL = "all"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of predictions relative to what was measured."""

    constants: str  # as calibrated, or given that minute's
    series: str  # operation and kernel; ALL: every run
    n: int
    bias: float  # mean of the signed errors
    mean: float  # of the absolute errors
    p95: float  # of the absolute errors

    def __str__(self) -> str:
        return (
            f"{self.constants}: {self.series}: bias {100 * self.bias:+.1f} %, mean error {100 * self.mean:.1f} %, "
            f"95th percentile {100 * self.p95:.1f} %, {self.n} runs"
        )


def accuracy(constants: str, series: str, errors: Iterable[float]) -> Accuracy:
    """Of at least one signed error; the 95th percentile is the smallest error that 95 % do not exceed."""
    signed = list(errors)
    absolute = sorted(abs(error) for error in signed)
    p95 = absolute[math.ceil(0.95 * len(absolute)) - 1]
    return Accuracy(constants, series, len(signed), sum(signed) / len(signed), sum(absolute) / len(absolute), p95)


def accuracies(record: CrossCheckRecord) -> tuple[Accuracy, ...]:
    """For each kind of constants: all runs first, then each operation and kernel."""
    rows = []
    for constants in dict.fromkeys(run.constants for run in record.runs):
        here = [run for run in record.runs if run.constants == constants]
        rows.append(accuracy(constants, ALL, (run.error for run in here)))
        for series in dict.fromkeys(_series(run) for run in here):
            rows.append(accuracy(constants, series, (run.error for run in here if _series(run) == series)))
    return tuple(rows)


def coverage(record: CrossCheckRecord) -> float:
    """Measured series that the model predicts / measured series."""
    first = record.runs[0].constants if record.runs else ""
    predicted = sum(run.constants == first for run in record.runs)
    return predicted / max(1, predicted + len(record.left_out))


def sure_words(record: CrossCheckRecord) -> str:
    """How far predictions can be trusted, in a sentence: of the constants as they were calibrated, where there are some."""
    model = f"the model of {record.model}{'' if record.validated else ' (stated, not calibrated)'}"
    if not record.runs:
        return f"Of {len(record.left_out)} measured series, {model} predicts none."
    known = [row for row in accuracies(record) if row.series == ALL]
    row = next((row for row in known if row.constants == CALIBRATED), known[0])
    return (
        f"Kernels on {record.host.cpu}: {model} is off by {percent(row.mean)} on average (bias {_signed(row.bias, 0)}, 95 % of "
        f"{row.n} runs within {percent(row.p95)}), and predicts {percent(coverage(record))} of the measured series."
    )


def accuracy_table(record: CrossCheckRecord, file: str) -> Table:
    """Errors of each kind of run, relative to what was measured."""
    rows: list[list[Cell]] = [
        [
            row.constants,
            row.series,
            Number(row.n, str(row.n)),
            Number(row.bias, _signed(row.bias, 1)),
            Number(row.mean, f"{100 * row.mean:.1f} %"),
            Number(row.p95, f"{100 * row.p95:.1f} %"),
        ]
        for row in accuracies(record)
    ]
    columns = ("constants", "runs", "n", "bias", "mean error", "95th percentile")
    return Table("measured", f"Predicted against measured, {file}: errors relative to what was measured", columns, rows)


def unpredicted(record: CrossCheckRecord) -> tuple[str, ...]:
    """A sentence for each reason for which series have no prediction."""
    reasons = Counter(left.reason for left in record.left_out)
    return tuple(f"{count} series not predicted: {reason}." for reason, count in reasons.items())


def markdown(record: CrossCheckRecord) -> str:
    """The table, and what is left out with the reasons."""
    lines = ["| constants | runs | n | bias | mean error | 95th percentile |", "|---|---|---|---|---|---|"]
    for row in accuracies(record):
        errors = " | ".join((f"{100 * row.bias:+.1f} %", f"{100 * row.mean:.1f} %", f"{100 * row.p95:.1f} %"))
        lines.append(f"| {row.constants} | {row.series} | {row.n} | {errors} |")
    stated = "" if record.validated else ", stated and not validated"
    lines += [
        "",
        f"Constants of {record.model}{stated}; measured on {record.host.cpu}. Coverage: {100 * coverage(record):.0f} % of the series.",
    ]
    lines += ["", *(f"- {sentence}" for sentence in unpredicted(record))]
    return "\n".join(lines).rstrip() + "\n"


def write_report(record: CrossCheckRecord, out: Path) -> tuple[Path, ...]:
    """cross_check.md, and the figure as PNG and CSV, in the folder `out`; the files."""
    figure = predicted_against_measured(record)
    table, image, data = out / "cross_check.md", out / f"{figure.name}.png", out / f"{figure.name}.csv"
    write_text(table, f"# Predicted against measured\n\n{figure.claim}\n\n{markdown(record)}")
    write_whole(image, figure.save_png)
    write_text(data, figure.csv())
    return table, image, data


def _signed(share: float, decimals: int) -> str:
    """`−5.4 %`, with the minus sign of print."""
    return f"{100 * share:+.{decimals}f} %".replace("-", "−")


def _series(run: CheckedRun) -> str:
    return f"{run.operation}, {run.kernel} {run.element}"
