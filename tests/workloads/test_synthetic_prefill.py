from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.synthetic_prefill import HEAVY_HITTERS, LLAMA_3_8B, PrefillShape, prefill_layers

SMALL = PrefillShape(layers=2, heads=4, kv_heads=2, tokens=1024, head_dim=64)
LONG = replace(LLAMA_3_8B, layers=1, heads=4, kv_heads=1)


@pytest.fixture(scope="module")
def layer() -> AttentionWorkload:
    return next(prefill_layers(SMALL, seed=0))


def test_layers_have_the_shape_asked_for_and_differ() -> None:
    first, second = prefill_layers(SMALL, seed=0)
    for one in (first, second):
        assert (one.heads, one.kv_heads, one.queries, one.keys, one.head_dim) == (4, 2, 1024, 1024, 64)
        assert one.causal and one.operands is None
    assert not np.array_equal(first.words, second.words)
    assert not np.array_equal(first.words[0], first.words[1])


def test_a_seed_gives_the_same_masks_again() -> None:
    once, again, other = (next(prefill_layers(SMALL, seed=seed)).words for seed in (7, 7, 8))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_a_model_is_made_one_layer_at_a_time() -> None:
    assert len(list(islice(prefill_layers(replace(SMALL, layers=10**9), seed=0), 2))) == 2


def test_about_eight_percent_of_the_pairs_of_4096_tokens_are_kept() -> None:
    assert next(prefill_layers(LONG, seed=0)).densities().density == pytest.approx(0.08, abs=0.015)


def test_every_block_keeps_0_8_or_16_keys_besides_the_querys_own(layer: AttentionWorkload) -> None:
    counts = layer.block_counts(64)
    query, block = np.indices((1024, 16))
    own = block == query // 64
    assert set(np.unique(counts[:, ~own])) == {0, 8, 16}
    assert np.array_equal(counts[:, own], np.broadcast_to(np.minimum(np.arange(1024) % 64 + 1, 16), (4, 1024)))
    assert not counts[:, block > query // 64].any()
    assert (counts[:, (block == 0) & ~own] == 16).all() and (counts[:, block == query // 64 - 1] == 16).all()


def test_the_sink_and_the_nearest_keys_are_always_kept(layer: AttentionWorkload) -> None:
    keep = layer.keep()
    assert keep[:, 64:, 0].all()
    position = np.arange(1024)
    nearest = position[:, None] - position
    assert keep[:, (nearest >= 0) & (nearest < 16) & (position[:, None] // 64 == position // 64)].all()


def test_four_keys_of_a_block_are_kept_by_every_query_that_keeps_any(layer: AttentionWorkload) -> None:
    blocks = layer.keep().reshape(4, 1024, 16, 64)
    turned = (np.array(HEAVY_HITTERS) + np.arange(64)[:, None]) % 64
    for head in range(4):
        for block in range(14):
            rows = blocks[head, (block + 1) * 64 :, block]  # queries behind the block
            kept = rows[rows.any(axis=-1)]
            assert kept.all(axis=0)[turned].all(axis=1).any()


def test_some_blocks_are_heavy_and_others_hardly_kept() -> None:
    counts = next(prefill_layers(LONG, seed=0)).block_counts(64)
    seen_by_many = counts[:, 2048:, 1:31]  # neither sink nor local
    shares = (seen_by_many > 0).mean(axis=1).ravel()
    assert [((low <= shares) & (shares < high)).mean() for low, high in [(0.99, 1.01), (0.4, 0.6), (0.05, 0.15)]] == pytest.approx(
        [0.15, 0.35, 0.5], abs=0.12
    )
