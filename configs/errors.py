"""Errors whose text is written for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

LONGEST_LINE = 1000  # signs of a sentence; what a damaged file says may be longer than anybody reads


class XmsimError(Exception):
    """One clear sentence: the place, the fact and the way out. The command line prints it and exits with status 2."""


class ConfigError(XmsimError):
    """A configuration file that cannot be used; the text starts with file:line:column."""


class RecordError(XmsimError):
    """A record file (trace, result, measurement) that cannot be read."""


def printable(sentence: str) -> str:
    """A sentence as a terminal may see it: control signs that came from a file are escaped, and what is very long is cut."""
    lines = (line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in sentence.split("\n"))
    return "\n".join("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line) for line in lines)


def nearest(name: str, known: Sequence[str]) -> str:
    """The way out after an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
