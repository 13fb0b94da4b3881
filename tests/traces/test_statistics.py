from __future__ import annotations

import numpy as np
import pytest

from xmsim.traces.statistics import block_classes, block_counts, live_tile_share


def mask(*rows: str) -> np.ndarray:
    return np.array([[pair == "1" for pair in row] for row in rows])


CAUSAL = np.tril(np.ones((4, 4), bool))  # 10 pairs


def test_kept_keys_are_counted_in_blocks_with_a_short_last_one():
    counts = block_counts(mask("11011", "00001"), block=2)
    np.testing.assert_array_equal(counts, [[2, 1, 1], [0, 0, 1]])


def test_a_block_may_keep_more_keys_than_a_byte_counts():
    assert block_counts(np.ones((1, 300), bool), block=300) == [[300]]


def test_block_classes_leave_out_blocks_without_an_allowed_pair():
    # six blocks of two keys a head are allowed; of these twelve 2 + 1 are empty, 3 + 4 keep one key, 1 + 1 keep two
    keep = np.stack([mask("1000", "1100", "0010", "0001"), mask("1000", "1100", "0010", "0101")])
    classes = block_classes(keep, CAUSAL, block=2, kept_low=1)
    assert (classes.empty, classes.low, classes.high) == pytest.approx((3 / 12, 7 / 12, 2 / 12))


@pytest.mark.parametrize(("rows", "share"), [(1, 9 / 12), (2, 5 / 6), (4, 4 / 4)])
def test_a_tile_is_live_where_any_of_its_rows_keeps_a_key(rows: int, share: float):
    keep = np.stack([mask("1000", "1100", "0010", "0001"), mask("1000", "1100", "0010", "0101")])
    assert live_tile_share(keep, CAUSAL, rows=rows, block=2) == share


def test_tiles_at_the_edges_may_be_short():
    keep, allowed = np.zeros((1, 5, 5), bool), np.ones((5, 5), bool)
    keep[0, 4, 4] = True
    assert live_tile_share(keep, allowed, rows=4, block=4) == 1 / 4
