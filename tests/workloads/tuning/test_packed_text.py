"""A text that is packed by xz: what it says, however it was packed, and how much of it is unpacked."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.workloads.texts import windows
from xmsim.workloads.tuning import text as packed
from xmsim.workloads.tuning.text import read_packed_text


def test_streams_that_follow_each_other_are_one_text(tmp_path: Path) -> None:
    path = tmp_path / "text.xz"
    path.write_bytes(lzma.compress("one\r\n–".encode()) + bytes(4) + lzma.compress(b"two\rthree\n"))
    assert read_packed_text(path) == "one\n–two\nthree\n"


def test_line_ends_of_a_plain_text_are_those_of_a_packed_one(tmp_path: Path) -> None:
    for name, data in (("text.txt", b"a\r\nb\rc\n"), ("text.xz", lzma.compress(b"a\r\nb\rc\n"))):
        (tmp_path / name).write_bytes(data)
        assert read_packed_text(tmp_path / name) == "a\nb\nc\n"


def test_what_unpacks_without_measure_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST_TEXT_BYTES", 2**16)
    monkeypatch.setattr(windows, "MOST_TEXT_BYTES", 2**16)
    path = tmp_path / "text.xz"
    path.write_bytes(lzma.compress(bytes(2**16 + 1)))
    with pytest.raises(XmsimError, match=r"text\.xz: .*unpacks to more than 65536 bytes"):
        read_packed_text(path)
    path.write_bytes(lzma.compress(b"a" * 2**16))
    assert len(read_packed_text(path)) == 2**16
    (tmp_path / "text.txt").write_bytes(b"a" * (2**16 + 1))
    with pytest.raises(XmsimError, match="65537 bytes are more than the 65536"):
        read_packed_text(tmp_path / "text.txt")


@pytest.mark.parametrize("data", [b"", b"no xz", lzma.compress(b"text")[:-3]])
def test_what_is_no_whole_xz_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text.xz"
    path.write_bytes(data)
    with pytest.raises(XmsimError, match=r"not an \.xz file, or a damaged one"):
        read_packed_text(path)
