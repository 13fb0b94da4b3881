"""Masks by the compiled kernels: equal to the reference on exact scores, within rounding of its cuts on others; every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from xmsim.reference.attention import nm_keep, salo_keep, sanger_keep, topk_keep, xm_causal_keep, xm_keep
from xmsim.reference.kernels import masks, native
from xmsim.reference.kernels.masks import (
    LowBit,
    Mask,
    ScoreSource,
    nm_mask,
    salo_mask,
    sanger_mask,
    topk_mask,
    xm_causal_mask,
    xm_mask,
)

needs_kernels = pytest.mark.skipif(native.library() is None, reason="no compiled kernels")
PATHS: tuple[native.Isa, ...] = ("portable", "avx2", "avx512")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[native.Isa]:
    """Each instruction set that this host offers."""
    offered = native.offered_isa()
    order = (*PATHS, "amx")
    if offered is None or order.index(request.param) > order.index(offered):
        pytest.skip(f"this host offers {offered}")
    with native.limited_isa(request.param):
        yield request.param


XM = {"block": 64, "kept_high": 16, "kept_low": 8, "threshold_high": 1.0, "threshold_low": 0.1}
SALO = {"block": 64, "window": 8, "global_tokens": 1, "picks": 3, "dilation": 1}
Make, Judge = Callable[..., Mask], Callable[..., np.ndarray]
RULES: dict[str, tuple[Make, Judge, dict[str, Any]]] = {
    "xm": (xm_mask, xm_keep, XM),
    "xm, short blocks": (xm_mask, xm_keep, XM | {"block": 12, "kept_high": 3, "kept_low": 0, "threshold_high": 0.5}),
    "xm, blocks of two words": (xm_mask, xm_keep, XM | {"block": 100, "kept_high": 70, "kept_low": 5, "threshold_low": 0.0}),
    "xm, never high": (xm_mask, xm_keep, XM | {"threshold_high": float("inf")}),
    "xm_causal": (xm_causal_mask, xm_causal_keep, XM),
    "nm": (nm_mask, nm_keep, {"kept": 16, "block": 64}),
    "nm, blocks of three words": (nm_mask, nm_keep, {"kept": 30, "block": 150}),
    "topk": (topk_mask, topk_keep, {"kept": 40}),
    "topk, most": (topk_mask, topk_keep, {"kept": 200}),
    "sanger": (sanger_mask, sanger_keep, {"threshold": 2e-3}),
    "sanger, at zero": (sanger_mask, sanger_keep, {"threshold": 0.0}),
    "salo": (salo_mask, salo_keep, SALO),
    "salo, small tiles": (salo_mask, salo_keep, SALO | {"block": 20, "window": 3, "global_tokens": 2, "picks": 0, "dilation": 4}),
}


def reference(source: ScoreSource, judge: Judge, parameters: dict[str, Any]) -> np.ndarray:
    """The reference's mask of its own scores, bool [heads, queries, keys]."""
    scores = np.stack([source.scores(head, np.arange(source.q.shape[1])) for head in range(len(source.q))])
    return judge(scores, **parameters, **({"query_offset": source.first_position} if judge is salo_keep else {}))


def sources(seed: int, *, exact_floats: bool = False) -> Iterator[ScoreSource]:
    """Shapes and biases of every kind; low-bit scores, or float ones that are exact in any order of addition."""
    rng = np.random.default_rng(seed)
    for heads, kv_heads, queries, keys, dim in [
        (4, 2, 150, 150, 16),
        (2, 1, 1, 333, 64),
        (8, 2, 1, 65, 20),
        (3, 3, 70, 201, 28),
        (1, 1, 1, 1, 4),
    ]:
        for bias in ("causal", "window", "alibi", "none"):
            q = rng.standard_normal((heads, queries, dim), np.float32) * np.float32(rng.choice([0.5, 2, 8]))
            k = rng.standard_normal((kv_heads, keys, dim), np.float32)
            q[:, ::5] = 0  # rows of equal scores: sums on a threshold
            maxima = (None, None) if rng.random() < 0.5 else (float(np.abs(q).max()) * 0.7, float(np.abs(k).max()) * 1.5)
            if rng.random() < 0.3:
                maxima = np.abs(q).max(axis=(1, 2)), np.abs(k).max(axis=(1, 2))
            group, bits = [(2, 4), (4, 6), (1, 8), (1, 2)][rng.integers(4)]
            if exact_floats:
                q, k = np.rint(q * 2) / 4, np.rint(k * 2) / 4
            yield ScoreSource(
                q,
                k,
                0.25 if exact_floats else dim**-0.5,
                None if exact_floats else LowBit(group, bits, *maxima),
                causal=bias != "none",
                window=int(rng.integers(1, keys + 1)) if bias == "window" else None,
                slopes=(2.0 ** -np.arange(1, heads + 1)).astype(np.float32) if bias == "alibi" else None,
            )


@pytest.mark.parametrize("rule", RULES)
def test_on_low_bit_scores_every_bit_is_the_reference_s(rule: str, path: native.Isa):
    make, judge, parameters = RULES[rule]
    for source in sources(1):
        mask = make(source, **parameters)
        expected = reference(source, judge, parameters)
        assert (mask.kernel, mask.isa) == ("native", path)
        np.testing.assert_array_equal(mask.keep(), expected)
        np.testing.assert_array_equal(mask.kept, expected.sum(axis=-1))


@pytest.mark.parametrize("rule", RULES)
def test_on_float_scores_that_are_exact_too_but_for_sums_on_a_threshold(rule: str, path: native.Isa):
    make, judge, parameters = RULES[rule]
    for source in sources(2, exact_floats=True):
        differing = make(source, **parameters).keep() != reference(source, judge, parameters)
        if judge in (nm_keep, topk_keep, salo_keep):
            assert not differing.any()
        assert not differing[:, ::5].any()  # rows of equal scores
        assert differing.any(axis=-1).mean() <= 0.002


def rounding_of(source: ScoreSource) -> np.ndarray:
    """How far either float32 score may lie from the exact one: float64 [heads, queries, keys]."""
    share = len(source.q) // len(source.k)
    magnitudes = np.abs(source.q).astype(np.float64) @ np.abs(source.k).repeat(share, axis=0).astype(np.float64).swapaxes(1, 2)
    return magnitudes * source.scale * (source.q.shape[2] + 2) * 2.0**-24 + 1e-30


@pytest.mark.parametrize("rule", ["nm", "topk", "xm", "xm_causal", "sanger"])
def test_on_float_scores_differing_bits_lie_within_rounding_of_their_cut(rule: str, path: native.Isa):
    make, judge, parameters = RULES[rule]
    rng = np.random.default_rng(3)
    q, k = (rng.standard_normal((heads, 300, 64), np.float32) for heads in (4, 2))
    # keys in pairs that differ in the last place: cuts that fall between the two of a pair are a matter of rounding
    k[:, 1::2] = np.nextafter(k[:, ::2], np.float32(9))
    source = ScoreSource(q, k, 0.125)
    mask, expected = make(source, **parameters).keep(), reference(source, judge, parameters)
    allowed = np.tril(np.ones((300, 300), bool))
    scores = np.where(allowed, q.astype(np.float64) @ k.repeat(2, axis=0).astype(np.float64).swapaxes(1, 2) * 0.125, -np.inf)
    rounding = 2 * rounding_of(source)
    places = np.argwhere(mask != expected)
    assert len(places) < 0.01 * mask.size
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    for head, query, key in places:
        block = parameters.get("block", 300)
        part = slice(key // block * block, key // block * block + block)
        score, error = scores[head, query, part], rounding[head, query, : query + 1].max()
        share = weights[head, query, part].sum() / weights[head, query].sum()
        if rule == "sanger":
            assert abs(np.log(weights[head, query, key] / weights[head, query].sum() / 2e-3)) <= 2 * error + 1e-6
            continue
        kept, kept_there = mask[head, query, part].sum(), expected[head, query, part].sum()
        if kept != kept_there:  # another class of the block: its share lies at a threshold
            counted = 300 if rule == "xm" else max(query + 1, 64)
            assert min(abs(np.log(share * counted / 64 / limit)) for limit in (1.0, 0.1)) <= 2 * error + 1e-6
        else:
            cut = np.sort(score)[-int(kept)]
            assert abs(scores[head, query, key] - cut) <= 2 * error


def test_on_float_scores_a_differing_tile_has_two_candidates_within_rounding_of_each_other(path: native.Isa):
    rng = np.random.default_rng(9)
    q, k = (rng.standard_normal((1, 256, 64), np.float32) for _ in range(2))
    k[:, 1::2] = np.nextafter(k[:, ::2], np.float32(9))  # neighbouring columns and diagonals whose sums are nearly equal
    source = ScoreSource(q, k, 0.125, causal=False)
    differing = (salo_mask(source, **SALO).keep() != reference(source, salo_keep, SALO))[0]
    scores = q[0].astype(np.float64) @ k[0].T.astype(np.float64) * 0.125
    error = 64 * 2 * rounding_of(source).max()  # of a sum of a tile's row, column or diagonal
    for row, column in {(row // 64, column // 64) for row, column in np.argwhere(differing)}:
        tile = scores[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        diagonals = np.array([np.trace(tile, offset) for offset in range(-63, 64)])
        windows = np.convolve(diagonals, np.ones(8), "valid")
        gaps = [np.diff(np.sort(sums)[-2:])[0] for sums in (tile.sum(axis=0), tile.sum(axis=1), windows)]
        gaps += [np.diff(np.sort(tile_row)).min() for tile_row in tile]  # picks
        assert min(gaps) <= 8 * error


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
def test_thread_count_and_the_rest_of_the_layer_change_nothing(rule: str):
    make, _, parameters = RULES[rule]
    for source in list(sources(4))[:4]:
        low = LowBit(2, 4, float(np.abs(source.q).max()), float(np.abs(source.k).max()))
        whole = ScoreSource(source.q, source.k, source.scale, low, source.causal, source.window, source.slopes)
        mask = make(whole, threads=1, **parameters)
        np.testing.assert_array_equal(make(whole, threads=3, **parameters).words, mask.words)
        tile = parameters.get("block", 1) if make is salo_mask else 7
        slopes = None if source.slopes is None else source.slopes[2:]
        part = ScoreSource(source.q[2:, tile : 3 * tile], source.k[1:], source.scale, low, source.causal, source.window, slopes, tile)
        if 3 * tile <= source.q.shape[1]:
            np.testing.assert_array_equal(make(part, **parameters).words, mask.words[2:, tile : 3 * tile])


@pytest.mark.parametrize("rule", RULES)
def test_without_compiled_kernels_numpy_makes_the_mask(rule: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(masks, "kernel", lambda *arguments: None)
    make, judge, parameters = RULES[rule]
    for source in list(sources(6))[::3]:
        mask = make(source, **parameters)
        assert (mask.kernel, mask.isa) == ("numpy", None)
        np.testing.assert_array_equal(mask.keep(), reference(source, judge, parameters))


def test_operands_beyond_float32_s_exact_range_are_left_to_numpy():
    rng = np.random.default_rng(7)
    wide = rng.standard_normal((1, 4, 1100), np.float32)
    assert nm_mask(ScoreSource(wide, wide, 1.0, LowBit(1, 8)), kept=1, block=2).kernel == "numpy"
    huge = wide[..., :4] * np.float32(1e19)
    mask = nm_mask(ScoreSource(huge, huge * np.float32(0.1), 1.0), kept=1, block=2)
    assert mask.kernel == "numpy" and mask.kept.tolist() == [[1, 1, 2, 2]]


@needs_kernels
def test_rows_of_equal_scores_are_decided_without_the_reference():
    source = ScoreSource(np.zeros((2, 200, 8), np.float32), np.ones((1, 200, 8), np.float32), 1.0, LowBit(1, 4))
    for make, parameters in ((xm_causal_mask, XM), (xm_mask, XM), (sanger_mask, {"threshold": 0.01})):
        assert make(source, **parameters).judged_rows == 0


def operands(**changes: Any) -> ScoreSource:
    given = {"q": np.ones((2, 3, 4), np.float32), "k": np.ones((1, 5, 4), np.float32), "scale": 1.0}
    return ScoreSource(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": np.ones((2, 3, 4))}, "q: float32 is needed, got float64"),
        ({"q": np.ones((2, 0, 4), np.float32)}, r"q: \[heads, tokens, d\] without an empty axis is needed"),
        ({"k": np.ones((1, 5, 3), np.float32)}, "k: shape .* does not fit"),
        ({"k": np.ones((3, 5, 4), np.float32)}, "no multiple"),
        ({"k": np.ones((1, 2, 4), np.float32)}, "query_offset: -1 must not be negative; more queries than keys need one"),
        ({"slopes": np.ones(3, np.float32)}, "slopes: .* one for each of 2 heads"),
        ({"slopes": np.array([0, np.nan], np.float32)}, "slopes: NaN or infinity"),
        ({"scale": float("nan")}, "scale: NaN or infinity"),
        ({"window": 0}, "window: 0 must be a positive number of keys"),
        ({"window": 3, "causal": False}, "window: 3 must be a positive number of keys, of a causal query"),
    ],
)
def test_operands_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        operands(**changes)


@pytest.mark.parametrize(
    ("source", "parameters", "sentence"),
    [
        (operands(q=np.full((2, 3, 4), np.nan, np.float32)), {}, "NaN or infinity"),
        (operands(q=np.full((2, 3, 4), np.inf, np.float32), prediction=LowBit(1, 4)), {}, "q: NaN or infinity"),
        (operands(prediction=LowBit(3, 4)), {}, "group: 3 must divide the head dimension, 4"),
        (operands(prediction=LowBit(2, 4, q_max=float("nan"))), {}, "q_max: nan must be finite"),
        (operands(), {"kept": 9, "block": 8}, "kept: 9 must be between 1 and block"),
    ],
)
def test_what_the_reference_refuses_is_refused_before_native_code_runs(source: ScoreSource, parameters: dict[str, int], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        nm_mask(source, **({"kept": 2, "block": 4} | parameters))


def test_arrays_that_are_not_contiguous_give_the_same_mask():
    source = next(sources(8))
    strided = ScoreSource(
        np.asfortranarray(source.q),
        source.k[:, ::-1][:, ::-1],
        source.scale,
        source.prediction,
        source.causal,
        source.window,
        source.slopes,
    )
    np.testing.assert_array_equal(xm_mask(strided, **XM).words, xm_mask(source, **XM).words)
