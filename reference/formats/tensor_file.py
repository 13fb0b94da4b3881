"""Arrays and their facts in one safetensors file that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xmsim.configs.errors import RecordError
from xmsim.configs.files import check_ordinary, write_whole
from xmsim.configs.record import software_version


def write_tensor_file(path: Path, kind: str, number: int, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write a file of this kind and version, whole or not at all.

    Raises:
        XmsimError: the disk is full or the folder cannot be written.
    """
    metadata = {"format": f"xmsim.{kind}", "version": str(number), "xmsim": software_version(), "facts": json.dumps(facts, allow_nan=False)}
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(arrays, temporary, metadata))


def read_tensor_file(path: Path, kind: str, newest: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a file of this kind, of version 1 up to `newest`.

    Raises:
        RecordError: not readable, damaged, another kind, or a later version than this xmsim knows.
    """
    try:
        check_ordinary(path)  # an operating system's error says more than that of safetensors
        with path.open("rb"):
            pass
        with safe_open(path, framework="numpy") as file:
            facts = _read_header(path, file.metadata() or {}, kind, newest)
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118, it is no mapping
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, TypeError, RecursionError, MemoryError) as error:  # more than can be mapped, too
        raise RecordError(f"{path}: not a whole safetensors file of ours ({error}); was it truncated or edited? make it again") from error


def _read_header(path: Path, metadata: Mapping[str, str], kind: str, newest: int) -> dict[str, Any]:
    found = metadata.get("format", "")
    if not found.startswith("xmsim."):
        raise RecordError(f"{path}: not written by xmsim: its metadata has no `format` that starts with xmsim.")
    if found != f"xmsim.{kind}":
        raise RecordError(f"{path}: this is a {found} file, a xmsim.{kind} file is needed here")
    number = int(metadata.get("version", "0"))
    if number < 1:
        raise RecordError(f"{path}: the file has no version; write it again with xmsim")
    if number > newest:
        raise RecordError(f"{path}: version {number} of xmsim.{kind} is newer than this xmsim reads ({newest}); upgrade xmsim")
    facts = json.loads(metadata.get("facts", ""))
    if not isinstance(facts, dict):
        raise ValueError("its facts are no mapping")
    return facts
