import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.dynax_segments import segments, window_segments
from xmsim.workloads.attention import pack


def test_segments_come_from_kept_keys():
    assert segments(np.array([0, 1, 4, 5, 8, 9, 32]), 4).tolist() == [0, 1, 1, 2, 2, 3, 8]


@settings(max_examples=100, deadline=None)
@given(
    heads=st.integers(1, 2),
    queries=st.integers(1, 40),
    keys=st.integers(1, 300),
    block=st.sampled_from([1, 7, 16, 32, 48, 64, 100, 192, 1000]),
    columns=st.integers(1, 9),
    window_rows=st.integers(1, 50),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_packed_words_give_the_segments_of_the_unpacked_mask(heads, queries, keys, block, columns, window_rows, density, seed):
    keep = np.random.default_rng(seed).random((heads, queries, keys)) < density
    found = window_segments(pack(keep), keys=keys, block=block, columns=columns, kept=5, window_rows=window_rows)
    counts = np.add.reduceat(keep.astype(np.int64), np.arange(0, keys, block), axis=2)
    assert np.array_equal(found.by_block, np.add.reduceat(-(-counts // columns), np.arange(0, queries, window_rows), axis=1))
    assert found.overfull_blocks == (counts > 5).sum()
