"""An export of Nsight Systems: kernels and tokens of counted rounds, and files that are none."""

import sqlite3

import pytest

from xmsim.workloads.measuring.nsys_export import NsysError, read_nsys

MS = 1_000_000
NAMES = {1: "spdp_columns", 2: "sum_parts", 3: "repeat 0: torch", 4: "gemv"}
KERNELS = [  # start, length and name, in milliseconds
    (1, 3, 4),  # warm-up
    (11, 2, 4),
    (15, 3, 4),
    (31, 1, 1),
    (32, 1, 2),
    (36, 2, 1),
    (39, 1, 2),
    (60, 1, 2),  # in no round
]
RANGES = [
    (0, 9, "warm-up: torch", None),
    (0, 5, "token 0", None),
    (10, 20, None, 3),
    (10, 14, "token 0", None),
    (14, 19, "token 1", None),
    (30, 41, "repeat 0: spdp", None),
    (30, 34, "token 0", None),
    (35, 41, "token 1", None),
    (50, None, "a mark", None),
]


@pytest.fixture
def export(tmp_path):
    path = tmp_path / "run 1.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, shortName INTEGER, streamId INTEGER)")
        database.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER)")
        database.executemany("INSERT INTO StringIds VALUES (?, ?)", NAMES.items())
        kernels = [(start * MS, (start + length) * MS, name, 7) for start, length, name in KERNELS]
        database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?)", kernels)
        ranges = [(start * MS, end and end * MS, text, key) for start, end, text, key in RANGES]
        database.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, ?)", ranges)
    database.close()
    return path


def test_kernels_of_counted_rounds_are_added_up(export):
    found = {kernel.name: (kernel.calls, kernel.total_ms) for kernel in read_nsys(export).kernels}
    assert found == {"gemv": (2, 5), "spdp_columns": (2, 3), "sum_parts": (3, 3)}
    assert sum(kernel.share for kernel in read_nsys(export).kernels) == pytest.approx(1)


def test_tokens_are_given_by_kind_of_layer_without_the_warm_up(export):
    torch, spdp = read_nsys(export).tokens
    assert (torch.name, torch.tokens, torch.span_ms, torch.kernel_ms, torch.launches) == ("torch", 2, 4.5, 2.5, 1)
    assert (spdp.name, spdp.tokens, spdp.span_ms, spdp.kernel_ms, spdp.launches) == ("spdp", 2, 5, 2.5, 2)


def test_without_ranges_there_are_kernels_alone(export):
    with sqlite3.connect(export) as database:
        database.execute("DROP TABLE NVTX_EVENTS")
    database.close()
    profile = read_nsys(export)
    assert profile.tokens == () and sum(kernel.calls for kernel in profile.kernels) == len(KERNELS)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL", "no column start of table CUPTI_ACTIVITY_KIND_KERNEL"),
        ("ALTER TABLE NVTX_EVENTS DROP COLUMN textId", "no column textId of table NVTX_EVENTS"),
        ("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL", "no CUDA kernel in it"),
        ("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET start = 'now'", "cannot be read as an sqlite export"),
        ("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET shortName = NULL", "cannot be read as an sqlite export"),
    ],
)
def test_a_database_without_what_is_read_is_refused(export, statement, sentence):
    with sqlite3.connect(export) as database:
        database.execute(statement)
    database.close()
    with pytest.raises(NsysError, match=sentence):
        read_nsys(export)


def test_a_file_that_is_no_export_is_refused_in_one_sentence_and_left_alone(tmp_path):
    with pytest.raises(NsysError, match=r"cannot be read \(No such file or directory\); make one with nsys export --type sqlite"):
        read_nsys(tmp_path / "none.sqlite")
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"SQLite format 3" + bytes(600))
    with pytest.raises(NsysError, match=r"other\.sqlite: "):
        read_nsys(other)
    assert [path.name for path in tmp_path.iterdir()] == ["other.sqlite"]
