"""xmsim compare: results and measurements become one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(help="Files of simulate and measure of one trace, of evaluate and calibrate, of measured models and of benchmarks."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report, its figures and its tables.")] = Path("report"),
) -> None:
    """Put simulated and measured runs side by side: a page that opens offline, figures, and every number as CSV.

    Results and measurements of attention are of one trace; models that generate and benchmarks have sections of their own.
    """
    from xmsim.cli.report_models import REPORT_MODELS
    from xmsim.reports.compare import compare as write_report

    outcome = write_report(files, out, REPORT_MODELS)
    for sentence in outcome.headlines:
        typer.echo(sentence)
    for path in outcome.files:
        typer.echo(f"wrote {path}")
