import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models.salo_attention import keep_of_passes
from xmsim.accel_models.salo_published import published_model_v1
from xmsim.accel_models.salo_window import ANY_KEYS, WindowPattern, window_passes, window_row_passes, without_far_pieces
from xmsim.reference.attention import window_keep
from xmsim.workloads.attention import pack


def pattern(queries, keys, window, *, causal=True, dilation=1, global_tokens=1, rows=4, columns=4, global_rows=1, skip_empty=True):
    offset = keys - queries
    return WindowPattern(
        queries=queries,
        keys=keys,
        query_offset=offset,
        first_offset=1 - window,
        last_offset=0 if causal else window - 1,
        dilation=dilation,
        global_tokens=global_tokens,
        global_queries=0 if causal else min(max(0, global_tokens - offset), queries),
        rows=rows,
        columns=columns,
        global_rows=global_rows,
        global_columns=1,
        skip_empty=skip_empty,
    )


@pytest.mark.parametrize(("tokens", "window", "heads"), [(4096, 512, 12), (3136, 225, 6), (100, 40, 1)])
def test_passes_are_those_of_the_published_model(tokens, window, heads):
    """Its window counts all keys that a query sees, so does a causal one."""
    passes = window_passes(pattern(tokens, tokens, window, rows=32, columns=32, skip_empty=False))
    published = published_model_v1(tokens, window, 64 * heads, heads, pe_rows=32, pe_cols=32, pe_globals=1)
    assert len(passes.residue) * heads == published.parts["passes"]


def test_passes_before_the_first_key_are_left_out():
    passes = window_passes(pattern(12, 12, 8))
    assert np.diff(passes.group_start).tolist() == [1, 2, 2, 0]  # the oldest piece of the first group begins 7 before its first row
    assert passes.first_key.tolist() == [0, 0, 1, 1, 5]
    assert passes.end_key.tolist() == [4, 4, 8, 8, 12]


def test_a_dilated_window_is_cut_residue_by_residue():
    passes = window_passes(pattern(16, 16, 4, dilation=2))
    assert passes.residue.tolist() == [0, 0, 1, 1]
    assert passes.group_rows.tolist() == [4, 4, 4, 4, 0]
    assert list(zip(passes.first_key, passes.end_key, strict=True)) == [(0, 4), (1, 8), (0, 4), (1, 8)]


def test_more_global_tokens_than_global_columns_take_more_passes():
    assert np.diff(window_passes(pattern(8, 8, 4, global_tokens=3)).group_start).tolist() == [3, 3, 0]


def test_a_global_row_sees_the_keys_of_the_last_local_row_and_the_others_in_passes_of_its_own():
    """12 keys, rows 3, 7 and 11 are last; one neighbour to either side leaves 0, 1, 5 and 9 unseen: one pass of 4 keys."""
    passes = window_passes(pattern(12, 12, 2, causal=False))
    assert passes.residue.tolist() == [0, 0, 0, ANY_KEYS]
    assert passes.group_rows.tolist() == [4, 4, 4, 1]
    assert passes.group_outputs.tolist() == [3, 4, 4, 1]  # the global query's output is that of the global row


def test_global_queries_beyond_the_global_rows_sweep_all_keys_again():
    one, two = (window_passes(pattern(12, 12, 2, causal=False, global_tokens=tokens)) for tokens in (1, 2))
    groups = 3
    assert len(two.residue) == len(one.residue) + groups + 12 // 4  # a pass more in each group for the key, a sweep for the query


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(1, 60),
    share=st.floats(0.01, 1.0),
    window=st.integers(1, 12),
    causal=st.booleans(),
    dilation=st.integers(1, 3),
    global_tokens=st.integers(0, 3),
    skip_empty=st.booleans(),
)
def test_passes_compute_the_method_s_mask_and_give_every_row_once(keys, share, window, causal, dilation, global_tokens, skip_empty):
    queries = max(1, int(keys * share))
    scores = np.zeros((queries, keys), np.float32)
    if causal:
        scores[np.arange(keys) > np.arange(queries)[:, None] + keys - queries] = -np.inf
    keep = window_keep(scores, window=window, global_tokens=global_tokens, dilation=dilation)
    cut = pattern(queries, keys, window, causal=causal, dilation=dilation, global_tokens=global_tokens, skip_empty=skip_empty)
    row_passes = window_row_passes(pack(keep), cut)
    assert (keep_of_passes(row_passes, keys) == keep).all()
    assert len(row_passes.keys) == keep.sum()  # no pair twice
    allowed = window_row_passes(pack(scores > -np.inf), cut)
    assert (keep_of_passes(allowed, keys) == keep).all()  # of any mask, the pairs of the pattern
    passes = window_passes(cut)
    assert passes.group_outputs.sum() == queries
    assert passes.group_rows[:-1].sum() == queries
    assert passes.group_start[-1] == len(passes.residue)
    assert (passes.end_key <= np.maximum(keys, cut.columns)).all()


@settings(max_examples=30, deadline=None)
@given(keys=st.integers(1, 60), window=st.integers(1, 12), dilation=st.integers(1, 3), causal=st.booleans())
def test_every_window_key_enters_with_a_pass_of_its_group(keys, window, dilation, causal):
    cut = pattern(keys, keys, window, causal=causal, dilation=dilation, global_tokens=0)
    passes = window_passes(cut)
    for group in range(len(passes.group_rows) - 1):
        entered = set()
        for number in range(passes.group_start[group], passes.group_start[group + 1]):
            places = np.arange(passes.first_key[number], passes.end_key[number])
            entered |= set((places * dilation + passes.residue[number]).tolist())
        residue = passes.residue[passes.group_start[group]]
        before = sum(passes.group_rows[g] for g in range(group) if passes.residue[passes.group_start[g]] == residue)
        for row in range(passes.group_rows[group]):
            position = (before + row) * dilation + residue
            for offset in range(cut.first_offset, cut.last_offset + 1):
                key = position + offset * dilation
                assert not 0 <= key < keys or key in entered


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(1, 60),
    share=st.floats(0.01, 1.0),
    window=st.integers(1, 300),
    causal=st.booleans(),
    dilation=st.integers(1, 4),
    global_tokens=st.integers(0, 1),
)
def test_pieces_far_beyond_the_sequence_are_those_that_would_be_left_out(keys, share, window, causal, dilation, global_tokens):
    cut = pattern(max(1, int(keys * share)), keys, window, causal=causal, dilation=dilation, global_tokens=global_tokens)
    near = without_far_pieces(cut)
    assert near.last_offset - near.first_offset <= 2 * (keys + cut.rows + cut.columns)
    for short, whole in zip(window_passes(near), window_passes(cut), strict=True):
        np.testing.assert_array_equal(short, whole)
