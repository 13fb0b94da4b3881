"""An evaluation as files: a table, and the plot of perplexity against density."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from xmsim.configs.errors import RecordError
from xmsim.configs.files import write_text, write_whole
from xmsim.reports.figures.perplexity_density import DENSE, perplexity_density
from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord

MOST_PERPLEXITY, MOST_NATS = 1e30, 100.0
COLUMNS = (
    "model",
    "text",
    "protocol",
    "dtype",
    "method",
    "length_tokens",
    "window_tokens",
    "windows",
    "scored_tokens",
    "density",
    "full_density",
    "kv_density",
    "perplexity",
    "perplexity_increase",
    "loss_nats_per_token",
    "loss_increase_nats_per_token",
    "loss_increase_standard_error_nats_per_token",
    "bits_per_byte",
    "static_sparsity",
    "dynamic_sparsity",
    "total_sparsity",
)


def write_evaluation_report(record: EvaluationRecord, folder: Path) -> tuple[Path, ...]:
    """Write evaluation.csv, and the figure as SVG, PNG and CSV; each file whole or not at all.

    Raises:
        RecordError: the record was edited into one that cannot be drawn.
        XmsimError: the folder cannot be written.
    """
    _refuse_undrawable(record)
    figure = perplexity_density(record)
    table, drawing, image, data = (
        folder / name for name in ("evaluation.csv", f"{figure.name}.svg", f"{figure.name}.png", f"{figure.name}.csv")
    )
    write_text(table, evaluation_csv(record))
    write_text(drawing, figure.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n")  # it stands alone
    write_whole(image, figure.save_png)
    write_text(data, figure.csv())
    return table, drawing, image, data


def _refuse_undrawable(record: EvaluationRecord) -> None:
    dense = Counter(run.length_tokens for run in record.runs if run.label == DENSE)
    if not record.runs or any(dense[run.length_tokens] != 1 for run in record.runs) or "name" not in record.model:
        raise RecordError("evaluation: not one dense run at each length, or no model's name; was the record edited? evaluate again")
    if any(not 0 < run.perplexity < MOST_PERPLEXITY or not abs(run.loss_increase_error or 0) < MOST_NATS for run in record.runs):
        raise RecordError("evaluation: a perplexity or its error is beyond what a text can have; was the record edited? evaluate again")


def evaluation_csv(record: EvaluationRecord) -> str:
    """One row for each method at each length, after a line of column names; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(record, run) for run in record.runs)
    return text.getvalue()


def _row(record: EvaluationRecord, run: EvaluatedRun) -> list[object]:
    return [
        record.model["name"],
        record.text.name,
        record.protocol,
        record.dtype,
        run.label,
        run.length_tokens,
        run.window_tokens,
        run.windows,
        run.scored_tokens,
        run.densities.density,
        run.densities.full_density,
        run.densities.kv_density,
        run.perplexity,
        run.perplexity_increase,
        run.loss,
        run.loss_increase,
        run.loss_increase_error,
        run.bits_per_byte,
        *(None if run.activations is None else getattr(run.activations, share) for share in COLUMNS[-3:]),
    ]
