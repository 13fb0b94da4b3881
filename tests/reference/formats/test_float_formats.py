"""What every format of plain floats promises: the matrix comes back, of its kind and number format; bad input is named."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from xmsim.reference.formats import ColumnBitmap, Macko, TcaBme, TwoFour
from xmsim.reference.formats.bfloat16 import bfloat16_bits

FORMATS = [TcaBme, ColumnBitmap, Macko, TwoFour]


def two_four_matrix(rows, columns, seed=0):
    """float32, 2:4 and sparser still."""
    random = np.random.default_rng(seed)
    order = random.permuted(np.broadcast_to(np.arange(4), (rows, columns // 4, 4)), axis=-1).reshape(rows, columns)
    return (random.standard_normal((rows, columns)) * (order < 2) * (random.random((rows, columns)) < 0.8)).astype(np.float32)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (64, 64), (65, 68), (130, 200), (3, 260)])
def test_the_matrix_comes_back_bit_for_bit(kind, rows, columns):
    dense = two_four_matrix(rows, columns)
    for matrix in (dense, dense.astype(np.float16), bfloat16_bits(dense)):
        back = kind.from_dense(matrix).to_dense()
        assert back.dtype == matrix.dtype
        assert np.array_equal(back << 1 if back.dtype == np.uint16 else back, matrix << 1 if back.dtype == np.uint16 else matrix)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.from_numpy(dense).to(dtype)
        back = kind.from_dense(tensor).to_dense()
        assert back.dtype == dtype
        assert torch.equal(back, tensor)


@pytest.mark.parametrize("kind", FORMATS)
def test_minus_zero_goes_and_subnormals_and_infinities_stay(kind):
    dense = np.zeros((8, 8), np.float16)
    dense[0, :4] = [-0.0, 6e-8, 0, -6e-8]
    dense[1, :2] = [np.inf, -np.inf]
    back = kind.from_dense(dense).to_dense()
    assert np.array_equal(back, dense)
    assert not np.signbit(back[0, 0])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_matrix_of_zeros_comes_back(kind):
    assert not kind.from_dense(np.zeros((70, 68), np.float32)).to_dense().any()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_transposed_and_a_strided_matrix_are_read_right(kind):
    dense = two_four_matrix(72, 136)
    assert np.array_equal(kind.from_dense(np.asfortranarray(dense)).to_dense(), dense)
    assert np.array_equal(kind.from_dense(dense[::2, :64]).to_dense(), dense[::2, :64])
    assert torch.equal(kind.from_dense(torch.from_numpy(np.ascontiguousarray(dense.T)).T).to_dense(), torch.from_numpy(dense))


@pytest.mark.parametrize("kind", FORMATS)
def test_bad_input_is_named(kind):
    with pytest.raises(TypeError, match=r"weights: float64 is not stored; convert to float16, float32 or bfloat16"):
        kind.from_dense(np.zeros((4, 4)))
    with pytest.raises(TypeError, match=r"weights: int8 is not stored"):
        kind.from_dense(torch.zeros((4, 4), dtype=torch.int8))
    with pytest.raises(ValueError, match=r"weights: shape \(4,\) is not \[out_features, in_features\]"):
        kind.from_dense(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"weights: shape \(0, 4\)"):
        kind.from_dense(np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match=r"weights: a dense tensor on the CPU is needed, this one is torch.sparse_coo"):
        kind.from_dense(torch.eye(4).to_sparse())
    for nan in (np.full((4, 4), np.nan, np.float16), np.full((4, 4), np.nan, np.float32), np.full((4, 4), 0xFFC0, np.uint16)):
        with pytest.raises(ValueError, match="weights: there is a NaN among them"):
            kind.from_dense(nan)


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_that_do_not_fit_are_refused(kind):
    packed = kind.from_dense(two_four_matrix(64, 128))
    with pytest.raises(ValueError, match=r"values: .* these weights are damaged, pack them again"):
        replace(packed, values=packed.values[:-8])
    with pytest.raises(ValueError, match=r"values: .* belongs"):
        replace(packed, values=packed.values.astype(np.float64))
    with pytest.raises(ValueError, match="is no weight matrix"):
        replace(packed, shape=(0, 128))
    with pytest.raises(ValueError, match="is no weight matrix"):
        replace(packed, element="float8")


@pytest.mark.parametrize("kind", [TcaBme, ColumnBitmap])
def test_a_bitmap_with_more_bits_than_values_is_refused(kind):
    packed = kind.from_dense(two_four_matrix(64, 128))
    with pytest.raises(ValueError, match="group_offsets: they do not fit the bits of the bitmap"):
        replace(packed, bitmap=~packed.bitmap)
    with pytest.raises(ValueError, match="group_offsets: they do not rise from 0"):
        replace(packed, group_offsets=packed.group_offsets[::-1].copy())


def test_the_formats_of_the_native_kernels_need_neither_numba_nor_safetensors():
    code = (
        "import sys, xmsim.reference.formats as formats; formats.SparseBitmap; sys.exit(bool({'numba', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
