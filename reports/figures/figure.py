"""A figure: rows of data, the claim they support, and its three forms (inline SVG, PNG, CSV)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PNG_DPI = 160


@dataclass(frozen=True, slots=True)
class Figure:
    """Data, what it shows, and how to draw it.

    `rows` are instances of one dataclass whose field names carry units; the drawing uses nothing else, so the CSV is the
    figure.
    """

    name: str  # of its files
    title: str
    claim: str
    rows: Sequence[Any]
    draw: Callable[[], Canvas]
    notes: tuple[str, ...] = ()

    @property
    def _initials(self) -> str:
        return "".join(word[0] for word in self.name.split("_"))

    def csv(self) -> str:
        """The rows, one line each, after a line of column names."""
        text = io.StringIO()
        columns = [field.name for field in fields(self.rows[0])]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(row, column) for column in columns] for row in self.rows)
        return text.getvalue()

    def save_png(self, path: Path) -> None:
        with _house_style(self.name):
            self.draw().savefig(path, format="png", dpi=PNG_DPI)

    def save_pdf(self, path: Path) -> None:
        """The same file every time."""
        with _house_style(self.name):
            self.draw().savefig(path, format="pdf", metadata={"CreationDate": None})

    def svg(self) -> str:
        """An <svg> element to put into a page: ids with its own initials, no references but to itself, the same text every time."""
        text = io.StringIO()
        with _house_style(self.name):
            self.draw().savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return _for_a_page(text.getvalue(), prefix=f"{self._initials}-", label=f"{self.title}. {self.claim}")


@contextmanager
def _house_style(name: str) -> Iterator[None]:
    import matplotlib  # takes a third of a second, which a figure that is not drawn need not wait for

    from xmsim.reports.figures.style import house_style

    with matplotlib.rc_context(house_style(name)):
        yield


def _for_a_page(svg: str, *, prefix: str, label: str) -> str:
    """Strip what only a stand-alone file needs and what no reader sees; ids get short names with a prefix: all figures share one page."""
    root = ElementTree.fromstring(re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL))  # comments repeat texts, legal in XML or not
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # a <style> would rule the whole page
                parent.remove(child)
    pointed_at = re.findall(r"""(?:href="|url\()#([^")]*)""", svg)
    names = {old: f"{prefix}{number}" for number, old in enumerate(dict.fromkeys(pointed_at))}
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _short(_local(key), value, names) for key, value in element.attrib.items() if _is_seen(key, value, names)
        }
        element.text = element.text.strip() if element.text else None
        element.tail = None
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _is_seen(key: str, value: str, names: dict[str, str]) -> bool:
    return key != "id" or value in names


def _short(key: str, value: str, names: dict[str, str]) -> str:
    """The value with the short names of ids, and places to a hundredth of a point."""
    if key == "id":
        return names[value]
    if key == "href":
        return "#" + names[value.removeprefix("#")]
    if "url(#" in value:
        return re.sub(r"url\(#([^)]*)\)", lambda found: f"url(#{names[found[1]]})", value)
    if key in ("d", "x", "y", "width", "height", "points") or (key == "transform" and "scale" not in value):
        return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", value)).strip()
    return value
