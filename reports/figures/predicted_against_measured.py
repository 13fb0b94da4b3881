"""A host model's predictions beside measurements: points around the diagonal, and the band of 20 %."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure as Canvas

from xmsim.configs.errors import RecordError
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import MARKERS, MEASURED, SIMULATED, SOFT_INK, canvas, logarithmic
from xmsim.workloads.measuring.host_check_record import CheckedRun, CrossCheckRecord

BAND = 0.2


@dataclass(frozen=True, slots=True)
class PredictedPoint:
    """One run."""

    source: str
    operation: str
    kernel: str
    element: str
    threads: int
    shape: str
    constants: str
    measured_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    predicted_ms: float
    error: float  # predicted / measured - 1
    bound_by: str


def predicted_against_measured(record: CrossCheckRecord) -> Figure:
    """Every run that the model predicts, a panel for each kind of constants.

    Raises:
        RecordError: the model predicts none.
    """
    if not record.runs:
        raise RecordError("cross-check: none of the measured runs can be predicted from these constants; calibrate this host again")
    rows = tuple(_point(run) for run in record.runs)
    panels = tuple(dict.fromkeys(row.constants for row in rows))
    shares = []
    for panel in panels:
        here = [row for row in rows if row.constants == panel]
        inside = sum(abs(row.error) <= BAND for row in here)
        shares.append(f"{inside} of {len(here)} {panel}")
    model = record.model if record.validated else f"{record.model}, whose constants are stated and not validated"
    return Figure(
        name="predicted_against_measured",
        title="Predicted against measured kernels",
        claim=f"Within 20 % of what was measured lie {', '.join(shares)} (model of {model}).",
        rows=rows,
        draw=partial(_draw, rows, panels),
        notes=("Predictions are made of steps that were timed alone; no kernel that is shown was part of the calibration.",),
    )


def _point(run: CheckedRun) -> PredictedPoint:
    return PredictedPoint(
        run.source,
        run.operation,
        run.kernel,
        run.element,
        run.threads,
        ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.shape.items()),
        run.constants,
        run.measured_ms,
        run.first_quartile_ms,
        run.third_quartile_ms,
        run.predicted_ms,
        run.error,
        run.bound_by,
    )


def _draw(rows: tuple[PredictedPoint, ...], panels: tuple[str, ...]) -> Canvas:
    figure = canvas(5.2 if len(panels) > 1 else 6.2)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    families = list(dict.fromkeys((row.operation, row.kernel) for row in rows))
    palette = (*SIMULATED, *MEASURED)
    low = 0.7 * min(min(row.measured_ms, row.predicted_ms) for row in rows)
    high = 1.4 * max(max(row.measured_ms, row.predicted_ms) for row in rows)
    for panel, place in zip(panels, axes, strict=True):
        line = [low, high]
        place.fill_between(line, [x * (1 - BAND) for x in line], [x * (1 + BAND) for x in line], color=SOFT_INK, alpha=0.13, linewidth=0)
        place.plot(line, line, color=SOFT_INK, linewidth=1)
        for number, family in enumerate(families):
            here = [row for row in rows if row.constants == panel and (row.operation, row.kernel) == family]
            if not here:
                continue
            place.hlines(
                [row.predicted_ms for row in here],
                [row.first_quartile_ms for row in here],
                [row.third_quartile_ms for row in here],
                color=palette[number % len(palette)],
                linewidth=0.7,
            )
            place.scatter(
                [row.measured_ms for row in here],
                [row.predicted_ms for row in here],
                s=16,
                marker=MARKERS[number % len(MARKERS)],
                facecolors="none" if family[1] == "torch" else palette[number % len(palette)],
                edgecolors=palette[number % len(palette)],
                linewidths=0.9,
                label=", ".join(family),
            )
        logarithmic(place.xaxis)
        logarithmic(place.yaxis)
        place.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=panel, xlabel="measured ms (logarithmic; lines: quartiles)")
    axes[0].set_ylabel("predicted ms (logarithmic); band: ±20 %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
