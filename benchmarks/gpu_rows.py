"""What a section of the GPU benchmark gives: rows of a record, and sentences about what it could not do."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any] | str


class WrongResult(RuntimeError):
    """A kernel that runs and is wrong."""


def one_line(error: BaseException) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"
