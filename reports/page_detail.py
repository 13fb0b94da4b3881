"""How much of its detail a page can hold: what goes first when it would be too large, and the sentence that stands there instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

MOST_PAGE_BYTES = 3_000_000  # what a phone opens


@dataclass(frozen=True, slots=True)
class Detail:
    """What a page shows in full; what it does not show is in report.csv, and a figure in its PNG."""

    heads: bool = True
    terms: bool = True  # the rows of the tables that an estimate is made of
    kernels: bool = True  # every measured shape
    layers: bool = True
    rankings: bool = True
    configurations: bool = True
    figures_left_out: frozenset[str] = frozenset()

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the page does not hold, in words."""
        names = {
            "the heads of each layer": self.heads,
            "the terms of each estimate": self.terms,
            "measured shapes beyond those of the figure": self.kernels,
            "the layers of each machine": self.layers,
            "the probabilities of each ranking": self.rankings,
            "machine configurations": self.configurations,
        }
        return tuple(name for name, shown in names.items() if not shown)


STEPS: tuple[Callable[[Detail], Detail], ...] = (  # from what is missed least
    lambda detail: replace(detail, heads=False),
    lambda detail: replace(detail, terms=False),
    lambda detail: replace(detail, kernels=False),
    lambda detail: replace(detail, layers=False),
    lambda detail: replace(detail, rankings=False),
    lambda detail: replace(detail, configurations=False),
)


def fitted(make: Callable[[Detail], str], figures: Sequence[tuple[str, int]], most_bytes: int = MOST_PAGE_BYTES) -> str:
    """The page with as much detail as fits.

    Args:
        make: the page, given what it shows.
        figures: (name, bytes) of each figure that the page holds.
    """
    detail = Detail()
    text = make(detail)
    for step in STEPS:
        if len(text.encode()) <= most_bytes:
            return text
        detail = step(detail)
        text = make(detail)
    for name, _ in sorted(figures, key=lambda figure: -figure[1]):
        if len(text.encode()) <= most_bytes:
            return text
        detail = replace(detail, figures_left_out=detail.figures_left_out | {name})
        text = make(detail)
    return text
