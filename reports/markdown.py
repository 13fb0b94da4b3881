"""report.md: what the page says as plain text with tables, for issues, wikis and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from xmsim.reports.collection import Collection
from xmsim.reports.cross_check import accuracy_table as prediction_errors
from xmsim.reports.cross_check import sure_words, unpredicted
from xmsim.reports.equal_accuracy import accuracy_groups
from xmsim.reports.load import Comparison
from xmsim.reports.masks import gpu_table, tiles_table
from xmsim.reports.measured_tables import claims_table, kernel_tables, linear_table, own_values_table
from xmsim.reports.page import Contents
from xmsim.reports.rank_stability import rankings
from xmsim.reports.summary import extent_of
from xmsim.reports.table import Number, Table, cell_text
from xmsim.reports.tables import (
    accuracy_table,
    costs_table,
    files_table,
    kernels_table,
    layer_energy_table,
    layers_table,
    machines_table,
    prediction_table,
    ranking_table,
    view_tables,
)
from xmsim.reports.views import view_groups
from xmsim.reports.words import capitalised


def markdown_report(contents: Contents) -> str:
    """The whole report; figures are links to the PNG files beside it."""
    collection, lines = contents.collection, contents.summary
    left_out = (*dict.fromkeys(sentence for part in collection.parts for sentence in part.left_out), *collection.left_out)
    parts = [f"# xmsim report: {escaped(collection.subject)}", escaped(lines[0])]
    parts += [f"**{escaped(one.question)}?** {escaped(one.answer)}" for one in contents.answers]
    parts.append("\n".join(f"- {escaped(line)}" for line in (*lines[1:], *left_out)))
    parts.append(
        "Simulated numbers are cycles of a model over its clock, and estimates from tables; measured numbers are wall clock; published "
        "ones are what papers say."
    )
    for one in collection.predicted:
        parts.append("\n".join(f"- {escaped(line)}" for line in (sure_words(one.record), *unpredicted(one.record))))
    parts += [f"## {escaped(capitalised(content.title))}\n\n{markdown_table(content)}" for content in _tables(collection)]
    for figure in contents.figures:
        notes = "\n".join(f"- {escaped(note)}" for note in figure.notes)
        parts.append(f"## {escaped(figure.title)}\n\n![{escaped(figure.title)}]({figure.name}.png)\n\n{escaped(figure.claim)}\n\n{notes}")
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _tables(collection: Collection) -> Iterable[Table]:
    for place, part in enumerate(collection.parts):
        for content in _tables_of(part):
            yield replace(content, title=f"{extent_of(part)}: {content.title}") if place else content
    for one in collection.masks:
        yield tiles_table(one)
        if predicted := gpu_table(one, collection.main):
            yield predicted
    yield from kernel_tables(collection)
    if found := linear_table(collection):
        yield found
    yield from (prediction_errors(one.record, one.path.name) for one in collection.drawn_predictions.values())
    yield claims_table(collection)
    if ours := own_values_table(collection):
        yield ours
    yield files_table(collection)


def _tables_of(comparison: Comparison) -> Iterable[Table]:
    if comparison.simulated:
        yield machines_table(comparison)
        yield from (accuracy_table(found) for found in accuracy_groups(comparison))
        yield costs_table(comparison)
        for group in view_groups(comparison):
            yield from view_tables(group, comparison)
            yield from (ranking_table(ranking) for ranking in rankings(group))
        if predicted := prediction_table(comparison):
            yield predicted
        for one in comparison.simulated:
            yield layers_table(one)
            if energies := layer_energy_table(one):
                yield energies
    if comparison.measured:
        yield kernels_table(comparison)


def markdown_table(content: Table) -> str:
    """Numbers to the right, text to the left."""
    kinds = [any(isinstance(row[i], Number) for row in content.rows) for i in range(len(content.columns))]
    lines = [_line(content.columns), _line("---:" if number else "---" for number in kinds)]
    lines += [_line(cell_text(cell) for cell in row) for row in content.rows]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell if set(cell) <= set('-:') else escaped(cell) for cell in cells)} |"


def escaped(text: str) -> str:
    """Text that no Markdown reader takes for markup, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", " ".join(text.split()))
