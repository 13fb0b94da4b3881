"""Sparse matrix times sparse vector."""

import numba
import numpy as np
import pytest
import torch

from xmsim.reference.activations import sparsified, spmspv, threshold_keep
from xmsim.reference.formats import ColumnBitmap
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values


def weights_and_inputs(rows, columns, tokens=3, static=0.5, threshold=0.7):
    random = np.random.default_rng(rows)
    weight = (random.standard_normal((rows, columns)) * (random.random((rows, columns)) >= static)).astype(np.float32)
    x = random.standard_normal((tokens, columns)).astype(np.float32)
    return weight, sparsified(x, threshold_keep(x, threshold=threshold))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 64), (70, 130), (256, 1000)])
@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
def test_its_error_is_that_of_the_plain_product(rows, columns, element):
    weight, x = weights_and_inputs(rows, columns)
    stored = {"float32": weight, "float16": weight.astype(np.float16), "bfloat16": bfloat16_bits(weight)}[element]
    exact = bfloat16_values(stored) if element == "bfloat16" else stored.astype(np.float32)
    reference = x.astype(np.float64) @ exact.astype(np.float64).T
    plain_error = np.abs(x @ exact.T - reference).max()
    found = spmspv(ColumnBitmap.from_dense(stored), x)
    assert found.dtype == np.float32
    assert found.shape == (3, rows)
    assert np.abs(found - reference).max() <= 2 * plain_error + np.finfo(np.float32).eps * np.abs(reference).max()


def test_full_columns_up_to_the_last_of_a_group_tile_are_multiplied():
    weight = np.arange(1, 64 * 64 + 1, dtype=np.float32).reshape(64, 64)
    assert np.array_equal(spmspv(ColumnBitmap.from_dense(weight), np.eye(64, dtype=np.float32)), weight.T)


def test_a_skipped_column_is_not_read():
    weight = np.full((8, 8), np.inf, np.float32)
    weight[:, 0] = 1
    x = np.zeros(8, np.float32)
    x[0] = 3
    assert spmspv(ColumnBitmap.from_dense(weight), x).tolist() == [3] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_product_is_of_the_kind_and_format_of_the_inputs(dtype):
    weight, x = weights_and_inputs(96, 128)
    packed = ColumnBitmap.from_dense(torch.from_numpy(weight).to(dtype))
    inputs = torch.from_numpy(x).to(dtype).reshape(1, 3, 128)
    found = spmspv(packed, inputs)
    assert found.dtype == dtype
    assert found.shape == (1, 3, 96)
    expected = inputs.float() @ torch.from_numpy(weight).to(dtype).float().T
    torch.testing.assert_close(found.float(), expected.to(dtype).float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


def test_the_number_of_threads_changes_no_bit():
    weight, x = weights_and_inputs(300, 500)
    packed = ColumnBitmap.from_dense(weight)
    threads = numba.get_num_threads()
    products = []
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            products.append(spmspv(packed, x))
    finally:
        numba.set_num_threads(threads)
    assert all(np.array_equal(product, products[0]) for product in products)


def test_bad_arguments_are_named():
    packed = ColumnBitmap.from_dense(np.ones((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"x: shape \(5,\) does not end with the 6 inputs"):
        spmspv(packed, np.ones(5, np.float32))
    with pytest.raises(ValueError, match="x: float64 is not multiplied"):
        spmspv(packed, np.ones(6))
    with pytest.raises(ValueError, match="x: a tensor on the CPU is needed, this one is on meta"):
        spmspv(packed, torch.ones(6, device="meta"))
