"""What a sweep has found, on disk after every row, so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.evaluation import SparsitySplit, SplitsRecord, SplitTiming, read_splits_record, write_splits

Pair = tuple[float, float]  # (s1, s2)


class SplitStore:
    """The splits of one plan, and the timings of those that were timed."""

    def __init__(self, path: Path | None, plan: dict[str, Any]) -> None:
        """Find what was stored before; nothing is written yet.

        Args:
            path: of the store; None: what is found is kept in memory alone.
            plan: everything that decides a row, as plain JSON values.
        Raises:
            XmsimError: the store is of another plan.
        """
        self._path = path
        self._record = SplitsRecord(plan, (), ())
        if path is not None and path.exists():
            self._record = read_splits_record(path)
            if other := [key for key in plan if plan[key] != self._record.plan.get(key)]:
                raise XmsimError(f"{path}: holds a sweep with another {', '.join(other)}; move it away or choose another --out")

    def has(self, pair: Pair, *, timed: bool) -> bool:
        """Whether a pair needs no more work."""
        rows: tuple[SparsitySplit | SplitTiming, ...] = self._record.timings if timed else self._record.splits
        return any(_pair(row) == pair for row in rows)

    def split(self, pair: Pair) -> SparsitySplit:
        """The row of a pair that is there."""
        return next(row for row in self._record.splits if _pair(row) == pair)

    def add(self, row: SparsitySplit) -> None:
        """Keep a row. Raises: XmsimError: the disk is full or the folder cannot be written."""
        self._keep(replace(self._record, splits=(*self._record.splits, row)))

    def add_timing(self, row: SplitTiming) -> None:
        """Keep the timing of a row that is there. Raises: as `add`."""
        self._keep(replace(self._record, timings=(*self._record.timings, row)))

    def chosen(self, pairs: Sequence[Pair], *, timed: bool) -> tuple[tuple[SparsitySplit, ...], tuple[SplitTiming, ...]]:
        """The rows of these pairs in their order, and their timings if asked for."""
        splits = {_pair(row): row for row in self._record.splits}
        timings = {_pair(row): row for row in self._record.timings}
        return tuple(splits[pair] for pair in pairs), tuple(timings[pair] for pair in pairs) if timed else ()

    def _keep(self, record: SplitsRecord) -> None:
        if self._path is not None:
            write_splits(self._path, record)
        self._record = record


def _pair(row: SparsitySplit | SplitTiming) -> Pair:
    return row.s1, row.s2
