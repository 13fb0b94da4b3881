from __future__ import annotations

import numpy as np
import pytest

from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.methods.library import load_method
from xmsim.workloads.methods.mask_record import GROUP_ROWS, TILE_ROWS, mean_statistics
from xmsim.workloads.methods.mask_statistics import mask_statistics

TOKENS = 192  # three blocks of 64 keys


def layer(*valid_tokens: int) -> LayerTrace:
    draw = np.random.default_rng(5)
    q, k, v = (draw.standard_normal((len(valid_tokens), heads, TOKENS, 8), np.float32) for heads in (4, 2, 2))
    return LayerTrace(0, q, k, v, valid_tokens, 8**-0.5, Bias("causal"), 5.0, 5.0, (0, 1, 2, 3), (0, 1))


def test_dense_attention_leaves_nothing_out():
    dense = mask_statistics(load_method("dense"), layer(TOKENS))
    assert dense.densities.density == dense.densities.kv_density == 1
    assert dense.densities.full_density == (TOKENS + 1) / (2 * TOKENS)
    assert dense.empty_blocks == 0 and dense.low_blocks is None
    assert dense.live_tiles == (1.0,) * len(TILE_ROWS)
    rows_by_block, pairs = 64 + 2 * 64 + 3 * 64, TOKENS * (TOKENS + 1) / 2
    assert dense.unions[0] == dense.group_unions[0] == pairs / rows_by_block
    assert dense.group_live_tiles == (1.0,) * len(GROUP_ROWS)
    assert dense.gather_turns == 1  # eight keys side by side lie in eight banks
    assert dense.unions[TILE_ROWS.index(64)] == 64  # the last query of a tile sees its whole block
    sub_rows = 64 * (4 + 4 + 4) + 3 * sum(-(-seen // 16) for seen in range(1, 65))  # 16 pairs hold a quarter of a full stripe
    assert dense.load_balance == pytest.approx(pairs / (16 * sub_rows))


def test_a_window_of_one_block_leaves_the_far_tiles_dead():
    # rows 128 to 191 see at most keys 65 to 191: their first tile is dead but for row 128's key 65 of block 1
    window = mask_statistics(load_method("window", window=64, global_tokens=0), layer(TOKENS))
    rows_by_block = 64 + 2 * 64 + 3 * 64  # blocks of the rows that hold an allowed pair
    empty = 0 + 1 + (64 + 1)  # row 127 has left block 0 behind, as have rows 128 to 191; row 191 has left block 1
    assert window.empty_blocks == pytest.approx(empty / rows_by_block)
    assert window.live_tiles[0] == pytest.approx(1 - window.empty_blocks)
    assert window.live_tiles[TILE_ROWS.index(64)] == pytest.approx(5 / 6)


def test_xm_pruning_keeps_no_more_than_its_low_count_in_low_blocks():
    method = load_method("xm")
    statistics = mask_statistics(method, layer(TOKENS))
    counts = np.stack([method.keep(layer(TOKENS), 0)[:, :, at : at + 64].sum(axis=2) for at in (0, 64, 128)], axis=2)
    allowed = counts[:, np.arange(TOKENS)[:, None] >= np.array([0, 64, 128])]
    assert statistics.empty_blocks == pytest.approx(np.mean(allowed == 0))
    assert statistics.low_blocks == pytest.approx(np.mean((allowed > 0) & (allowed <= 8)))


def test_a_layer_is_the_mean_of_its_windows():
    method = load_method("xm")
    both = mask_statistics(method, layer(TOKENS, 100))
    alone = [mask_statistics(method, one_window(layer(TOKENS, 100), window)) for window in (0, 1)]
    assert alone[0] != alone[1]
    assert both == mean_statistics(alone)
    assert both.densities.density == pytest.approx(sum(one.densities.density for one in alone) / 2)


def one_window(of: LayerTrace, window: int) -> LayerTrace:
    part = slice(window, window + 1)
    valid = of.valid_tokens[part]
    return LayerTrace(0, of.q[part], of.k[part], of.v[part], valid, of.scale, of.bias, 5.0, 5.0, of.head_ids, of.kv_head_ids)
