"""What Nsight Systems saw of `xmsim measure` on a GPU: its sqlite export, as kernels and as tokens.

    nsys profile -o run xmsim measure ... --device cuda; nsys export --type sqlite run.nsys-rep; xmsim measure --nsys run.sqlite

A kernel belongs to the token in whose range it started. Eager tokens are waited for one by one, so that this is exact; graphs are replayed
without waiting, and their kernels may start in the range of a later token.
"""

from __future__ import annotations

import sqlite3
import statistics
from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.configs.files import check_ordinary
from xmsim.workloads.measuring.profile_ranges import TOKEN, WARM_UP

_COLUMNS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": ("start", "end", "shortName"),
    "StringIds": ("id", "value"),
    "NVTX_EVENTS": ("start", "end", "text", "textId"),
}
_NS_PER_MS = 1e6
_LONGEST_VALUE = 2**20  # bytes of a value that is read; names of kernels with all their templates are shorter


class NsysError(XmsimError):
    """A file that is no export of Nsight Systems, or one without what is read here."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A CUDA kernel, all its calls in rounds that count."""

    name: str
    calls: int
    total_ms: float
    share: float  # of the time of all kernels


@dataclass(frozen=True, slots=True)
class TokenTime:
    """The tokens that one kind of linear layer gave."""

    name: str  # the kind, as xmsim measure calls it; "" where no round is named
    tokens: int
    span_ms: float  # median, on the host
    kernel_ms: float  # median of the sum of the GPU's kernels
    launches: float  # median


@dataclass(frozen=True, slots=True)
class NsysProfile:
    """Kernels, the longest first, and tokens."""

    kernels: tuple[KernelTime, ...]
    tokens: tuple[TokenTime, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Nanoseconds on the profile's clock."""

    name: str
    start: int
    end: int


def read_nsys(path: Path) -> NsysProfile:
    """Read an sqlite export.

    Raises:
        NsysError: no such file, not sqlite, another database, or no kernel in it.
    """
    try:
        check_ordinary(path)
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            kernels, ranges = _spans(database, path)
    except OSError as error:
        raise NsysError(f"{path}: cannot be read ({error.strerror or error}); make one with nsys export --type sqlite") from error
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        raise NsysError(f"{path}: cannot be read as an sqlite export of nsys ({error}); export it again") from error
    if not kernels:
        raise NsysError(f"{path}: no CUDA kernel in it; profile a run with --device cuda, and trace cuda and nvtx")
    rounds = [span for span in ranges if span.name.startswith(("repeat ", f"{WARM_UP}:"))]
    warm = [span for span in rounds if span.name.startswith(WARM_UP)]
    counted = [kernel for kernel in kernels if _around(kernel.start, warm) is None]
    return NsysProfile(_kernel_times(counted), _token_times(counted, ranges, rounds))


def _spans(database: sqlite3.Connection, path: Path) -> tuple[list[_Span], list[_Span]]:
    """Kernels and ranges in the order of their starts."""
    # tables alone: a view computes what it likes, and may have no end
    present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table, columns in _COLUMNS.items():
        if table == "NVTX_EVENTS" and table not in present:
            continue  # a profile without ranges still has kernels
        found = {row[1] for row in database.execute(f"PRAGMA table_info({table})")} if table in present else set()
        if missing := [column for column in columns if column not in found]:
            raise NsysError(f"{path}: no column {missing[0]} of table {table}; export a profile of nsys that traced cuda and nvtx")
    names = {int(key): str(value) for key, value in database.execute("SELECT id, value FROM StringIds")}
    kernels = [
        _Span(names.get(int(name), f"kernel {name}"), int(start), int(end))
        for start, end, name in database.execute('SELECT start, "end", shortName FROM CUPTI_ACTIVITY_KIND_KERNEL ORDER BY start')
    ]
    if "NVTX_EVENTS" not in present:
        return kernels, []
    rows = database.execute('SELECT start, "end", text, textId FROM NVTX_EVENTS WHERE "end" IS NOT NULL ORDER BY start')
    return kernels, [_Span(_text(names, text, key), int(start), int(end)) for start, end, text, key in rows]


def _text(names: dict[int, str], text: Any, key: Any) -> str:
    return str(text) if text is not None else names.get(int(key), "") if key is not None else ""


def _around(moment: int, spans: list[_Span]) -> _Span | None:
    """The one of these spans, which do not overlap, that a moment lies in."""
    at = bisect_right(spans, moment, key=lambda span: span.start) - 1
    return spans[at] if at >= 0 and moment < spans[at].end else None


def _kernel_times(kernels: list[_Span]) -> tuple[KernelTime, ...]:
    times: dict[str, list[int]] = {}
    for kernel in kernels:
        times.setdefault(kernel.name, []).append(kernel.end - kernel.start)
    total = sum(map(sum, times.values())) or 1
    rows = (KernelTime(name, len(each), sum(each) / _NS_PER_MS, sum(each) / total) for name, each in times.items())
    return tuple(sorted(rows, key=lambda row: -row.total_ms))


def _token_times(kernels: list[_Span], ranges: list[_Span], rounds: list[_Span]) -> tuple[TokenTime, ...]:
    tokens = [span for span in ranges if span.name.startswith(f"{TOKEN} ")]
    busy_ns, launches = dict.fromkeys(tokens, 0), dict.fromkeys(tokens, 0)
    for kernel in kernels:
        if token := _around(kernel.start, tokens):
            busy_ns[token] += kernel.end - kernel.start
            launches[token] += 1
    groups: dict[str, list[_Span]] = {}
    for token in tokens:
        outer = _around(token.start, rounds)
        if outer is None or not outer.name.startswith(WARM_UP):
            groups.setdefault("" if outer is None else outer.name.partition(": ")[2], []).append(token)
    return tuple(
        TokenTime(
            name,
            len(each),
            statistics.median((token.end - token.start) / _NS_PER_MS for token in each),
            statistics.median(busy_ns[token] / _NS_PER_MS for token in each),
            statistics.median(launches[token] for token in each),
        )
        for name, each in groups.items()
    )
