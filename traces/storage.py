"""The three number formats a trace may be stored in, read and written without torch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xmsim.traces.errors import TraceError

StorageDtype = Literal["float32", "bfloat16", "float16"]

RAW_TYPES: dict[StorageDtype, np.dtype[Any]] = {  # what the bytes of a stored number are, to NumPy
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<f2"),
}


def storage_dtype(name: str) -> StorageDtype:
    """The storage format of this name.

    Raises:
        TraceError: there is none.
    """
    for known in RAW_TYPES:
        if known == name:
            return known
    raise TraceError(f"no storage dtype {name}; choose {', '.join(RAW_TYPES)}")


def encode(values: npt.NDArray[np.float32], dtype: StorageDtype) -> npt.NDArray[Any]:
    """Round float32 to a storage format, to nearest and ties to even; what is too large becomes infinite.

    Returns: the same shape in `RAW_TYPES[dtype]`; bfloat16 as its 16 bits.
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        half = ((bits >> 16) & 1) + np.uint32(0x7FFF)  # just below half of the last place, or half where that place is odd
        return ((bits + half) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values).astype(RAW_TYPES[dtype])


def decode(stored: npt.NDArray[Any], dtype: StorageDtype) -> npt.NDArray[np.float32]:
    """The float32 values, exact, of numbers in `RAW_TYPES[dtype]`."""
    if dtype == "bfloat16":
        return (stored.astype("<u4") << 16).view("<f4")
    return stored.astype("<f4", copy=False)


def rounded(value: float, dtype: StorageDtype) -> float:
    """The value that a number has once it is stored."""
    return float(decode(encode(np.array([value], np.float32), dtype), dtype)[0])
