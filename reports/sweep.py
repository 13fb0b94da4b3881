"""A sweep as files: every point as CSV, and for each trace the designs that no other beats."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.files import write_text, write_whole
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.pareto import DesignPoint, pareto
from xmsim.workloads.evaluation import EvaluationRecord

POINTS = "points.csv"
PICOJOULES_PER_MICROJOULE = 1e6


@dataclass(frozen=True, slots=True)
class SweptPoint:
    """A point as its table shows it; `metrics` or `error` is there."""

    machine: str
    trace: str
    method: str
    values: dict[str, Any]  # {dotted path: value}
    metrics: dict[str, float] | None
    error: str | None
    perplexity: float | None


def perplexity_of(evaluations: Iterable[EvaluationRecord], *, model: str, method: dict[str, Any], tokens: int) -> float | None:
    """Of this model with exactly this method, at the length nearest to `tokens`; None: no evaluation has it."""
    found = [
        run
        for record in evaluations
        if record.model["name"] == model
        for run in record.runs
        if _parameters(run.method) == _parameters(method)
    ]
    nearest = min(found, key=lambda run: abs(run.length_tokens - tokens), default=None)
    return None if nearest is None else nearest.perplexity


def _parameters(method: dict[str, Any]) -> dict[str, Any]:
    """What decides the mask: everything but the name; no prediction is the same as none stated."""
    return {key: value for key, value in method.items() if key != "name" and value is not None}


def write_sweep_report(points: Sequence[SweptPoint], out: Path, part: str = "") -> tuple[list[Figure], list[Path]]:
    """Write the table, and a figure with its CSV for each trace some point of which has numbers.

    What is there already is not written again, and a figure whose CSV is there is not drawn again.

    Args:
        part: what of each trace was simulated, in words; none: the prefill of all its layers.
    """
    text = points_csv(points)
    if not _says(out / POINTS, text):
        write_text(out / POINTS, text)
    files, figures = [out / POINTS], []
    traces = list(dict.fromkeys(point.trace for point in points if point.metrics is not None))
    for trace in traces:
        name = "pareto" if len(traces) == 1 else f"pareto_{re.sub(r'[^A-Za-z0-9]+', '_', trace)}"
        subject = f"{trace}, {part}" if part else trace
        figure = pareto([_design(point) for point in points if point.trace == trace and point.metrics is not None], subject, name)
        table, picture = out / f"{name}.csv", out / f"{name}.png"
        text = figure.csv()
        if not (picture.exists() and _says(table, text)):
            write_whole(picture, figure.save_png)
            write_text(table, text)
        figures.append(figure)
        files += [table, picture]
    return figures, files


def _says(path: Path, text: str) -> bool:
    """Whether the file is there and holds exactly this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def points_csv(points: Sequence[SweptPoint]) -> str:
    """One line a point, in the order of the sweep: what it is, its numbers with units in the names, or why there are none."""
    paths = list(dict.fromkeys(path for point in points for path in point.values))
    numbers = list(dict.fromkeys(name for point in points for name in point.metrics or ()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["machine", "trace", "method", *paths, *numbers, "perplexity", "error"])
    for point in points:
        metrics = point.metrics or {}
        values = [point.values.get(path) for path in paths]
        writer.writerow(
            [point.machine, point.trace, point.method, *values, *(metrics.get(name) for name in numbers), point.perplexity, point.error]
        )
    return text.getvalue()


def _design(point: SweptPoint) -> DesignPoint:
    assert point.metrics is not None
    energy_pj = point.metrics.get("energy_pj")
    return DesignPoint(
        machine=point.machine,
        method=point.method,
        values=", ".join(f"{path} {value}" for path, value in point.values.items()),
        latency_ms=point.metrics["latency_ms"],
        energy_uj=None if energy_pj is None else energy_pj / PICOJOULES_PER_MICROJOULE,
        area_mm2=point.metrics.get("area_mm2"),
        perplexity=point.perplexity,
    )
