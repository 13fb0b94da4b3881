"""SparAMX's cache: what it leaves out, how it grows, and attention on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.reference.kernels.attention_cases import FORMATS, PATHS, assert_error_is_that_of_the_format, on_path, random_rows, values_of

from xmsim.reference.formats.bfloat16 import bfloat16_bits
from xmsim.reference.kernels import pruned_kv_cache
from xmsim.reference.kernels.pruned_kv_cache import PrunedKvCache, pruned_decode_attention


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with on_path(request.param, monkeypatch, pruned_kv_cache):
        yield request.param


def filled(
    k: np.ndarray, v: np.ndarray, *, prefill: int, step: int = 37, k_sparsity: float = 0.3, v_sparsity: float = 0.5
) -> PrunedKvCache:
    number_format = "bfloat16" if k.dtype == np.uint16 else "float32"
    cache = PrunedKvCache(k.shape[0], k.shape[2], number_format, k_sparsity=k_sparsity, v_sparsity=v_sparsity)
    cache.append(k[:, :prefill], v[:, :prefill])
    for token in range(prefill, k.shape[1], step):
        cache.append(k[:, token : token + step], v[:, token : token + step])
    return cache


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(
    "heads, kv_heads, queries, tokens, dim",
    [(4, 2, 1, 1000, 64), (8, 2, 3, 777, 128), (3, 3, 2, 30, 80), (8, 1, 1, 9000, 32), (2, 2, 1, 192, 16)],
)
def test_the_error_on_what_is_left_is_that_of_the_number_format(
    path: str, number_format: str, heads: int, kv_heads: int, queries: int, tokens: int, dim: int
) -> None:
    rng = np.random.default_rng([heads, tokens])
    q = random_rows(rng, number_format, heads, queries, dim, size=2)
    k, v = (random_rows(rng, number_format, kv_heads, tokens, dim) for _ in range(2))
    slopes = rng.random(heads, dtype=np.float32) / 100
    cache = filled(k, v, prefill=tokens // 2 + 1)
    left_k, left_v = ((bfloat16_bits(x) if number_format == "bfloat16" else x) for x in cache.dense())
    out = pruned_decode_attention(q, cache, slopes=slopes)
    causal = np.tri(queries, tokens, tokens - queries, dtype=bool)
    assert_error_is_that_of_the_format(out, q, left_k, left_v, causal, dim**-0.5, slopes)


def test_the_smallest_magnitudes_of_each_kv_head_are_left_out() -> None:
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((2, 64 * 10, 48), dtype=np.float32) for _ in range(2))
    k[1] *= 100  # each head has a threshold of its own
    cache = PrunedKvCache(2, 48, "float32", k_sparsity=0.3, v_sparsity=0.75, dense_tokens=0)
    cache.append(k, v)
    for given, left, sparsity in zip((k, v), cache.dense(), (0.3, 0.75), strict=True):
        for head in range(2):
            limit = np.sort(np.abs(given[head]), axis=None)[int(sparsity * given[head].size) - 1]
            np.testing.assert_array_equal(left[head], np.where(np.abs(given[head]) > limit, given[head], 0))


@pytest.mark.parametrize("dense_tokens", [0, 1, 64, 100])
def test_the_latest_tokens_stay_as_they_came_while_the_cache_grows(dense_tokens: int) -> None:
    rng = np.random.default_rng(1)
    k, v = (rng.standard_normal((1, 400, 32), dtype=np.float32) for _ in range(2))
    cache = PrunedKvCache(1, 32, "float32", k_sparsity=0.5, v_sparsity=0.5, dense_tokens=dense_tokens)
    cache.append(k[:, :150], v[:, :150])
    for token in range(150, 400):
        cache.append(k[:, token : token + 1], v[:, token : token + 1])
        left, _ = cache.dense()
        pruned = max(0, (token + 1 - dense_tokens) // 64 * 64)
        assert cache.tokens == token + 1
        np.testing.assert_array_equal(left[:, pruned:], k[:, pruned : token + 1])
        assert np.count_nonzero(left[:, :pruned]) == pruned * 32 // 2


def test_a_decode_step_sees_the_token_that_was_just_appended(path: str) -> None:
    rows = np.zeros((1, 130, 32), np.float32)
    cache = filled(rows, rows, prefill=130)
    k, v = np.full((1, 1, 32), 10, np.float32), np.full((1, 1, 32), 7, np.float32)
    cache.append(k, v)
    np.testing.assert_allclose(pruned_decode_attention(k, cache), v, rtol=1e-6)


def test_bytes_are_those_of_bitmap_values_starts_and_tail() -> None:
    rng = np.random.default_rng(2)
    rows = random_rows(rng, "bfloat16", 2, 64 * 5 + 7, 64)
    cache = PrunedKvCache(2, 64, k_sparsity=0.0, v_sparsity=0.5, dense_tokens=64)
    cache.append(rows, rows)
    pruned, tail = 64 * 4, 64 + 7
    left = sum(np.count_nonzero(x[:, :pruned]) for x in cache.dense())
    assert cache.nbytes == 2 * left + 2 * 2 * pruned * 64 // 8 + 2 * 2 * 5 * 8 + 2 * 2 * tail * 64 * 2


ONE = np.ones((1, 1, 32), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: PrunedKvCache(1, 32, k_sparsity=1.0, v_sparsity=0.5), r"^k_sparsity: 1.0 must be at least 0 and below 1"),
        (lambda: PrunedKvCache(1, 32, k_sparsity=0.5, v_sparsity=-0.1), r"^v_sparsity: -0.1 must be"),
        (lambda: PrunedKvCache(1, 32, k_sparsity=0, v_sparsity=0, dense_tokens=-1), r"^dense_tokens: -1 must not be negative"),
        (lambda: filled(ONE, ONE * np.float32(np.nan), prefill=1), r"^v: NaN or infinity"),
        (lambda: filled(*[np.full((1, 1, 32), 0xFF80, np.uint16)] * 2, prefill=1), r"^k: NaN or infinity"),
        (
            lambda: pruned_decode_attention(np.ones((1, 1, 32), np.float32), filled(*[np.ones((1, 0, 32), np.float32)] * 2, prefill=0)),
            r"^q: 1 queries",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_left_keeps_its_values() -> None:
    rng = np.random.default_rng(3)
    rows = random_rows(rng, "bfloat16", 1, 200, 32)
    left, _ = filled(rows, rows, prefill=200).dense()
    assert ((left == values_of(rows)) | (left == 0)).all()
