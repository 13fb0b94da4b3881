"""xmsim diff: why one simulated machine is faster than another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A result file that xmsim simulate wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one to compare it with, of the same trace.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the waterfall as JSON, CSV and PNG.")] = None,
) -> None:
    """Say why A is faster than B: cycles by cause and energy by unit, in steps that add up exactly."""
    from xmsim.cli.tables import difference_tables, table_console
    from xmsim.reports.difference.difference import difference, difference_sentences

    found = difference(a, b)
    console = table_console()
    console.print(*difference_tables(found), sep="\n")
    for sentence in difference_sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
    if out is None:
        return
    from xmsim.configs.files import write_text, write_whole
    from xmsim.reports.difference.record import write_difference
    from xmsim.reports.figures.waterfall import waterfall

    figure = waterfall(found)
    record, data, image = (out / f"{figure.name}.{ending}" for ending in ("json", "csv", "png"))
    write_difference(record, found)
    write_text(data, figure.csv())
    write_whole(image, figure.save_png)
    for path in (record, data, image):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
