from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.salo_attention import keep_of_passes
from xmsim.accel_models.salo_pattern import bit_count, block_pattern, block_row_passes, highest_bit, lowest_bit, reached_pairs, window_bits
from xmsim.reference.attention.salo import salo_keep
from xmsim.workloads.attention import pack

GOLDEN = Path(__file__).parents[1] / "golden"
PATTERN = block_pattern(window=8, global_lines=1, picks=3, dilation=1)


def unpack(words, keys):
    return np.unpackbits(words.view(np.uint8), axis=-1, count=keys, bitorder="little").astype(bool)


@settings(max_examples=100, deadline=None)
@given(word=st.integers(0, 2**64 - 1))
def test_bits_of_a_word_are_counted_and_found(word):
    assert bit_count(np.uint64(word)) == word.bit_count()
    assert lowest_bit(np.uint64(word)) == ((word & -word).bit_length() - 1 if word else 64)
    assert highest_bit(np.uint64(word)) == word.bit_length() - 1


@pytest.mark.parametrize("dilation", [1, 3])
def test_a_window_covers_its_diagonals_in_every_row(dilation):
    pattern = block_pattern(window=8, global_lines=1, picks=3, dilation=dilation)
    columns = np.arange(64)
    for start in range(pattern.starts):
        diagonals = start + dilation * np.arange(8)
        for row in (0, 1, 30, 63):
            expected = np.isin(columns - row + 63, diagonals)
            assert (unpack(np.array([window_bits(pattern, start, row)]), 64) == expected).all()


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(1, 200),
    share=st.floats(0.01, 1.0),
    causal=st.booleans(),
    globals_=st.integers(0, 1),
    picks=st.integers(0, 4),
    dilation=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_a_mask_of_the_machines_own_method_is_reached_in_whole(keys, share, causal, globals_, picks, dilation, seed):
    queries = max(1, int(keys * share))
    scores = np.random.default_rng(seed).standard_normal((queries, keys)).astype(np.float32)
    if causal:
        scores[np.arange(keys) > np.arange(queries)[:, None] + keys - queries] = -np.inf
    keep = salo_keep(scores, global_tokens=globals_, picks=picks, dilation=dilation)
    pattern = block_pattern(window=8, global_lines=globals_, picks=picks, dilation=dilation)
    words = pack(keep)
    assert (reached_pairs(words, keys - queries, pattern)[0] == words).all()


@settings(max_examples=30, deadline=None)
@given(keys=st.integers(1, 150), density=st.sampled_from([0.02, 0.1, 0.3, 1.0]), seed=st.integers(0, 2**16))
def test_what_is_reached_of_any_block_fits_one_pattern(keys, density, seed):
    keep = np.random.default_rng(seed).random((keys, keys)) < density
    reached = unpack(reached_pairs(pack(keep), 0, PATTERN)[0], keys)
    assert not (reached & ~keep).any()
    for first in range(0, keys, 64):
        for left in range(0, keys, 64):
            kept = keep[first : first + 64, left : left + 64].sum(axis=1)
            found = reached[first : first + 64, left : left + 64].sum(axis=1)
            assert (found >= np.minimum(kept, 3)).all()
            assert (found > 12).sum() <= 1  # 8 of the window, the global column and 3 picks, but for the global row


@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize(("globals_", "picks", "dilation"), [(1, 3, 1), (1, 0, 1), (0, 3, 1), (1, 3, 2)])
def test_the_authors_masks_are_reached_in_whole(tokens, globals_, picks, dilation):
    packed = np.load(GOLDEN / "salo_v2_pattern_masks.npz")[f"mask_n{tokens}_pe8_g{globals_}_r{picks}_d{dilation}"]
    pattern = block_pattern(window=8, global_lines=globals_, picks=picks, dilation=dilation)
    for words in pack(np.unpackbits(packed, axis=-1, count=tokens).astype(bool)):
        assert (reached_pairs(words, 0, pattern)[0] == words).all()


def test_a_block_that_no_pattern_reaches_is_matched_by_its_fullest_lines():
    keep = np.zeros((64, 64), bool)
    keep[:, 10] = keep[20] = True  # column and row
    for place in range(8):
        keep[np.arange(56), np.arange(56) + place] = True  # eight diagonals from the main one
    pattern_alone = keep.copy()
    keep[5, 30:60:5] = keep[6, 31:60:5] = True  # six more in each of two rows, where three are picked
    reached = unpack(reached_pairs(pack(keep), 0, PATTERN)[0], 64)
    assert (reached | pattern_alone == reached).all()
    assert (reached ^ keep).sum() == 6
    assert np.flatnonzero(reached[5] & ~pattern_alone[5]).tolist() == [30, 35, 40]


def test_passes_of_a_row_hold_no_more_pairs_than_the_row_has_units():
    scores = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    keep = salo_keep(scores)
    passes = block_row_passes(pack(keep), 0, 12, PATTERN)
    assert (keep_of_passes(passes, 128) == keep).all()
    assert np.diff(passes.pass_start).max() == 12
    global_rows = (keep.reshape(128, 2, 64).sum(axis=2) == 64).sum(axis=0)
    assert global_rows.tolist() == [2, 2]
    passes_of_row = np.diff(passes.row_start)
    assert sorted(set(passes_of_row.tolist())) == [2, 7]  # ceil(64 / 12) = 6 where a row is global, besides one in the other block


def test_the_newest_key_of_a_window_comes_first():
    keep = np.zeros((64, 64), bool)
    for row in range(7, 64):
        keep[row, row - 7 : row + 1] = True
    keep[7:40, [50, 55, 60, 62]] = True
    passes = block_row_passes(pack(keep), 0, 12, PATTERN)
    assert passes.keys[:12].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 50, 55, 60, 62]
