"""The bitmap by columns: a small case by hand, and its size."""

import numpy as np
import pytest

from xmsim.reference.formats import ColumnBitmap


def test_columns_lie_one_after_the_other_in_each_group_tile():
    dense = np.zeros((65, 66), np.float32)
    dense[0, 0], dense[3, 0], dense[63, 1] = 1, 2, 3  # GroupTile 0
    dense[5, 64] = 4  # 1
    dense[64, 0] = 5  # 2; 3 is empty
    packed = ColumnBitmap.from_dense(dense)
    assert packed.group_offsets.tolist() == [0, 8, 16, 24, 24]  # filled up to multiples of 8
    assert packed.values[:3].tolist() == [1, 2, 3]
    assert packed.values[[8, 16]].tolist() == [4, 5]
    assert packed.bitmap[[0, 1, 2, 64, 128]].tolist() == [0b1001, 1 << 63, 0, 1 << 5, 1]
    assert packed.column_offsets[:4].tolist() == [0, 2, 3, 3]
    assert np.count_nonzero(packed.values) == packed.nonzeros == 5


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_bytes_are_those_of_the_formula(sparsity):
    random = np.random.default_rng(2)
    dense = (random.standard_normal((192, 128)) * (random.random((192, 128)) >= sparsity)).astype(np.float16)
    counts = np.count_nonzero(dense.reshape(3, 64, 2, 64), axis=(1, 3))
    padding = int((-counts % 8).sum())
    expected = 2 * (counts.sum() + padding) + (8 + 2) * dense.size // 64 + 4 * (counts.size + 1)
    assert ColumnBitmap.from_dense(dense).nbytes == expected
