"""The run store: what became of each point of a sweep, in one SQLite file that a kill cannot damage.

A result is found by the hash of everything it depends on, so a point is never simulated twice, in whatever sweep it stands. Each call of
`add` is one transaction in write-ahead mode: after a kill it is there whole or not at all. Standard library only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from xmsim.configs.errors import RecordError
from xmsim.configs.record import software_version

STORE_VERSION = 1
APPLICATION_ID = 0x786D7377  # "xmsw": how a store is told from any other SQLite file
BUSY_SECONDS = 60  # how long to wait for another sweep that writes to the same store
_TABLES = """
CREATE TABLE points (
    key TEXT PRIMARY KEY,    -- SHA-256 of the effective configuration, the trace, the method and the code
    machine TEXT NOT NULL,
    method TEXT NOT NULL,
    trace_sha256 TEXT NOT NULL,
    config TEXT NOT NULL,    -- JSON: the effective configuration
    metrics TEXT,            -- JSON: numbers, units at the end of their names; NULL: the point failed
    error TEXT,              -- why it failed
    xmsim TEXT NOT NULL,     -- the version that computed it
    CHECK ((metrics IS NULL) != (error IS NULL))
)
"""


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A row of the store. Either `metrics` or `error` is there."""

    key: str
    machine: str
    method: str
    trace_sha256: str
    config: dict[str, Any]
    metrics: dict[str, float] | None
    error: str | None


class RunStore:
    """An open store; use it in a `with`. It lies on a disk of this machine: SQLite's write-ahead log does not work over a network."""

    def __init__(self, path: Path) -> None:
        """Open the store at `path`, or make an empty one.

        Raises:
            RecordError: the file is something else, of a later version, or cannot be written.
        """
        self._path = path
        self._version = software_version()
        with self._sentences():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._sentences():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut may lose the last moments, never more
        with self._transaction():  # of two that open a new store at once, one makes the table
            (application,), (version,) = run("PRAGMA application_id").fetchone(), run("PRAGMA user_version").fetchone()
            empty = run("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            if empty:
                run(_TABLES)
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {STORE_VERSION}")
            elif application != APPLICATION_ID:
                raise RecordError(f"{self._path}: a database of another program; choose another folder for the sweep")
            elif version > STORE_VERSION:
                raise RecordError(f"{self._path}: version {version} of the run store is newer than this xmsim reads; upgrade xmsim")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._connection.close()

    def keys(self, *, failed: bool = True) -> set[str]:
        """Keys of all points; without `failed` of those that have numbers."""
        with self._sentences():
            rows = self._connection.execute(f"SELECT key FROM points {'' if failed else 'WHERE error IS NULL'}")
            return {key for (key,) in rows}

    def add(self, points: Iterable[StoredPoint]) -> None:
        """Keep all of these points or, if this fails, none. One that is there already with numbers stays as it is."""
        rows = [
            (
                point.key,
                point.machine,
                point.method,
                point.trace_sha256,
                json.dumps(point.config, allow_nan=False),
                None if point.metrics is None else json.dumps(point.metrics, allow_nan=False),
                point.error,
                self._version,
            )
            for point in points
        ]
        with self._sentences(), self._transaction():
            self._connection.executemany(
                "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "metrics = excluded.metrics, error = excluded.error, xmsim = excluded.xmsim WHERE points.error IS NOT NULL",
                rows,
            )

    def outcomes(self) -> dict[str, tuple[dict[str, float] | None, str | None]]:
        """{key: (metrics, error)} of all points; one of the two is None."""
        with self._sentences():
            rows = self._connection.execute("SELECT key, metrics, error FROM points").fetchall()
        return {key: (None if metrics is None else json.loads(metrics), error) for key, metrics, error in rows}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RecordError(f"{self._path}: cannot be written ({error.strerror or error}); choose a folder you may write to") from error
        except sqlite3.Error as error:
            raise RecordError(
                f"{self._path}: {error}; choose another folder for the sweep, or free some space if the disk is full"
            ) from error
