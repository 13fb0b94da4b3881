"""What a solver has scored, on disk after every method, so that nothing is scored twice. The file is an evaluation record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.evaluation import EvaluatedRun, EvaluationRecord, read_evaluation, write_evaluation

_PLAN = ("device", "dtype", "model", "text", "protocol")


class SolveStore:
    """Runs of one model on the same windows, found by their methods' parameters."""

    def __init__(self, path: Path | None, empty: EvaluationRecord, *, length: int, windows: int) -> None:
        """Find what was stored before; nothing is written yet.

        Args:
            path: of the store; None: what is found is kept in memory alone.
            empty: a record of the model and the text, without runs.
            length: of all runs, in tokens, as the protocol counts them.
            windows: of all runs.
        Raises:
            XmsimError: the store is of something else.
        """
        self._path, self._record = path, empty
        if path is not None and path.exists():
            stored = read_evaluation(path)
            other = [key for key in _PLAN if getattr(stored, key) != getattr(empty, key)]
            other += ["length"] if any(run.length_tokens != length for run in stored.runs) else []
            other += ["windows"] if any(run.windows != windows for run in stored.runs) else []
            if other:
                raise XmsimError(f"{path}: holds runs of another {', '.join(other)}; move it away or choose another --out")
            self._record = replace(empty, runs=stored.runs)

    def find(self, parameters: dict[str, Any]) -> EvaluatedRun | None:
        """The run of a method with these parameters, whatever its name; None: not scored yet."""
        return next((run for run in self._record.runs if {**run.method, "name": ""} == {**parameters, "name": ""}), None)

    def add(self, run: EvaluatedRun) -> None:
        """Keep a run. Raises: XmsimError: the disk is full or the folder cannot be written."""
        record = replace(self._record, runs=(*self._record.runs, run))
        if self._path is not None:
            write_evaluation(self._path, record)
        self._record = record
