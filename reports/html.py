"""Small pieces of HTML; every text that comes from a file passes through `escaped`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Number:
    """A table cell that sorts by its value."""

    value: float
    text: str


Cell = str | Number


def escaped(text: object) -> str:
    return html.escape(str(text), quote=True)


def prose(sentence: str) -> str:
    """A sentence in which no number is parted from its unit at the end of a line."""
    return re.sub(r"(?<=\d) (?=%|[mk]?s\b|[MG]Hz|[kMG]?B\b)", "&nbsp;", escaped(sentence))


def table(kind: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A sortable table; `kind` is its class: simulated, measured or plain."""
    head = "".join(_head(column, [row[i] for row in rows]) for i, column in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table class="{escaped(kind)}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _head(name: str, cells: Sequence[Cell]) -> str:
    kind = ' class="number"' if any(isinstance(cell, Number) for cell in cells) else ""
    return f'<th scope="col"{kind}><button type="button">{escaped(name)}</button></th>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Number):
        return f'<td class="number" data-value="{cell.value!r}">{escaped(cell.text)}</td>'
    return f"<td>{escaped(cell)}</td>"


def folded(title: str, inside: str) -> str:
    """A part that opens on a click; `inside` is HTML."""
    return f"<details><summary>{escaped(title)}</summary>\n{inside}</details>\n"


def preformatted(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>\n"


def bullets(sentences: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{prose(sentence)}</li>\n" for sentence in sentences) + "</ul>\n"
