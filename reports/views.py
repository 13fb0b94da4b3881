"""Simulated machines in the groups in which they may be compared."""

from __future__ import annotations

from dataclasses import dataclass

from xmsim.reports.load import NATIVE_VIEW, Comparison, Simulated
from xmsim.reports.words import capitalised
from xmsim.sim.result import DECODE


@dataclass(frozen=True, slots=True)
class ViewGroup:
    """Machines that share a bar group: each with its own method, or all with one given mask."""

    title: str
    members: tuple[Simulated, ...]
    baseline: Simulated

    @property
    def name(self) -> str:
        """The title as the beginning of a sentence."""
        return capitalised(self.title.replace(": each machine with its own method", "").replace(": every machine", ","))


def view_groups(comparison: Comparison) -> tuple[ViewGroup, ...]:
    """The results by view, and the view "same mask" by the method it gives to everyone.

    The baseline is one machine for all groups that have it: the fastest of those that run the dense method, else the first of all.
    """
    base = baseline(comparison)
    if base is None:
        return ()
    members: dict[tuple[str, str], list[Simulated]] = {}
    for one in comparison.simulated:
        members.setdefault(one.bar_group, []).append(one)
    return tuple(
        ViewGroup(
            title=_title(group[0]),
            members=tuple(group),
            baseline=next((one for one in group if one.label == base.label), group[0]),
        )
        for group in members.values()
    )


def baseline(comparison: Comparison) -> Simulated | None:
    """The fastest machine that runs the dense method, else the first of all; None: nothing was simulated."""
    dense = [one for one in comparison.simulated if one.method == "dense"]
    return min(dense or comparison.simulated[:1], key=lambda one: one.record.milliseconds(one.record.cycles), default=None)


def _title(one: Simulated) -> str:
    decoding = ", decoding" if one.phase == DECODE else ""
    if one.record.view == NATIVE_VIEW:
        return f"native view{decoding}: each machine with its own method"
    return f"{one.record.view} view{decoding}: every machine given {one.method}"
