"""Simulated and measured runs side by side: a page, figures and tables from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xmsim.configs.files import write_text, write_whole
from xmsim.reports.bench import benches
from xmsim.reports.collection import Collection, collect
from xmsim.reports.difference.difference import difference_between
from xmsim.reports.figures.cycle_account import cycle_account
from xmsim.reports.figures.density_map import density_map
from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.kernel_speedups import kernel_speedups
from xmsim.reports.figures.layer_latency import layer_latency
from xmsim.reports.figures.predicted_against_measured import predicted_against_measured
from xmsim.reports.figures.published_beside_ours import published_beside_ours
from xmsim.reports.figures.roofline import roofline
from xmsim.reports.figures.simulated_against_measured import simulated_against_measured
from xmsim.reports.figures.speedup_measured import speedup_measured
from xmsim.reports.figures.speedup_simulated import speedup_at_equal_accuracy, speedup_simulated
from xmsim.reports.figures.waterfall import waterfall
from xmsim.reports.load import Comparison
from xmsim.reports.long_table import collection_table
from xmsim.reports.markdown import markdown_report
from xmsim.reports.models import NO_MODELS, Models
from xmsim.reports.page import Contents, Part, page
from xmsim.reports.summary import collection_summary, kernel_sentences
from xmsim.reports.totals import machine_totals
from xmsim.reports.verdict import verdict
from xmsim.reports.views import view_groups


@dataclass(frozen=True, slots=True)
class CompareOutcome:
    """What was written, and what it says."""

    report: Path
    files: tuple[Path, ...]  # the report first
    headlines: tuple[str, ...]  # the work, the verdict, and what was measured, in few sentences
    summary: tuple[str, ...]  # every machine and kernel


def compare(files: Sequence[Path], out: Path, models: Models = NO_MODELS) -> CompareOutcome:
    """Write report.html, report.md, report.csv and, for each figure, a PNG and a CSV into the folder `out`.

    Without models there is no energy of layers, and a calibration or a host check is refused.

    Raises:
        XmsimError: a file cannot be used, files do not belong together, or `out` cannot be written.
    """
    contents = contents_of(collect(files, models))
    report, plain, table = out / "report.html", out / "report.md", out / "report.csv"
    write_text(table, collection_table(contents.collection))
    write_text(plain, markdown_report(contents))
    written = [plain, table]
    for figure in contents.figures:
        image, data = out / f"{figure.name}.png", out / f"{figure.name}.csv"
        write_whole(image, figure.save_png)
        write_text(data, figure.csv())
        written += [image, data]
    write_text(report, page(contents))  # last: a report that is there is complete
    headlines = (contents.summary[0], *(answer.sentence for answer in contents.answers), *kernel_sentences(contents.collection))
    return CompareOutcome(report, (report, *written), headlines, contents.summary)


def contents_of(collection: Collection) -> Contents:
    """What the page and the text are made of."""
    parts = [Part(comparison, _renamed(draw(comparison), place)) for place, comparison in enumerate(collection.parts)]
    besides = [kernel_speedups(collection.kernels), published_beside_ours(collection)]
    drawn = {figure.name: figure for figure in besides if figure}
    drawn |= {name: replace(predicted_against_measured(one.record), name=name) for name, one in collection.drawn_predictions.items()}
    return Contents(collection, tuple(parts), drawn, verdict(collection), collection_summary(collection))


def _renamed(figures: Sequence[Figure], place: int) -> dict[str, Figure]:
    """By the name that the figure has in every part; those of the second part end in _2."""
    return {figure.name: replace(figure, name=f"{figure.name}_{place + 1}") if place else figure for figure in figures}


def draw(comparison: Comparison) -> tuple[Figure, ...]:
    """The figures of a part for which there is data."""
    figures: list[Figure | None] = [layer_latency(comparison)]
    if comparison.simulated:
        figures += [speedup_simulated(comparison), density_map(comparison), cycle_account(comparison), roofline(comparison)]
        figures += [_waterfall(comparison), speedup_at_equal_accuracy(comparison)]
    attention = [bench for bench in benches(comparison) if bench.dense or bench.sparse]
    if attention:
        figures.append(speedup_measured(comparison))
    if attention and comparison.simulated:
        figures.append(simulated_against_measured(comparison))
    return tuple(figure for figure in figures if figure)


def _waterfall(comparison: Comparison) -> Figure | None:
    """From the baseline of the first group to the fastest of its other machines; None where there is no other, or heads were sampled."""
    group = view_groups(comparison)[0]
    others = [one for one in group.members if one is not group.baseline]
    if not others or any(one.record.sampling for one in group.members):
        return None
    fastest = min(others, key=lambda one: machine_totals(one.record).time_ms)
    return waterfall(difference_between(fastest, group.baseline, comparison))
