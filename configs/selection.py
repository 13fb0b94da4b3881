"""Selections such as 0-3,5 on the command line and in YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xmsim.configs.errors import XmsimError


def parse_numbers(text: str, thing: str) -> tuple[int, ...]:
    """Numbers of a selection, in order, each once.

    Raises:
        XmsimError: not a selection, or one that selects nothing.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not match:
            raise XmsimError(f"--{thing}s {text}: write numbers and ranges, e.g. 0-3,5")
        first = int(match.group(1))
        chosen.update(range(first, int(match.group(2) or first) + 1))
    if not chosen:
        raise XmsimError(f"--{thing}s {text}: no {thing} chosen; write ranges upwards, e.g. 0-3,5")
    return tuple(sorted(chosen))


def parse_selection(text: str | None, available: Sequence[int], thing: str) -> tuple[int, ...]:
    """Numbers of a selection among those available; None selects all.

    Raises:
        XmsimError: not a selection, or a number that is not available.
    """
    if text is None:
        return tuple(available)
    chosen = parse_numbers(text, thing)
    if missing := sorted(set(chosen) - set(available)):
        raise XmsimError(f"--{thing}s {text}: no {thing} {missing[0]}; {thing}s are {_ranges(available)}")
    return chosen


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
