"""Static patterns: which positions they keep, whatever the scores say, and that a chunk of queries is that part of the whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.reference.attention.block_pattern import block_pattern_keep, fixed_pattern_keep
from xmsim.reference.attention.window import window_keep

Keep = Callable[..., Any]
PATTERNS: dict[str, Keep] = {
    "window": partial(window_keep, window=5, global_tokens=2),
    "dilated": partial(window_keep, window=4, global_tokens=0, dilation=3),
    "longformer": partial(block_pattern_keep, block=4),
    "bigbird": partial(block_pattern_keep, block=3, random_blocks=2, seed=7),
    "hugebird": partial(block_pattern_keep, block=2, band_blocks=5, global_blocks=2, random_blocks=3),
    "fixed": partial(fixed_pattern_keep, block=3, local_blocks=2),
}


def everything(queries: int, keys: int) -> np.ndarray:
    return np.zeros((queries, keys), np.float32)


def drawn(keep: np.ndarray) -> list[str]:
    return ["".join("#" if pair else "." for pair in row) for row in keep]


def test_a_dilated_window_keeps_neighbours_at_multiples_of_the_dilation() -> None:
    causal = window_keep(np.where(np.tri(20, dtype=bool), 0.0, -np.inf), window=4, global_tokens=0, dilation=3)
    np.testing.assert_array_equal(np.flatnonzero(causal[12]), [3, 6, 9, 12])
    both = window_keep(everything(20, 20), window=3, global_tokens=1, dilation=4)
    np.testing.assert_array_equal(np.flatnonzero(both[9]), [0, 1, 5, 9, 13, 17])


def test_longformer_is_a_band_of_blocks_and_the_first_block_row_and_column() -> None:
    assert drawn(block_pattern_keep(everything(9, 9), block=2)) == [
        "#########",
        "#########",
        "######...",
        "######...",
        "########.",
        "########.",
        "##..#####",
        "##..#####",
        "##....###",
    ]


def test_fixed_squares_are_seen_by_the_last_block_of_each_of_them() -> None:
    # squares of 2 blocks of 2; the last square is short, and its last block is half a block
    assert drawn(fixed_pattern_keep(everything(9, 9), block=2, local_blocks=2)) == [
        "####..###",
        "####..###",
        "####..###",
        "####..###",
        "..#######",
        "..#######",
        "..#######",
        "..#######",
        "..##..###",
    ]


@settings(max_examples=40, deadline=None)
@given(blocks=st.integers(1, 20), random_blocks=st.integers(0, 5), global_blocks=st.integers(0, 2), seed=st.integers(0, 2**40))
def test_each_block_row_has_its_random_blocks_besides_band_and_global_ones(
    blocks: int, random_blocks: int, global_blocks: int, seed: int
) -> None:
    bare, bird = (
        block_pattern_keep(everything(blocks, blocks), block=1, global_blocks=global_blocks, random_blocks=count, seed=seed)
        for count in (0, random_blocks)
    )
    assert not (bare & ~bird).any()
    np.testing.assert_array_equal((bird & ~bare).sum(axis=-1), np.minimum(random_blocks, (~bare).sum(axis=-1)))


def test_random_blocks_follow_the_seed_and_reach_every_block() -> None:
    masks = [block_pattern_keep(everything(12, 12), block=1, random_blocks=2, seed=seed) for seed in (*range(60), 0)]
    np.testing.assert_array_equal(masks[0], masks[-1])
    assert (masks[0] != masks[1]).any()
    assert np.logical_or.reduce(masks).all()


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_chunk_of_queries_is_that_part_of_the_whole_and_keeps_allowed_pairs_only(name: str, data: st.DataObject) -> None:
    keep_of = PATTERNS[name]
    tokens = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    allowed = np.tri(tokens, dtype=bool) if data.draw(st.booleans()) else rng.random((2, tokens, tokens)) < 0.7
    scores = np.where(allowed, rng.standard_normal((2, tokens, tokens), dtype=np.float32), -np.inf)
    whole = keep_of(everything(tokens, tokens))
    keep = keep_of(scores)
    np.testing.assert_array_equal(keep, whole & (scores > -np.inf))
    start = data.draw(st.integers(0, tokens - 1))
    stop = data.draw(st.integers(start + 1, tokens))
    np.testing.assert_array_equal(keep_of(scores[:, start:stop], query_offset=start), keep[:, start:stop])
    np.testing.assert_array_equal(keep_of(scores[:, start:]), keep[:, start:])


@pytest.mark.parametrize("name", PATTERNS)
def test_a_tensor_gives_the_same_mask_as_a_tensor(name: str) -> None:
    torch = pytest.importorskip("torch")
    scores = torch.zeros(2, 5, 33, dtype=torch.bfloat16).masked_fill(torch.ones(5, 33).tril(20) == 0, -torch.inf)
    keep = PATTERNS[name](scores)
    assert isinstance(keep, torch.Tensor) and keep.dtype == torch.bool
    np.testing.assert_array_equal(keep.numpy(), PATTERNS[name](scores.float().numpy()))


@pytest.mark.parametrize("name", PATTERNS)
def test_bad_scores_are_refused_and_empty_ones_are_no_error(name: str) -> None:
    keep_of = PATTERNS[name]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^scores: NaN or \+inf"):
            keep_of(np.array([[0.0, bad]]))
    with pytest.raises(ValueError, match=r"^scores: \[..., queries, keys\]"):
        keep_of(np.zeros(4))
    for shape in ((2, 0, 7), (2, 3, 0)):
        assert keep_of(np.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    "keep_of, argument",
    [
        (partial(window_keep, window=1, dilation=0), "dilation"),
        (partial(window_keep, window=1, query_offset=-1), "query_offset"),
        (partial(block_pattern_keep, block=0), "block"),
        (partial(block_pattern_keep, band_blocks=0), "band_blocks"),
        (partial(block_pattern_keep, band_blocks=4), "band_blocks"),
        (partial(block_pattern_keep, global_blocks=-1), "global_blocks"),
        (partial(block_pattern_keep, random_blocks=-1), "random_blocks"),
        (partial(block_pattern_keep, seed=-1), "seed"),
        (partial(fixed_pattern_keep, block=0), "block"),
        (partial(fixed_pattern_keep, local_blocks=0), "local_blocks"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(keep_of: Keep, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: {keep_of.keywords[argument]} "):  # type: ignore[attr-defined]
        keep_of(everything(4, 4))
