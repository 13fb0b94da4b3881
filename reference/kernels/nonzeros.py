"""Which elements of a matrix are not zero, as packed words. Imports only numpy and ctypes."""

from __future__ import annotations

from ctypes import c_int, c_int64, c_void_p

import numpy as np
import numpy.typing as npt

from xmsim.reference.kernels import native

_WORD_BITS = 64


def nonzero_words(matrix: np.ndarray, threads: int | None = None) -> npt.NDArray[np.uint64]:
    """Bit j % 64 of word j // 64 of a row says whether element j is not zero; minus zero is zero.

    Args:
        matrix: [rows, columns], contiguous; float32, or a 16-bit float as its bits (uint16).
        threads: None: as torch, or all cores.
    Returns: uint64 [rows, ceil(columns / 64)].
    Raises:
        ValueError: another shape, type or memory layout.
    """
    kinds = {np.dtype(np.float32): "xm_nonzero_words_32", np.dtype(np.uint16): "xm_nonzero_words_16"}
    if matrix.ndim != 2 or matrix.dtype not in kinds:
        raise ValueError(f"matrix: must be float32 or uint16 [rows, columns], got {matrix.dtype} {list(matrix.shape)}")
    first = native.address(matrix)
    rows, columns = matrix.shape
    find = native.kernel(kinds[matrix.dtype], None, c_void_p, c_int64, c_int64, c_void_p, c_int)
    words = np.zeros((rows, -(-columns // _WORD_BITS)), np.uint64)
    if find is None:
        magnitude = matrix.view(np.uint32) << 1 if matrix.dtype == np.float32 else matrix << 1
        packed = np.packbits(magnitude != 0, axis=1, bitorder="little")
        words.view(np.uint8)[:, : packed.shape[1]] = packed
    elif words.size:
        find(first, rows, columns, native.address(words), threads or native.default_threads())
    return words
