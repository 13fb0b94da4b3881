"""A table as data: the page, the Markdown report and the terminal show the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Number:
    """A cell that sorts by its value; `target` is the id of what on the page explains it."""

    value: float
    text: str
    target: str = ""


Cell = str | Number


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; `kind` says whose numbers they are: simulated, measured or plain."""

    kind: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cell_text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Number) else cell
