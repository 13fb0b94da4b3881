"""The run store: every point once, whole or not at all, whatever happens to the process that writes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError
from xmsim.reports.store import RunStore, StoredPoint


def stored(key: str, latency_ms: float | None = 1.0, error: str | None = None) -> StoredPoint:
    metrics = None if latency_ms is None else {"latency_ms": latency_ms}
    return StoredPoint(key, "dynax_s", "xm_32", "0" * 64, {"clock_mhz": 500}, metrics, error)


def test_points_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / "points.sqlite"
    with RunStore(path) as store:
        assert store.keys() == set() and store.outcomes([]) == {}
        store.add([stored("a", 0.1), stored("b", None, "too small")])
    with RunStore(path) as store:
        assert store.keys() == {"a", "b"} and store.keys(failed=False) == {"a"}
        assert store.outcomes("ab") == {"a": ({"latency_ms": 0.1}, None), "b": (None, "too small")}
        assert store.outcomes("b") == {"b": (None, "too small")}


def test_a_point_is_kept_once_and_numbers_are_never_replaced(tmp_path: Path) -> None:
    with RunStore(tmp_path / "points.sqlite") as store:
        store.add([stored("a", 7)])
        store.add([stored("a", 8), stored("a", None, "too late")])
        assert store.outcomes("a") == {"a": ({"latency_ms": 7}, None)}


def test_a_failed_point_may_be_tried_again(tmp_path: Path) -> None:
    with RunStore(tmp_path / "points.sqlite") as store:
        store.add([stored("a", None, "out of memory")])
        store.add([stored("a", 8)])
        assert store.outcomes("a") == {"a": ({"latency_ms": 8}, None)}


@pytest.mark.parametrize("bad", [stored("b", None, None), stored("b", 1, "both"), stored("b", float("nan"))])
def test_of_a_group_with_a_fault_nothing_is_kept(tmp_path: Path, bad: StoredPoint) -> None:
    with RunStore(tmp_path / "points.sqlite") as store:
        with pytest.raises((RecordError, ValueError)):
            store.add([stored("a"), bad])
        store.add([stored("c")])
        assert store.keys() == {"c"}


def test_thousands_of_points_are_found_and_one_that_is_not_there_is_missed(tmp_path: Path) -> None:
    keys = [f"{number:04}" for number in range(1234)]
    with RunStore(tmp_path / "points.sqlite") as store:
        store.add([stored(key, int(key)) for key in keys])
        found = store.outcomes(keys[5:])
        assert {key: metrics["latency_ms"] for key, (metrics, _) in found.items() if metrics} == {key: int(key) for key in keys[5:]}
        with pytest.raises(RecordError, match=r"damaged one \(point 9999 is lost\)"):
            store.outcomes([*keys, "9999"])


def test_two_stores_on_one_file_share_their_points(tmp_path: Path) -> None:
    path = tmp_path / "points.sqlite"
    with RunStore(path) as one, RunStore(path) as other:
        one.add([stored("a")])
        other.add([stored("a"), stored("b")])
        assert one.keys() == other.keys() == {"a", "b"}


WRITER = """\
import sys
from pathlib import Path
from xmsim.reports.store import RunStore, StoredPoint
with RunStore(Path(sys.argv[1])) as store:
    for number in range(10**6):
        store.add([StoredPoint(f"{number}.{half}", "m", "x", "0", {}, {"latency_ms": number}, None) for half in (0, 1)])
        print(number, flush=True)
"""


def test_after_a_kill_every_group_is_there_whole_and_nothing_that_was_said_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "points.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            writer.stdout.readline()
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        said = [line for line in writer.stdout.read().split() if line]
    last = int(said[-2]) if len(said) > 1 else 49  # of the last line a part may be missing
    with RunStore(path) as store:
        keys = store.keys()
        store.add([stored("next")])
    assert len(keys) % 2 == 0 and keys >= {f"{number}.{half}" for number in range(last + 1) for half in (0, 1)}


def test_it_is_in_write_ahead_mode_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "points.sqlite"
    with RunStore(path), sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA application_id").fetchone() == (0x786D7377,)
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
    other.close()


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "thesis.txt"
    text.write_text("It was a dark and stormy night." * 100)
    with pytest.raises(RecordError, match=r"thesis.txt: no run store, or a damaged one \(file is not a database\); move it away"):
        RunStore(text)
    assert text.read_text().startswith("It was")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(RecordError, match="a database of another program; choose another folder"):
        RunStore(foreign)
    assert foreign.read_bytes() == before
    later = tmp_path / "later.sqlite"
    with RunStore(later), sqlite3.connect(later) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(RecordError, match="version 9 of the run store is newer than this xmsim reads; upgrade xmsim"):
        RunStore(later)
    with pytest.raises(RecordError, match="cannot be written"):
        RunStore(text / "points.sqlite")
    (tmp_path / "folder").mkdir()
    (tmp_path / "leads nowhere").symlink_to(tmp_path / "not there")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "leads nowhere", "pipe"):
        with pytest.raises(RecordError, match=f"{name}: cannot be written"):
            RunStore(tmp_path / name)
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE points SET metrics = '{\"latency_ms\": '",
        "UPDATE points SET metrics = '[1]'",
        "UPDATE points SET metrics = '{\"latencx_ms\": 1}'",
        "UPDATE points SET metrics = '{\"latency_ms\": 1e999}'",
        'UPDATE points SET metrics = \'{"latency_ms": "1"}\'',
        'UPDATE points SET metrics = \'{"latency_ms": 1, "a\nb": 2}\'',
        "UPDATE points SET metrics = x'ff'",
        "UPDATE points SET metrics = NULL, error = x'ff'",
        "UPDATE points SET metrics = NULL, error = CAST(x'ff' AS TEXT)",
        "UPDATE points SET metrics = printf('%.*c', 100000, '[')",
    ],
)
def test_a_row_that_says_something_else_is_a_sentence(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "points.sqlite"
    with RunStore(path) as store, closing(sqlite3.connect(path)) as other:
        store.add([stored("a")])
        other.execute("PRAGMA ignore_check_constraints = ON")
        other.execute(statement)
        other.commit()
        with pytest.raises(RecordError, match=r"points.sqlite: no run store, or a damaged one \(.+\); move it away") as refused:
            store.outcomes("a")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE points",
        "ALTER TABLE points RENAME COLUMN error TO fault",
        "CREATE TRIGGER more AFTER INSERT ON points BEGIN DELETE FROM points; END",
        "CREATE TABLE more (name TEXT)",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
    ],
)
def test_a_store_of_other_tables_is_refused_before_it_is_read(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "points.sqlite"
    with RunStore(path), closing(sqlite3.connect(path)) as other:
        other.execute(statement)
        if statement.startswith("DROP"):  # and in its place one that has no end
            endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
            other.execute(f"CREATE VIEW points(key) AS {endless}")
        other.commit()
    with pytest.raises(RecordError, match="its tables are not those of a run store"):
        RunStore(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_truncated_store_is_a_sentence(tmp_path: Path, share: float) -> None:
    path = tmp_path / "points.sqlite"
    with RunStore(path) as store:
        store.add([stored(f"{number:064}") for number in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    sentence = r"no run store, or a damaged one \(.+\); move it away and run the same command again"
    with pytest.raises(RecordError, match=sentence), RunStore(path) as store:
        store.outcomes(store.keys())
