from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.traces.statistics import block_classes, block_counts, gather_turns, group_keep, live_tile_share, union_size


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


def random_mask(data: st.DataObject, heads: int) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = heads, data.draw(st.integers(1, 13)), data.draw(st.integers(1, 20))
    return rng.random(shape) < data.draw(st.sampled_from([0.0, 0.1, 0.5]))


def mean(sizes: list[int]) -> float:
    return sum(sizes) / len(sizes) if sizes else 0.0


def test_a_union_counts_the_different_keys_of_a_tile_and_leaves_out_dead_tiles():
    keep = np.stack([mask("1100", "0100", "0000", "0001"), mask("0000", "0000", "1000", "0100")])
    assert union_size(keep, rows=1, block=2) == 6 / 5
    assert union_size(keep, rows=2, block=2) == 5 / 3  # keys 0 and 1; key 3; keys 0 and 1
    assert union_size(keep, rows=4, block=4) == 5 / 2
    assert union_size(group_keep(keep, 1), rows=1, block=4) == (2 + 1 + 1 + 2) / 4


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 6), block=st.integers(1, 8))
def test_the_union_of_a_tile_is_the_set_of_its_kept_keys(data: st.DataObject, rows: int, block: int):
    keep = random_mask(data, heads=2)
    tiles: dict[tuple[int, int, int], set[int]] = {}
    for head, query, key in zip(*np.nonzero(keep), strict=True):
        tiles.setdefault((head, query // rows, key // block), set()).add(key)
    assert union_size(keep, rows=rows, block=block) == mean([len(keys) for keys in tiles.values()])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), block=st.integers(1, 8))
def test_the_union_with_one_row_equals_the_list(data: st.DataObject, block: int):
    keep = random_mask(data, heads=3)
    lists = block_counts(keep, block)
    size = union_size(keep, rows=1, block=block)
    assert size == mean(lists[lists > 0].tolist())
    assert size == union_size(group_keep(keep, 3), rows=1, block=block)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), block=st.integers(1, 8), rows=st.integers(2, 5))
def test_a_union_shrinks_to_the_list_where_neighbours_agree_and_never_exceeds_its_block(data: st.DataObject, block: int, rows: int):
    keep = random_mask(data, heads=2)
    alone = union_size(keep, rows=1, block=block)
    assert union_size(np.repeat(keep, rows, axis=1), rows=rows, block=block) == alone
    assert union_size(keep, rows=rows, block=block) <= min(block, rows * alone * (1 + 1e-12))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), block=st.integers(1, 8))
def test_the_union_of_a_group_is_that_of_its_heads_keys(data: st.DataObject, block: int):
    keep = random_mask(data, heads=6)
    sizes = union_size(group_keep(keep, 2), rows=1, block=block)
    lists: dict[tuple[int, int, int], set[int]] = {}
    for head, query, key in zip(*np.nonzero(keep), strict=True):
        lists.setdefault((head // 3, query, key // block), set()).add(key)
    assert sizes == mean([len(keys) for keys in lists.values()])


def test_keys_of_one_bank_are_read_one_after_the_other():
    together, apart = np.zeros((2, 1, 40), bool), np.zeros((1, 1, 40), bool)
    together[0, 0, [0, 4, 8, 9]] = True  # banks 0, 0, 0 and 1 of 4
    together[1, 0, [0, 1, 2, 3, 4, 8, 12]] = True  # 0, 1, 2, 3; three more are no whole read
    apart[0, 0, [3, 6, 9, 12]] = True
    assert gather_turns(together, banks=4) == (3 + 1) / 2
    assert gather_turns(apart, banks=4) == 1
    assert gather_turns(apart, banks=8) == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data(), banks=st.sampled_from([2, 4, 8]))
def test_a_read_takes_as_many_turns_as_its_fullest_bank_has_keys(data: st.DataObject, banks: int):
    keep = random_mask(data, heads=2)
    turns = []
    for row in keep.reshape(-1, keep.shape[-1]):
        keys = np.flatnonzero(row).tolist()
        for at in range(0, len(keys) - banks + 1, banks):
            in_bank = [key % banks for key in keys[at : at + banks]]
            turns.append(max(in_bank.count(bank) for bank in in_bank))
    assert gather_turns(keep, banks=banks) == mean(turns)
