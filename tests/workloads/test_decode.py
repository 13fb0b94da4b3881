"""Decoding: one query after the other, on a cache that grows, with the scales of the prefill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmsim.configs.errors import XmsimError
from xmsim.reference.attention import salo_keep
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import kv_groups
from xmsim.workloads.decode import decode_workloads, with_prefill_scale
from xmsim.workloads.methods.library import load_method
from xmsim.workloads.methods.scores import head_scores

VALID = (100, 90)


def layer_with(bias: Bias) -> LayerTrace:
    """Two windows of four query heads on two KV heads; the second window ends in padding."""
    rng = np.random.default_rng(8)
    q = rng.standard_normal((2, 4, 100, 16), dtype=np.float32) * 2
    k, v = (rng.standard_normal((2, 2, 100, 16), dtype=np.float32) for _ in range(2))
    maxima = float(np.abs(q).max()), float(np.abs(k).max())
    return LayerTrace(3, q, k, v, VALID, 0.25, bias, *maxima, head_ids=(0, 1, 2, 3), kv_head_ids=(0, 1))


@pytest.fixture
def causal() -> LayerTrace:
    return layer_with(Bias("causal"))


def with_tokens(layer: LayerTrace, window: int, tokens: int) -> LayerTrace:
    valid = list(layer.valid_tokens)
    valid[window] = tokens
    return replace(layer, valid_tokens=tuple(valid))


def test_the_last_tokens_become_workloads_of_one_query_on_the_keys_so_far(causal: LayerTrace) -> None:
    steps = list(decode_workloads(causal, 1, load_method("dense"), 3))
    assert [(step.queries, step.keys, step.query_offset) for step in steps] == [(1, 88, 87), (1, 89, 88), (1, 90, 89)]
    for step in steps:
        assert step.keep().all()
        assert (step.operands.q == causal.q[1, :, step.keys - 1 : step.keys]).all()
        assert (step.operands.k == causal.k[1, :, : step.keys]).all()


@pytest.mark.parametrize("bias", [Bias("causal"), Bias("sliding_window", window=20), Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625))])
@pytest.mark.parametrize(
    "name", ["xm", "xm_32:1_2_4bit", "xm_shared_sum", "xm_causal", "nm", "sanger:1_1_4bit", "topk", "window", "bigbird"]
)
def test_where_rows_are_decided_alone_a_token_keeps_what_the_last_row_of_a_window_that_ends_there_keeps(bias: Bias, name: str) -> None:
    layer, method = layer_with(bias), load_method(name)
    for step in decode_workloads(layer, 0, method, 3):
        whole = method.keep(with_tokens(layer, 0, step.keys), 0)
        assert (step.keep() == whole[:, -1:]).all()


def test_where_tiles_are_decided_a_token_is_a_tile_of_one_query(causal: LayerTrace) -> None:
    method = load_method("salo")
    (step,) = decode_workloads(causal, 0, method, 1)
    for head in range(4):
        alone = head_scores(causal, 0, head)[None, -1:]
        assert (step.keep()[head] == salo_keep(alone, query_offset=99)[0]).all()
    assert (step.keep() != method.keep(causal, 0)[:, -1:]).any()


def test_the_scales_are_those_of_the_tokens_before_the_decoded_ones(causal: LayerTrace) -> None:
    scaled = with_prefill_scale(causal, 4)
    assert scaled.q_max == max(np.abs(causal.q[0, :, :96]).max(), np.abs(causal.q[1, :, :86]).max())
    assert scaled.k_max == max(np.abs(causal.k[0, :, :96]).max(), np.abs(causal.k[1, :, :86]).max())


def test_a_decoded_value_beyond_the_scale_clamps(causal: LayerTrace) -> None:
    method = load_method("xm_32:1_2_4bit")

    def with_last_key(factor: float) -> LayerTrace:
        k = causal.k.copy()
        k[0, :, 99] = factor * np.sign(k[0, :, 99])
        return with_prefill_scale(replace(causal, k=k), 1)

    high, higher = (next(iter(decode_workloads(with_last_key(factor), 0, method, 1))) for factor in (50, 1000))
    assert (high.words == higher.words).all()


def test_some_kv_groups_of_a_layer_keep_what_they_keep_in_the_whole() -> None:
    layer = layer_with(Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625)))
    part = kv_groups(layer, (1,))
    assert (part.head_ids, part.kv_head_ids, part.bias.slopes) == ((2, 3), (1,), (0.125, 0.0625))
    for name in ("xm_32:1_2_4bit", "xm_shared_sum", "salo"):
        method = load_method(name)
        assert (method.keep(part, 0) == method.keep(layer, 0)[2:]).all()


def test_what_cannot_be_decoded_is_one_sentence(causal: LayerTrace) -> None:
    with pytest.raises(XmsimError, match="does not decode"):
        with_prefill_scale(layer_with(Bias("none")), 1)
    with pytest.raises(XmsimError, match="window 1 has 90 tokens and the prefill needs one of them; decode at most 89"):
        with_prefill_scale(causal, 90)
    per_head = load_method("xm", prediction={"group": 1, "bits": 4, "scale_per": "head"})
    with pytest.raises(XmsimError, match="set it to layer"):
        next(iter(decode_workloads(causal, 0, per_head, 1)))
