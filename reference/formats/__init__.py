"""Storage formats of sparse weights: what a kernel reads, bit for bit."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from xmsim.reference.formats.dense_tiles import DenseTiles
from xmsim.reference.formats.sparse_bitmap import SparseBitmap

_HOMES = {
    "ColumnBitmap": "column_bitmap",
    "FORMATS": "format_file",
    "Macko": "macko",
    "StoredFormat": "format_file",
    "TcaBme": "tca_bme",
    "TwoFour": "two_four",
    "read_format": "format_file",
    "write_format": "format_file",
}

__all__ = ["DenseTiles", "SparseBitmap", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a name's module when it is asked for: the native kernels need only the two above, and run without numba and safetensors."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """With the names that are not imported yet, for help() and completion."""
    return sorted({*globals(), *__all__})
