"""The run store: what became of each point of a sweep, in one SQLite file that a kill cannot damage.

A result is found by the hash of everything it depends on, so a point is never simulated twice, in whatever sweep it stands. Each call of
`add` is one transaction in write-ahead mode: after a kill it is there whole or not at all. Standard library only.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from xmsim.configs.errors import RecordError
from xmsim.configs.files import check_ordinary
from xmsim.configs.record import software_version

STORE_VERSION = 1
APPLICATION_ID = 0x786D7377  # "xmsw": how a store is told from any other SQLite file
BUSY_SECONDS = 60  # how long to wait for another sweep that writes to the same store
KEYS_A_QUERY = 500
MOST_THINGS = 3  # that are read of what a file defines: one more than a run store does
# primary codes of SQLite that say something of the disk, the folder or other programs, and nothing of the file
_SURROUNDINGS = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("AUTH", "BUSY", "CANTOPEN", "FULL", "INTERRUPT", "IOERR", "LOCKED", "NOLFS", "NOMEM", "PERM", "PROTOCOL", "READONLY")
)
_TABLES = """
CREATE TABLE points (
    key TEXT PRIMARY KEY,    -- SHA-256 of the effective configuration, the trace, the method and the code
    machine TEXT NOT NULL,
    method TEXT NOT NULL,
    trace_sha256 TEXT NOT NULL,
    config TEXT NOT NULL,    -- JSON: the effective configuration, and `simulated`: what of the trace
    metrics TEXT,            -- JSON: numbers, latency_ms among them, units at the end of their names; NULL: the point failed
    error TEXT,              -- why it failed
    xmsim TEXT NOT NULL,     -- the version that computed it
    CHECK ((metrics IS NULL) != (error IS NULL))
)
"""
_COLUMNS = ("key", "machine", "method", "trace_sha256", "config", "metrics", "error", "xmsim")
_THINGS = (("table", "points"), ("index", "sqlite_autoindex_points_1"), *(("TEXT", column) for column in _COLUMNS))


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A row of the store. Either `metrics` or `error` is there."""

    key: str
    machine: str
    method: str
    trace_sha256: str
    config: dict[str, Any]  # of the machine, and what of the trace was simulated
    metrics: dict[str, float] | None  # latency_ms among them
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
            if path.is_symlink() or path.exists():
                check_ordinary(path)
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._sentences():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        self._refuse_others()  # before a byte of it changes
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut may lose the last moments, never more
        with self._transaction():  # of two that open a new store at once, one makes the table
            if self._is_empty():
                run(_TABLES)
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {STORE_VERSION}")

    def _refuse_others(self) -> None:
        run = self._connection.execute
        (application,), (version,) = run("PRAGMA application_id").fetchone(), run("PRAGMA user_version").fetchone()
        if self._is_empty():
            return
        if application != APPLICATION_ID:
            raise RecordError(f"{self._path}: a database of another program; choose another folder for the sweep")
        if version > STORE_VERSION:
            raise RecordError(f"{self._path}: version {version} of the run store is newer than this xmsim reads; upgrade xmsim")
        if version < 1 or self._things() != _THINGS:
            raise self._damaged("its tables are not those of a run store")

    def _is_empty(self) -> bool:
        return bool(self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))

    def _things(self) -> tuple[tuple[str, str], ...]:
        """Type and name of all that the file defines, then of the columns of `points`: a view of that name may have no end."""
        run = self._connection.execute
        columns = run("SELECT type, name FROM pragma_table_info('points') ORDER BY cid").fetchall()
        return (*run("SELECT type, name FROM sqlite_master ORDER BY name").fetchmany(MOST_THINGS), *columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._connection.close()

    def keys(self, *, failed: bool = True) -> set[str]:
        """Keys of all points; without `failed` of those that have numbers."""
        with self._sentences():
            rows = self._connection.execute(f"SELECT key FROM points {'' if failed else 'WHERE error IS NULL'}")
            return {key for (key,) in rows if isinstance(key, str)}  # a damaged row may have lost its own

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

    def outcomes(self, keys: Iterable[str]) -> dict[str, tuple[dict[str, float] | None, str | None]]:
        """{key: (metrics, error)} of these points; one of the two is None.

        Raises:
            RecordError: the file is damaged, or lacks one of them.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, tuple[dict[str, float] | None, str | None]] = {}
        for first in range(0, len(wanted), KEYS_A_QUERY):
            some = wanted[first : first + KEYS_A_QUERY]
            with self._sentences():
                places = ", ".join("?" * len(some))
                rows = self._connection.execute(f"SELECT key, metrics, error FROM points WHERE key IN ({places})", some).fetchall()
            found.update((key, self._outcome(key, metrics, error)) for key, metrics, error in rows)
        if lost := [key for key in wanted if key not in found]:
            raise self._damaged(f"point {lost[0][:12]} is lost")
        return found

    def _outcome(self, key: str, metrics: Any, error: Any) -> tuple[dict[str, float] | None, str | None]:
        """What the row of a point says; SQLite's types are promises, and a disk's bits are not."""
        if metrics is None and isinstance(error, str):
            return None, error
        try:
            numbers = json.loads(metrics) if error is None else None
        except (TypeError, ValueError, RecursionError):
            numbers = None
        if not (isinstance(numbers, dict) and "latency_ms" in numbers and all(map(_is_metric, numbers.items()))):
            raise self._damaged(f"point {key[:12]} has no numbers")
        return numbers, None

    def _damaged(self, how: str) -> RecordError:
        return RecordError(
            f"{self._path}: no run store, or a damaged one ({how}); move it away and run the same command again, or choose another folder"
        )

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
        except UnicodeDecodeError as error:  # of a message in which SQLite quotes the file
            raise self._damaged("it holds text that is not UTF-8") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # none: Python itself cannot take what SQLite found
            if code is None or code & 0xFF not in _SURROUNDINGS:
                raise self._damaged(str(error)) from error
            raise RecordError(
                f"{self._path}: {error}; choose another folder for the sweep, or free some space if the disk is full"
            ) from error


def _is_metric(item: tuple[str, Any]) -> bool:
    """Whether this is a name, and a number that figures can be made of."""
    name, value = item
    return name.isascii() and name.isidentifier() and type(value) in (int, float) and abs(value) <= sys.float_info.max
