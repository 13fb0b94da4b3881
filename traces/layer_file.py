"""The tensors of one layer in one safetensors file; masks and weight bitmaps, as 64-bit words, in files of their own.

The format is eight bytes of header length, a JSON header and raw little-endian numbers. It is read and written here and
not through the safetensors package because that needs torch for bfloat16, and because a layer is written head by head.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from xmsim.configs.files import check_ordinary
from xmsim.traces.errors import TraceError
from xmsim.traces.storage import RAW_TYPES, StorageDtype, decode, encode

Tensors = Mapping[str, npt.NDArray[np.float32]]
Words = Mapping[str, npt.NDArray[np.uint64]]
MOST_HEADER_BYTES = 2**20
_WORD_CODE = "U64"
_CODES: dict[StorageDtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_layer_file(path: Path, tensors: Tensors, valid_tokens: tuple[int, ...], dtype: StorageDtype) -> None:
    """Write tensors [windows, heads, tokens, head_dim]; tokens after a window's valid ones are written as zeros."""
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size * RAW_TYPES[dtype].itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    with path.open("wb") as file:
        _write_header(file, entries)
        for tensor in tensors.values():
            _write_heads(file, tensor, valid_tokens, dtype)


def write_words_file(path: Path, words: Words) -> None:
    """Write bits that are packed in 64-bit words, of any shapes."""
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, array in words.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": _WORD_CODE, "shape": list(array.shape), "data_offsets": [start, end]}
    with path.open("wb") as file:
        _write_header(file, entries)
        for array in words.values():
            file.write(np.ascontiguousarray(array, "<u8").data)


def _write_header(file: BinaryIO, entries: Mapping[str, Any]) -> None:
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)


def _write_heads(file: BinaryIO, tensor: npt.NDArray[np.float32], valid_tokens: tuple[int, ...], dtype: StorageDtype) -> None:
    for window, valid in zip(tensor, valid_tokens, strict=True):
        for head in window:
            stored = encode(head, dtype)
            stored[valid:] = 0
            file.write(stored.data)


def read_layer_file(
    path: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]], dtype: StorageDtype
) -> dict[str, npt.NDArray[np.float32]]:
    """Read tensors of known shapes as float32, after checking the whole file against its SHA-256.

    Raises:
        TraceError: the file is missing, truncated or edited, or does not hold these shapes in this format.
    """
    stored = _read_file(path, sha256, shapes, _CODES[dtype], RAW_TYPES[dtype])
    return {name: decode(values, dtype) for name, values in stored.items()}


def read_words_file(path: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.uint64]]:
    """Read words of known shapes; else as `read_layer_file`."""
    return _read_file(path, sha256, shapes, _WORD_CODE, np.dtype("<u8"))


def _read_file(
    path: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]], code: str, raw: np.dtype[Any]
) -> dict[str, npt.NDArray[Any]]:
    most_bytes = MOST_HEADER_BYTES + raw.itemsize * sum(math.prod(shape) for shape in shapes.values())
    try:
        check_ordinary(path, most_bytes)
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or error}); run the same `xmsim extract` again to restore it") from error
    if hashlib.sha256(data.data).hexdigest() != sha256:
        raise TraceError(
            f"{path}: its {data.size} bytes do not match the SHA-256 in manifest.json, the file was truncated or edited; "
            "run the same `xmsim extract` again to restore it"
        )
    try:
        base = 8 + int.from_bytes(data[:8].tobytes(), "little")
        entries = json.loads(data[8:base].tobytes())
        return {name: _tensor(data, base, entries[name], shape, code, raw) for name, shape in shapes.items()}
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise TraceError(f"{path}: not what manifest.json says ({error}); the manifest was edited, extract the trace again") from error


def _tensor(
    data: npt.NDArray[np.uint8], base: int, entry: dict[str, Any], shape: tuple[int, ...], code: str, raw: np.dtype[Any]
) -> npt.NDArray[Any]:
    if entry["dtype"] != code or tuple(entry["shape"]) != shape:
        raise ValueError(f"{entry['dtype']} {entry['shape']} instead of {code} {list(shape)}")
    return np.frombuffer(data, raw, count=math.prod(shape), offset=base + entry["data_offsets"][0]).reshape(shape)
