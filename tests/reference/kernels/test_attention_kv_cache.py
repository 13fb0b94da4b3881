"""Decoding against a cache: which keys prediction keeps, and attention on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.reference.kernels.attention_cases import (
    FORMATS,
    PATHS,
    assert_error_is_that_of_the_format,
    on_path,
    pack,
    random_rows,
    values_of,
)

from xmsim.reference.attention import group_max_scores, group_sum_scores, predict_scores, topk_keep, xm_keep
from xmsim.reference.kernels import attention, kv_cache, native
from xmsim.reference.kernels.kv_cache import KvCache, decode_attention, predicted_topk_words, predicted_xm_words

SHARED: dict[str, Callable[..., Any]] = {"group_sum": group_sum_scores, "group_max": group_max_scores}
STRICT = {"kept_high": 40, "kept_low": 3, "threshold_high": 1.5, "threshold_low": 0.5}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with on_path(request.param, monkeypatch, attention, kv_cache):
        yield request.param


def filled(k: np.ndarray, v: np.ndarray, *, bits: int | None = None, prefill: int | None = None, step: int = 97) -> KvCache:
    """A cache whose prefill sets the prediction scale, and that grows from there."""
    cache = KvCache(k.shape[0], k.shape[2], "bfloat16" if k.dtype == np.uint16 else "float32", tokens=1)
    first = k.shape[1] if prefill is None else prefill
    cache.append(k[:, :first], v[:, :first])
    if bits:
        cache.predict_with(bits)
    for token in range(first, k.shape[1], step):
        cache.append(k[:, token : token + step], v[:, token : token + step])
    return cache


def predicted(q: np.ndarray, k: np.ndarray, prefill: int, bits: int, group: int, lists: str, slopes: np.ndarray | None) -> np.ndarray:
    """The reference's scores, of the heads or of those that share a KV head."""
    k_max = float(np.abs(values_of(k[:, :prefill])).max())
    scores = predict_scores(values_of(q), values_of(k), group=group, bits=bits, scale=q.shape[2] ** -0.5, k_max=k_max)
    if slopes is not None:
        scores = scores + slopes[:, None, None] * np.arange(k.shape[1], dtype=np.float32)
    queries, keys = scores.shape[1:]
    scores = np.where(np.tri(queries, keys, keys - queries, dtype=bool), scores, np.float32(-np.inf))
    return SHARED[lists](scores, kv_heads=len(k)) if lists in SHARED else scores


@pytest.mark.parametrize("lists", ["head", "group_sum", "group_max"])
@pytest.mark.parametrize("bits, group", [(4, 2), (6, 4), (8, 1)])
@pytest.mark.parametrize(
    "heads, kv_heads, queries, keys, dim", [(4, 2, 1, 1000, 64), (8, 2, 3, 777, 128), (3, 3, 2, 130, 80), (6, 2, 1, 5000, 16)]
)
def test_predicted_keys_are_those_of_the_reference_bit_for_bit(
    path: str, lists: Any, bits: int, group: int, heads: int, kv_heads: int, queries: int, keys: int, dim: int
) -> None:
    for size, with_slopes in ((1.0, False), (5.0, True)):
        rng = np.random.default_rng([heads, keys, bits])
        q, k, v = (random_rows(rng, "float32", *shape) for shape in ((heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, dim)))
        q *= np.float32(size)
        slopes = rng.random(heads, dtype=np.float32) / 50 if with_slopes else None
        prefill = keys // 2 + 1
        cache = filled(k, v, bits=bits, prefill=prefill)
        scores = predicted(q, k, prefill, bits, group, lists, slopes)
        given: dict[str, Any] = {"group": group, "lists": lists, "slopes": slopes}
        np.testing.assert_array_equal(predicted_xm_words(q, cache, **given), pack(xm_keep(scores)))
        np.testing.assert_array_equal(predicted_xm_words(q, cache, **given, **STRICT), pack(xm_keep(scores, **STRICT)))
        np.testing.assert_array_equal(predicted_xm_words(q, cache, **given, block=32), pack(xm_keep(scores, block=32)))
        np.testing.assert_array_equal(predicted_topk_words(q, cache, kept=200, **given), pack(topk_keep(scores, kept=200)))


@pytest.mark.parametrize("lists", ["head", "group_sum"])
def test_equal_scores_keep_the_lowest_keys(path: str, lists: Any) -> None:
    ones = np.ones((2, 640, 32), np.float32)
    cache = filled(ones, ones, bits=4)
    q = np.ones((4, 1, 32), np.float32)
    words = predicted_xm_words(q, cache, group=2, lists=lists)  # every share is exactly 1: not above it
    assert words.shape == (2 if lists == "group_sum" else 4, 1, 10) and (words == 0xFF).all()
    top = predicted_topk_words(q, cache, kept=70, group=2, lists=lists)
    assert (top == np.array([2**64 - 1, 63, *[0] * 8], np.uint64)).all()


def test_keys_beyond_the_prefill_s_largest_are_clamped_not_rescaled(path: str) -> None:
    rng = np.random.default_rng(0)
    k = rng.standard_normal((1, 200, 32), dtype=np.float32)
    k[:, 150] *= 100
    cache = filled(k, k, bits=4, prefill=100)
    assert cache.codes.k_max == np.abs(k[:, :100]).max()
    q = rng.standard_normal((1, 1, 32), dtype=np.float32)
    words = predicted_topk_words(q, cache, kept=20, group=2)
    np.testing.assert_array_equal(words, pack(topk_keep(predicted(q, k, 100, 4, 2, "head", None), kept=20)))


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("heads, kv_heads, queries, keys, dim", [(8, 2, 1, 9000, 128), (4, 2, 3, 500, 64), (3, 1, 1, 70, 40)])
def test_attention_on_kept_and_on_all_keys_has_the_format_s_error(
    path: str, number_format: str, heads: int, kv_heads: int, queries: int, keys: int, dim: int
) -> None:
    rng = np.random.default_rng(7)
    q = random_rows(rng, number_format, heads, queries, dim, size=2)
    k, v = (random_rows(rng, number_format, kv_heads, keys, dim) for _ in range(2))
    cache = filled(k, v, bits=4, prefill=keys // 3, step=1000)
    causal = np.tri(queries, keys, keys - queries, dtype=bool)
    assert_error_is_that_of_the_format(decode_attention(q, cache), q, k, v, causal, dim**-0.5)
    words = predicted_xm_words(q, cache, group=2)
    keep = np.unpackbits(words.view(np.uint8), axis=-1, count=keys, bitorder="little").astype(bool)
    assert not (keep & ~causal).any()
    keep = keep.repeat(heads // kv_heads, axis=0)
    assert_error_is_that_of_the_format(decode_attention(q, cache, words), q, k, v, keep, dim**-0.5)


def test_a_cache_grows_and_gives_back_what_was_appended() -> None:
    rng = np.random.default_rng(8)
    k, v = (random_rows(rng, "bfloat16", 2, 1000, 40) for _ in range(2))
    cache = filled(k, v, prefill=3, step=1)
    assert cache.tokens == 1000
    np.testing.assert_array_equal(cache.k[..., :40], k)
    np.testing.assert_array_equal(cache.v[..., :40], v)
    assert not cache.k[..., 40:].any()
    cache.drop_first(990)
    np.testing.assert_array_equal(cache.k[..., :40], k[:, 990:])


def test_tensors_are_taken_and_given_back() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.randn(heads, tokens, 32).bfloat16() for heads, tokens in ((4, 1), (2, 300), (2, 300)))
    cache = KvCache(2, 32, "bfloat16")
    cache.append(k, v)
    out = decode_attention(q, cache)
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), *(x.double().repeat_interleave(2, 0) for x in (k, v)))
    assert out.dtype == torch.bfloat16 and (out.double() - exact).abs().max() < 0.02


@pytest.mark.skipif(native.library() is None, reason="no compiled kernels")
def test_threads_may_predict_on_one_cache_at_once() -> None:
    rng = np.random.default_rng(9)
    cache = filled(*(random_rows(rng, "float32", 2, 3000, 64) for _ in range(2)), bits=4)
    queries = [random_rows(rng, "float32", 8, 1, 64) for _ in range(8)]
    alone = [predicted_xm_words(q, cache, group=2, threads=1) for q in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda q: predicted_xm_words(q, cache, group=2, threads=1), queries * 40))
    assert all(np.array_equal(words, alone[i % 8]) for i, words in enumerate(together))


def cache_of(tokens: int, **options: Any) -> KvCache:
    cache = KvCache(2, 32, "float32")
    rows = np.ones((2, tokens, 32), np.float32)
    cache.append(rows, rows)
    if options:
        cache.predict_with(**options)
    return cache


QUERY = np.ones((4, 1, 32), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: KvCache(0, 32), r"^kv_heads, head_dim and tokens must be at least 1"),
        (lambda: KvCache(1, 32, "float16"), r"^dtype: float32 or bfloat16 is needed, got float16"),
        (lambda: cache_of(3).append(QUERY, QUERY), r"^k: \[2 KV heads, tokens, 32\] is needed, got \[4, 1, 32\]"),
        (lambda: cache_of(3).append(np.ones((2, 1, 32)), np.ones((2, 1, 32))), r"^k: the cache holds float32, got float64"),
        (lambda: cache_of(3, bits=9), r"^bits: 9 must be between 2 and 8"),
        (lambda: cache_of(3, bits=4, k_max=np.nan), r"^k_max: nan must be finite"),
        (lambda: KvCache(1, 32).predict_with(4), r"^k_max: an empty cache has no largest key"),
        (lambda: cache_of(3).drop_first(4), r"^tokens: 4 of 3 cannot be dropped"),
        (lambda: decode_attention(QUERY[:, :, :31], cache_of(3)), r"^k: 32 channels do not fit q's 31"),
        (
            lambda: decode_attention(QUERY.repeat(2, axis=1), cache_of(1)),
            r"^q: 2 queries, but the cache holds 1 tokens",
        ),
        (lambda: decode_attention(QUERY, cache_of(3), np.zeros((4, 1, 2), np.uint64)), r"^words: shape"),
        (
            lambda: predicted_xm_words(QUERY, cache_of(3), group=2),
            r"^cache: it has no low-bit keys to predict with",
        ),
        (lambda: predicted_xm_words(QUERY, cache_of(3, bits=4), group=5), r"^group: 5 must divide the head dimension, 32"),
        (lambda: predicted_xm_words(QUERY, cache_of(3, bits=4), group=2, lists="all"), r"^lists: head, group_sum or group_max is needed"),
        (lambda: predicted_xm_words(QUERY, cache_of(3, bits=4), group=2, kept_low=20), r"^kept_low: 20 must be between 0 and kept_high"),
        (lambda: predicted_xm_words(QUERY * np.nan, cache_of(3, bits=4), group=2), r"^q: the queries and their q_max must be finite"),
        (lambda: predicted_xm_words(QUERY, cache_of(3, bits=4), group=2, scale=-1), r"^scale: -1.0 must be positive"),
        (lambda: predicted_topk_words(QUERY, cache_of(3, bits=4), group=2, kept=0), r"^kept: 0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
