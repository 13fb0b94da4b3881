"""Masks by the CUDA kernels: the reference's of low-bit scores and the CPU's of exact ones, bit for bit; what they leave to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.reference.golden_scores import GOLDEN, causal_scores, unpacked

from xmsim.reference.attention import (
    group_max_scores,
    group_sum_scores,
    nm_keep,
    predict_integer_scores,
    salo_keep,
    sanger_keep,
    topk_keep,
    xm_causal_keep,
    xm_keep,
)
from xmsim.reference.kernels.cuda import masks, native
from xmsim.reference.kernels.cuda.masks import Codes, make_codes
from xmsim.reference.kernels.masks import (
    Factors,
    LowBit,
    Mask,
    ScoreSource,
    nm_mask,
    salo_mask,
    sanger_mask,
    topk_mask,
    xm_causal_mask,
    xm_mask,
    xm_shared_mask,
)
from xmsim.reference.kernels.native import offered_isa

torch = pytest.importorskip("torch")

XM = {"block": 64, "kept_high": 16, "kept_low": 8, "threshold_high": 1.0, "threshold_low": 0.1}
SALO = {"block": 64, "window": 8, "global_tokens": 1, "picks": 3, "dilation": 1}
RULES: dict[str, tuple[Callable[..., Mask], Callable[..., np.ndarray], dict[str, Any]]] = {
    "xm": (xm_mask, xm_keep, XM),
    "xm, blocks of 32": (xm_mask, xm_keep, XM | {"block": 32, "kept_high": 8, "kept_low": 4}),
    "xm, blocks of 16": (xm_mask, xm_keep, XM | {"block": 16, "kept_high": 16, "kept_low": 1, "threshold_low": 0.7}),
    "xm, nothing low, never high": (xm_mask, xm_keep, XM | {"kept_low": 0, "threshold_high": float("inf"), "threshold_low": 0.0}),
    "xm_causal": (xm_causal_mask, xm_causal_keep, XM | {"threshold_low": 0.5}),
    "nm": (nm_mask, nm_keep, {"kept": 13, "block": 64}),
    "nm, blocks of 16": (nm_mask, nm_keep, {"kept": 2, "block": 16}),
    "topk": (topk_mask, topk_keep, {"kept": 40}),
    "sanger": (sanger_mask, sanger_keep, {"threshold": 2e-3}),
    "sanger, at zero": (sanger_mask, sanger_keep, {"threshold": 0.0}),
    "salo": (salo_mask, salo_keep, SALO),
    "salo, dilated": (salo_mask, salo_keep, SALO | {"window": 3, "global_tokens": 2, "picks": 0, "dilation": 4}),
}
# heads, KV heads, queries, keys, channels; what is allowed; group, bits; magnitude of q, the larger the sharper
SHAPES: dict[str, tuple[tuple[int, int, int, int, int], str, tuple[int, int], float]] = {
    "group of two, ragged": ((2, 1, 150, 150, 16), "causal", (2, 4), 2.0),
    "one query": ((4, 1, 1, 333, 64), "causal", (4, 6), 8.0),
    "few codes, many ties": ((1, 1, 70, 201, 28), "none", (1, 2), 2.0),
    "sliding window": ((2, 2, 140, 140, 20), "window", (2, 4), 4.0),
    "ALiBi": ((2, 1, 65, 130, 128), "alibi", (1, 8), 2.0),
    "one pair": ((1, 1, 1, 1, 4), "causal", (1, 4), 1.0),
    "wide heads": ((1, 1, 5, 129, 130), "causal", (1, 4), 1.0),
}


def source_of(shape: str) -> ScoreSource:
    (heads, kv_heads, queries, keys, dim), bias, (group, bits), magnitude = SHAPES[shape]
    rng = np.random.default_rng(len(shape))
    q = rng.standard_normal((heads, queries, dim), np.float32) * np.float32(magnitude)
    k = rng.standard_normal((kv_heads, keys, dim), np.float32)
    q[:, ::5] = 0  # rows of equal scores: sums on a threshold
    return ScoreSource(
        q,
        k,
        dim**-0.5,
        LowBit(group, bits, np.abs(q).max(axis=(1, 2)) * np.float32(0.7) if bits > 4 else None),
        causal=bias != "none",
        window=50 if bias == "window" else None,
        slopes=(2.0 ** -np.arange(1, heads + 1)).astype(np.float32) if bias == "alibi" else None,
    )


def reference(source: ScoreSource, judge: Callable[..., np.ndarray], parameters: dict[str, Any]) -> np.ndarray:
    scores = np.stack([source.scores(head, np.arange(source.q.shape[1])) for head in range(len(source.q))])
    return judge(scores, **parameters, **({"query_offset": source.first_position} if judge is salo_keep else {}))


EVERY_SHAPE = ("xm", "nm", "topk", "sanger", "salo")  # the others differ from these in parameters alone
CASES = [(rule, shape) for rule in RULES for shape in (SHAPES if rule in EVERY_SHAPE else ("group of two, ragged",))]


@pytest.mark.parametrize(("rule", "shape"), CASES)
def test_every_bit_is_the_reference_s(rule: str, shape: str, device: str):
    make, judge, parameters = RULES[rule]
    source = source_of(shape)
    mask, expected = make(source, device="cuda", **parameters), reference(source, judge, parameters)
    assert mask.kernel == "cuda"
    np.testing.assert_array_equal(mask.keep(), expected)
    np.testing.assert_array_equal(mask.kept, expected.sum(axis=-1))
    np.testing.assert_array_equal(mask.words, make(source, **parameters).words)  # nothing beyond the keys, either


# heads, KV heads, queries, keys, channels; group, bits; magnitude of q
SHARED_SHAPES: dict[str, tuple[tuple[int, int, int, int, int], tuple[int, int], float]] = {
    "two heads": ((4, 2, 70, 150, 16), (2, 4), 2.0),
    "four heads": ((4, 1, 35, 130, 64), (4, 6), 1.0),
    "eight heads, many ties": ((8, 1, 20, 70, 20), (1, 2), 1.0),
    "sharp": ((2, 1, 30, 140, 64), (2, 4), 20.0),
}


def shared_source(shape: str) -> ScoreSource:
    (heads, kv_heads, queries, keys, dim), low, magnitude = SHARED_SHAPES[shape]
    rng = np.random.default_rng(len(shape))
    q = rng.standard_normal((heads, queries, dim), np.float32) * np.float32(magnitude)
    q[:, ::5] = 0  # rows of equal scores
    q[1::2, 1::5] = q[::2, 1::5]  # heads of equal scores
    return ScoreSource(q, rng.standard_normal((kv_heads, keys, dim), np.float32), dim**-0.5, LowBit(*low))


def shared_reference(source: ScoreSource, by_largest: bool, parameters: dict[str, Any]) -> np.ndarray:
    scores = np.stack([source.scores(head, np.arange(source.q.shape[1])) for head in range(len(source.q))])
    combined = (group_max_scores if by_largest else group_sum_scores)(scores, kv_heads=len(source.k))
    return xm_keep(combined, **parameters).repeat(len(source.q) // len(source.k), axis=0)


@pytest.mark.parametrize("parameters", [XM, XM | {"block": 16, "kept_high": 5, "kept_low": 0}], ids=["blocks of 64", "blocks of 16"])
@pytest.mark.parametrize("by_largest", [False, True], ids=["sum", "max"])
@pytest.mark.parametrize("shape", SHARED_SHAPES)
def test_every_bit_of_a_list_that_heads_share_is_the_reference_s(shape: str, by_largest: bool, parameters: dict[str, Any], device: str):
    source = shared_source(shape)
    mask, expected = (
        xm_shared_mask(source, by_largest=by_largest, device="cuda", **parameters),
        shared_reference(source, by_largest, parameters),
    )
    assert mask is not None and mask.kernel == "cuda"
    np.testing.assert_array_equal(mask.keep(), expected)
    np.testing.assert_array_equal(mask.kept, expected.sum(axis=-1))
    if shape in ("two heads", "four heads"):  # elsewhere probabilities are too small for float32, or different heads' ones nearly tie
        assert mask.judged_rows <= 0.05 * mask.kept.size


INF = float("inf")
EXTREME_THRESHOLDS = [(0.0, INF), (INF, INF), (1e300, INF), (0.0, 0.0), (1e-300, 1e-300), (1e-40, 1e-31)]


@pytest.mark.parametrize("by_largest", [False, True], ids=["sum", "max"])
@pytest.mark.parametrize("scale", [1.0, 1e33])
@pytest.mark.parametrize(("low", "high"), EXTREME_THRESHOLDS)
def test_extreme_thresholds_and_factors_change_no_bit_of_a_shared_list(
    low: float, high: float, scale: float, by_largest: bool, device: str
):
    source = replace(shared_source("four heads"), scale=scale)
    parameters = XM | {"threshold_low": low, "threshold_high": high}
    mask = xm_shared_mask(source, by_largest=by_largest, device="cuda", **parameters)
    assert mask is not None
    np.testing.assert_array_equal(mask.keep(), shared_reference(source, by_largest, parameters))
    if low >= 1e300:  # nothing is kept, which nothing can put in doubt
        assert mask.judged_rows == 0 and not mask.kept.any()


def test_heads_that_share_a_list_where_no_kernel_serves_them_are_left_to_the_reference(device: str):
    source = shared_source("two heads")
    slopes = np.ones(4, np.float32)
    for other in (replace(source, slopes=slopes), replace(source, k=source.k.repeat(2, axis=0)), replace(source, scale=1e-6)):
        assert xm_shared_mask(other, by_largest=False, device="cuda", **XM) is None
    assert xm_shared_mask(source, by_largest=False, device="cpu", **XM) is None


def test_heads_that_share_a_list_fit_into_room_for_one(device: str, either_order: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "_ROOM_BYTES", 1)
    source = shared_source("two heads")
    mask = xm_shared_mask(source, by_largest=True, device="cuda", **XM)
    assert mask is not None
    np.testing.assert_array_equal(mask.keep(), shared_reference(source, True, XM))


@pytest.mark.parametrize("rule", ["xm", "sanger", "salo"])
def test_the_order_of_threads_changes_nothing(rule: str, either_order: None):
    make, judge, parameters = RULES[rule]
    source = source_of("group of two, ragged")
    np.testing.assert_array_equal(make(source, device="cuda", **parameters).keep(), reference(source, judge, parameters))


EXACT_RULES = ("xm", "xm, blocks of 32", "xm, blocks of 16", "xm_causal", "nm", "sanger", "sanger, at zero")


@pytest.mark.skipif(offered_isa() in (None, "portable"), reason="this host's CPU kernels round otherwise")
@pytest.mark.parametrize("shape", ["group of two, ragged", "one query", "ALiBi", "few codes, many ties", "one pair"])
@pytest.mark.parametrize("rule", EXACT_RULES)
def test_on_exact_scores_every_bit_is_the_cpu_kernel_s(rule: str, shape: str, device: str):
    make, _, parameters = RULES[rule]
    source = replace(source_of(shape), prediction=None)
    mask, expected = make(source, device="cuda", **parameters), make(source, **parameters)
    assert (mask.kernel, expected.kernel) == ("cuda", "native")
    np.testing.assert_array_equal(mask.words, expected.words)
    np.testing.assert_array_equal(mask.kept, expected.kept)


def codes_of(source: ScoreSource, device: str) -> Codes:
    factors = Factors.of(source, *(np.abs(x).max() for x in (source.q, source.k)))
    return make_codes(*(torch.tensor(x, device=device) for x in (source.q, source.k)), source, factors)


def test_codes_are_those_of_the_reference_ties_and_halves_among_them(device: str):
    rng = np.random.default_rng(3)
    q, k = (np.rint(rng.standard_normal((heads, 9, 24)) * 3).astype(np.float32) / 2 for heads in (4, 2))
    for group, bits in ((1, 2), (2, 4), (4, 6), (24, 8)):
        codes = codes_of(ScoreSource(q, k, 1.0, LowBit(group, bits, 3.0, 3.5)), device)
        q_int, k_int, _, _ = predict_integer_scores(q, k, group=group, bits=bits, scale=1.0, q_max=3.0, k_max=3.5)
        for code, wanted in ((codes.q, q_int), (codes.k, k_int)):
            assert code.shape[2] == 64
            np.testing.assert_array_equal(code[..., :24].cpu(), wanted)
            assert not code[..., 24:].any()


@pytest.mark.parametrize("rule", ["xm", "xm, blocks of 32", "xm_causal", "nm"])
@pytest.mark.parametrize(("scale", "packed"), [(1e-6, True), (1e-3, True), (1.0, True), (1e5, False)])
def test_products_up_to_the_limits_of_16_bits_are_ranked_and_added_up(rule: str, scale: float, packed: bool, device: str):
    """6 bits, 1:4, 128 channels: sums of up to 30752 either way; nearly equal, ordinary and sharp scores."""
    rng = np.random.default_rng(3)
    q, k = np.full((1, 70, 128), 1e-3, np.float32), rng.choice([-1.0, 1.0], (1, 150, 128)).astype(np.float32)
    q[:, :, ::4] = rng.choice([-1.0, 1.0], (1, 70, 32))
    k[0, 5, ::4], k[0, 70, ::4] = q[0, 69, ::4], -q[0, 69, ::4]  # the largest and the smallest product
    k[0, 100:140] = k[0, :40]
    source = ScoreSource(q, k, scale, LowBit(4, 6))
    codes = codes_of(source, device)
    assert masks._packed(codes, masks.Rule.of_xm(0, 150, **XM))[1] == packed
    assert not masks._packed(replace(codes, slopes=codes.factor), masks.Rule.of_xm(0, 150, **XM))[1]
    make, judge, parameters = RULES[rule]
    np.testing.assert_array_equal(make(source, device="cuda", **parameters).keep(), reference(source, judge, parameters))


@pytest.mark.parametrize("rule", ["xm", "xm_causal", "sanger"])
@pytest.mark.parametrize("height", [300.0, -300.0])
@pytest.mark.parametrize("plain", [True, False], ids=["products", "rounded scores"])
def test_rows_whose_tops_lie_far_from_what_the_last_tile_tells_are_added_up_again(rule: str, height: float, plain: bool, device: str):
    """Scores of the last tile are near 0, all others 300 higher, or lower where rows do not see it: powers of 2 that float32 lacks."""
    rng = np.random.default_rng(7)
    k = np.ones((1, 200, 64), np.float32)
    k[0, :, 1:] = rng.standard_normal((200, 63)) * 0.2
    k[0, 192 if height > 0 else 128 :, 0] = 0
    q = rng.standard_normal((1, 200, 64)).astype(np.float32) * 0.2
    q[:, :, 0] = height / 300
    source = ScoreSource(q, k, 300.0, LowBit(1, 4), slopes=None if plain else np.zeros(1, np.float32))
    make, judge, parameters = RULES[rule]
    mask = make(source, device="cuda", **parameters)
    np.testing.assert_array_equal(mask.keep(), reference(source, judge, parameters))
    assert mask.judged_rows <= 0.1 * mask.kept.size


def test_a_part_of_the_heads_and_queries_is_that_part_of_the_mask(device: str):
    source = source_of("sliding window")
    low = LowBit(2, 4, float(np.abs(source.q).max()), float(np.abs(source.k).max()))
    whole = ScoreSource(source.q, source.k, source.scale, low, window=50)
    part = ScoreSource(source.q[1:, 64:128], source.k[1:], source.scale, low, window=50, query_offset=64)
    for rule in ("xm", "xm_causal", "nm", "topk", "sanger", "salo"):
        make, _, parameters = RULES[rule]
        words = make(whole, device="cuda", **parameters).words
        np.testing.assert_array_equal(make(part, device="cuda", **parameters).words, words[1:, 64:128])


def test_room_for_one_kv_head_at_a_time_is_enough(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "_ROOM_BYTES", 1)
    source = source_of("sliding window")
    np.testing.assert_array_equal(xm_mask(source, device="cuda", **XM).keep(), reference(source, xm_keep, XM))


@pytest.mark.parametrize("recipe", ["n3", "llm"])
def test_masks_equal_the_authors_where_only_the_order_of_scores_matters(recipe: str, device: str):
    """A score's place in its row stands for it, as a product: a query has one channel, in which keys hold their places."""
    scores = causal_scores(recipe, 128)[0, 0]
    places = scores.argsort(axis=-1, kind="stable").argsort(axis=-1) - 64
    q, k = (np.ascontiguousarray(x[None], np.float32) for x in (127 * np.eye(128), places.T))
    source = ScoreSource(q, k, 1.0, LowBit(1, 8, 127.0, 127.0))
    golden = np.load(GOLDEN / f"dynax_mask_{recipe}_128.npz")
    for name, mask in (
        ("nm_16_64", nm_mask(source, kept=16, block=64, device="cuda")),
        ("topk_32", topk_mask(source, kept=32, device="cuda")),
    ):
        np.testing.assert_array_equal(mask.keep()[0], unpacked(golden[f"{name}__bits"], (1, 2, 128, 128))[0, 0])


@pytest.mark.parametrize("mode, group, bits", [("1_2_4bit_w4", 2, 4), ("1_4_6bit_w6", 4, 6)])
def test_codes_equal_the_authors(mode: str, group: int, bits: int, device: str):
    golden = np.load(GOLDEN / "dynax_quant_qk.npz")
    rng = np.random.default_rng(int(golden["a__seed"]))
    q, k = (rng.standard_normal((1, 2, 64, 64), dtype=np.float32)[0] * std for std in golden["a__sqsk"])
    codes = codes_of(ScoreSource(q, k, 0.125, LowBit(group, bits)), device)
    np.testing.assert_array_equal(codes.q.cpu(), golden[f"a__{mode}__q_int"][0])
    np.testing.assert_array_equal(codes.k.cpu(), golden[f"a__{mode}__k_int"][0])


def test_rows_of_equal_scores_are_decided_without_the_reference(device: str):
    source = ScoreSource(np.zeros((2, 200, 8), np.float32), np.ones((1, 200, 8), np.float32), 1.0, LowBit(1, 4))
    for rule in ("xm", "xm_causal", "sanger"):
        make, _, parameters = RULES[rule]
        assert make(source, device="cuda", **parameters).judged_rows == 0


def test_what_the_kernels_do_not_serve_is_made_elsewhere(device: str):
    source = source_of("sliding window")
    exact = replace(source, prediction=None)  # with a window
    wide = ScoreSource(np.ones((1, 2, 300), np.float32), np.ones((1, 2, 300), np.float32), 1.0, LowBit(1, 4))
    for made in (
        xm_mask(exact, device="cuda", **XM),
        xm_mask(wide, device="cuda", **XM),
        xm_mask(source, device="cuda", **XM | {"block": 24}),
        xm_mask(source, device="cuda", **XM | {"kept_high": 17}),
        salo_mask(source, device="cuda", **SALO | {"block": 20}),
        topk_mask(replace(source, prediction=None, window=None), kept=3, device="cuda"),
    ):
        assert made.kernel != "cuda"


@pytest.mark.parametrize("prediction", [LowBit(2, 4), None], ids=["low-bit", "exact"])
def test_arrays_that_are_not_contiguous_give_the_same_mask(prediction: LowBit | None, device: str):
    source = replace(source_of("group of two, ragged"), prediction=prediction)
    strided = replace(source, q=np.asfortranarray(source.q), k=np.ascontiguousarray(source.k[:, ::-1])[:, ::-1])
    np.testing.assert_array_equal(xm_mask(strided, device="cuda", **XM).words, xm_mask(source, **XM).words)


def test_without_compiled_cuda_kernels_the_cpu_makes_the_mask(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "none")
    native.cuda_library.cache_clear()
    assert xm_mask(source_of("one pair"), device="cuda", **XM).kernel != "cuda"
    native.cuda_library.cache_clear()


def test_what_the_reference_refuses_is_refused_before_a_launch(device: str):
    q = np.ones((1, 3, 4), np.float32)
    q[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="q: NaN or infinity"):
        xm_mask(ScoreSource(q, np.ones((1, 3, 4), np.float32), 1.0, LowBit(1, 4)), device="cuda", **XM)


@pytest.mark.parametrize("name", ["xm_32:1_2_4bit", "xm:1_4_6bit", "sanger:1_1_4bit", "salo:1_1_4bit", "xm_shared_sum:1_2_4bit", "xm"])
def test_a_method_s_mask_of_a_layer_is_made_by_these_kernels_and_equals_the_cpu_s(name: str, device: str):
    pytest.importorskip("pydantic")  # which a host of kernels alone may lack
    from xmsim.traces.manifest import Bias
    from xmsim.traces.store import LayerTrace
    from xmsim.workloads.extraction.derived import layer_mask
    from xmsim.workloads.methods.library import load_method

    rng = np.random.default_rng(5)
    q, k = (rng.standard_normal((2, heads, 70, 16), np.float32) * 3 for heads in (2, 1))
    layer = LayerTrace(0, q, k, k, (70, 61), 0.25, Bias("causal"), float(np.abs(q).max()), float(np.abs(k).max()), (0, 1), (0,))
    words, maker = layer_mask(load_method(name), layer, "cuda:0")
    assert maker.kernel == "cuda"
    np.testing.assert_array_equal(words, layer_mask(load_method(name), layer)[0])
