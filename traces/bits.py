"""Masks and bitmaps in 64-bit words: bit j % 64 of word j // 64 is entry j of the last axis (little-endian bits)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WORD_BITS = 64


def pack(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Pack a bool array [..., n] to uint64 [..., ceil(n / 64)]; the bits behind the last entry are 0."""
    padding = -bits.shape[-1] % WORD_BITS
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, padding)]) if padding else bits
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view(np.uint64)


def unpack(words: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.bool_]:
    """The inverse of `pack`: bool [..., count]."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, count=count, bitorder="little").view(bool)
