"""Bitmaps of the nonzero elements of a matrix."""

import numpy as np
import pytest

from xmsim.reference.kernels import native
from xmsim.reference.kernels.nonzeros import nonzero_words

PATHS = ["numpy", "portable", "amx"]


def words_on(path, matrix, monkeypatch):
    if path == "numpy":
        monkeypatch.setattr(native, "library", lambda: None)
        native.kernel.cache_clear()
        try:
            return nonzero_words(matrix)
        finally:
            native.kernel.cache_clear()
    with native.limited_isa(path):
        return nonzero_words(matrix, threads=2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (37, 130), (5, 63), (2, 0)])
def test_each_bit_says_whether_its_element_is_not_zero(path, dtype, shape, monkeypatch):
    generator = np.random.default_rng(3)
    matrix = generator.standard_normal(shape).astype(np.float32)
    matrix[generator.random(shape) < 0.5] = 0
    if matrix.size:
        matrix[0, 0] = -0.0
    if shape == (37, 130):
        matrix[1, 2] = 1e-45  # the smallest number is not zero
    given = matrix if dtype == np.float32 else (matrix.view(np.uint32) >> 16).astype(np.uint16)
    value = matrix if dtype == np.float32 else (given.astype(np.uint32) << 16).view(np.float32)
    words = words_on(path, given, monkeypatch)
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(bits[:, : shape[1]], value != 0) and not bits[:, shape[1] :].any()


def test_what_is_no_matrix_of_floats_is_refused():
    with pytest.raises(ValueError, match=r"matrix: must be float32 or uint16 \[rows, columns\], got int8 \[2, 2\]"):
        nonzero_words(np.zeros((2, 2), np.int8))
    with pytest.raises(ValueError, match="contiguous"):
        nonzero_words(np.zeros((4, 4), np.float32)[:, ::2])
