"""Numbers as people read them: three significant digits, a unit, a percentage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby

MINUS = "−"


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, never in exponent form: 0.0123, 1.23, −12.3, 1,234."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def signed(count: int) -> str:
    """`+1,234` or `−1,234`."""
    return f"{count:+,}".replace("-", MINUS)


def milliseconds(value: float) -> str:
    return f"{significant(value)} ms"


def factor(value: float) -> str:
    return f"{significant(value)}×"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def byte_count(count: float) -> str:
    """Bytes with a decimal prefix: 512 B, 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} TB"


def spaced(name: str) -> str:
    """A record's name in words: `prediction_array` is the prediction array."""
    return name.replace("_", " ")


def capitalised(sentence: str) -> str:
    """The first letter in upper case, the rest as it is: names keep their capitals."""
    return sentence[:1].upper() + sentence[1:]


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def ranges(numbers: Iterable[int]) -> str:
    """`0–2, 5` for 0, 1, 2, 5."""
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in _runs(sorted(set(numbers))))


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]
