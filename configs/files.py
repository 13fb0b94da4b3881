"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xmsim.configs.errors import XmsimError

MOST_RECORD_BYTES = 2**29  # of a JSON file; a parser holds up to 30 times as much
MOST_TABLE_BYTES = 2**22  # of a CSV file; its rows hold up to 20 times as much


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The bytes of an ordinary file: a pipe would be waited for, and a device may have no end.

    Raises:
        OSError: not readable, no ordinary file, or larger than `most_bytes`.
    """
    size = check_ordinary(path, most_bytes)
    with path.open("rb") as file:
        return file.read(size)


def open_table(path: Path) -> io.StringIO:
    """The text of a CSV file, for csv.reader.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: not UTF-8.
    """
    return io.StringIO(read_bytes(path, MOST_TABLE_BYTES).decode(), newline="")


def check_ordinary(path: Path, most_bytes: int | None = None) -> int:
    """The size of an ordinary file in bytes; raises as `read_bytes`."""
    try:
        facts = path.stat()
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    if stat.S_ISDIR(facts.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device and no file; save it to a file first")
    if most_bytes is not None and facts.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"{facts.st_size} bytes are more than the {most_bytes} that such a file may have")
    return facts.st_size


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before hours are spent on what is to stand in it; nothing is made yet.

    Raises:
        XmsimError: the nearest folder above it that exists is none, or may not be written to.
    """
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise XmsimError(_sentence(path, error)) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, sync it, and rename it: readers see the old file or the new one.

    Raises:
        XmsimError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link of that name would be written through
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise XmsimError(_sentence(path, error)) from error
    finally:
        with suppress(OSError):  # it is gone already, or its folder never was one
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sentence(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{path}: no space left on the disk; nothing was written, free some space and run the same command again"
    return f"{path}: cannot be written ({error.strerror or error}); choose a folder you may write to"
