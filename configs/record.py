"""The form every file of ours shares: a header that says what the file is, JSON with units in its keys, no NaN.

Standard library only: measurement records are also written on hosts that have nothing else.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xmsim.configs.errors import RecordError
from xmsim.configs.files import MOST_RECORD_BYTES, read_bytes, write_text


def software_version() -> str:
    """`<version>+<commit>` in a checkout, `<version>` in an installed wheel."""
    try:
        number = version("xmsim")
    except PackageNotFoundError:
        number = "0"
    commit = _commit(Path(__file__).resolve().parents[1] / ".git")
    return f"{number}+{commit[:12]}" if commit else number


def _commit(git: Path) -> str:
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except OSError:
        return ""


def record_text(kind: str, number: int, body: dict[str, Any]) -> str:
    """A record as JSON text; `kind` is trace, result, measurement, evaluation, schedule or sweep."""
    header = {"format": f"xmsim.{kind}", "version": number, "xmsim": software_version()}
    return json.dumps(header | body, indent=1, allow_nan=False) + "\n"


def write_record(path: Path, kind: str, number: int, body: dict[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_text(path, record_text(kind, number, body))


def record_kind(path: Path) -> str:
    """The kind a record file says it is, e.g. `result`.

    Raises:
        RecordError: the file cannot be read or is no record of ours.
    """
    return str(_read_header(path)["format"]).removeprefix("xmsim.")


def read_record(path: Path, kind: str, newest: int) -> dict[str, Any]:
    """The body of a record of this kind, of version 1 up to `newest`.

    Raises:
        RecordError: not readable, another kind, or a later version than this xmsim knows.
    """
    data = _read_header(path)
    if data["format"] != f"xmsim.{kind}":
        raise RecordError(f"{path}: this is a {data['format']} file, a xmsim.{kind} file is needed here")
    number = data.get("version")
    if not isinstance(number, int) or number < 1:
        raise RecordError(f"{path}: the record has no version; write it again with xmsim")
    if number > newest:
        raise RecordError(f"{path}: version {number} of xmsim.{kind} is newer than this xmsim reads ({newest}); upgrade xmsim")
    return data


def _read_header(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, MOST_RECORD_BYTES).decode()
        data = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is text that no file can hold
            json.dumps(data, ensure_ascii=False).encode()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise RecordError(f"{path}: not a JSON record ({error}); was it truncated or edited?") from error
    if not isinstance(data, dict) or not str(data.get("format", "")).startswith("xmsim."):
        raise RecordError(f"{path}: not written by xmsim: it has no `format` that starts with xmsim.")
    return data
