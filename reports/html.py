"""Small pieces of HTML; every text that comes from a file passes through `escaped`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from xmsim.reports.table import Cell, Number, Table

LONG_LETTERS = 40  # a text longer than this gets room, even where the table then scrolls


def escaped(text: object) -> str:
    return html.escape(str(text), quote=True)


def prose(sentence: str) -> str:
    """A sentence in which no number is parted from its unit at the end of a line."""
    return re.sub(r"(?<=\d) (?=%|[mk]?s\b|[MG]Hz|[kMG]?B\b|[mµn]?J\b|m?W\b|mm²)", "&nbsp;", escaped(sentence))


def table(content: Table) -> str:
    """A sortable table that scrolls on its own where the screen is narrower."""
    columns, rows = content.columns, content.rows
    head = "".join(_head(column, [row[i] for row in rows]) for i, column in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(content.title)}"><table class="{escaped(content.kind)}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _head(name: str, cells: list[Cell]) -> str:
    kind = ' class="number"' if any(isinstance(cell, Number) for cell in cells) else ""
    return f'<th scope="col"{kind}><button type="button">{escaped(name)}</button></th>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Number):
        text = f'<a href="#{escaped(cell.target)}">{escaped(cell.text)}</a>' if cell.target else escaped(cell.text)
        return f'<td class="number" data-value="{cell.value!r}">{text}</td>'
    wide = ' class="long"' if len(cell) > LONG_LETTERS else ""
    return f"<td{wide}>{escaped(cell)}</td>"


def folded(title: str, inside: str, name: str = "") -> str:
    """A part that opens on a click; `inside` is HTML, `name` its id."""
    own = f' id="{escaped(name)}"' if name else ""
    return f"<details{own}><summary>{escaped(title)}</summary>\n{inside}</details>\n"


def preformatted(text: str) -> str:
    return f'<pre tabindex="0">{escaped(text)}</pre>\n'


def bullets(sentences: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{prose(sentence)}</li>\n" for sentence in sentences) + "</ul>\n"
