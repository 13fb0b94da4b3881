"""Sparse attention with a packed mask: every instruction set against float64, and what is refused before native code runs."""

from __future__ import annotations

from collections.abc import Iterator
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

from xmsim.reference.attention import nm_keep, salo_keep, sanger_keep, topk_keep, xm_keep
from xmsim.reference.formats.bfloat16 import bfloat16_bits
from xmsim.reference.kernels import attention
from xmsim.reference.kernels.attention import causal_attention, sparse_attention

# heads, kv_heads, queries, keys, dim
SHAPES = [(4, 2, 37, 37, 16), (1, 1, 1, 65, 64), (6, 1, 20, 33, 7), (8, 2, 1, 9000, 128), (2, 2, 70, 300, 80), (3, 1, 9, 130, 256)]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with on_path(request.param, monkeypatch, attention):
        yield request.param


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_that_of_the_number_format(path: str, number_format: str, density: float, shape: tuple[int, ...]) -> None:
    heads, kv_heads, queries, keys, dim = shape
    rng = np.random.default_rng([*shape, int(100 * density)])
    q = random_rows(rng, number_format, heads, queries, dim, size=3)
    k, v = (random_rows(rng, number_format, kv_heads, keys, dim) for _ in range(2))
    for mask_heads, slopes in ((heads, None), (kv_heads, rng.random(heads, dtype=np.float32) / 50)):
        keep = rng.random((mask_heads, queries, keys)) < density
        if queries > 1:
            keep[:, queries // 2] = False
        out = sparse_attention(q, k, v, pack(keep), scale=0.25, slopes=slopes)
        assert_error_is_that_of_the_format(out, q, k, v, keep.repeat(heads // mask_heads, axis=0), 0.25, slopes)


@pytest.mark.parametrize(
    "method",
    [
        lambda scores: xm_keep(scores),
        lambda scores: nm_keep(scores, kept=2, block=16),
        lambda scores: sanger_keep(scores, threshold=2e-3),
        lambda scores: topk_keep(scores, kept=30),
        lambda scores: salo_keep(scores, block=16, window=8),
    ],
    ids=["xm", "nm", "sanger", "topk", "salo"],
)
def test_every_method_s_mask_is_served(path: str, method: Any) -> None:
    rng = np.random.default_rng(3)
    q = random_rows(rng, "float32", 2, 200, 32)
    k, v = (random_rows(rng, "float32", 1, 200, 32) for _ in range(2))
    scores = np.where(np.tri(200, dtype=bool), q @ k.swapaxes(1, 2) / np.sqrt(32), -np.inf)
    keep = method(scores)
    assert_error_is_that_of_the_format(sparse_attention(q, k, v, pack(keep)), q, k, v, keep, 32**-0.5)


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_long_even_row_loses_no_digits(path: str, number_format: str) -> None:
    rng = np.random.default_rng(1)
    q = random_rows(rng, number_format, 1, 70, 64, size=0.01)
    k, v = (random_rows(rng, number_format, 1, 4096, 64) for _ in range(2))
    keep = np.ones((1, 70, 4096), bool)
    assert_error_is_that_of_the_format(sparse_attention(q, k, v, pack(keep), scale=0.25), q, k, v, keep, 0.25)


def test_scores_far_apart_neither_overflow_nor_vanish(path: str) -> None:
    q, k = np.full((1, 1, 32), 30, np.float32), np.linspace(-30, 30, 90, dtype=np.float32)[None, :, None].repeat(32, axis=2)
    v = np.random.default_rng(0).standard_normal((1, 90, 32), dtype=np.float32)
    keep = np.ones((1, 1, 90), bool)
    np.testing.assert_allclose(sparse_attention(q, k, v, pack(keep), scale=1.0)[0, 0], v[0, -1], rtol=1e-6)
    keep[..., -1] = False
    np.testing.assert_allclose(sparse_attention(q, k, v, pack(keep), scale=1.0)[0, 0], v[0, -2], rtol=1e-6)


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("keys", [3, 70, 9000])  # less than a register, a piece and a bit, ranges that are merged
@pytest.mark.parametrize("operand, wrong", [("q", np.nan), ("q", np.inf), ("k", np.nan), ("k", np.inf)])
def test_a_score_that_is_no_number_shows_in_its_row_and_no_other(
    path: str, number_format: str, keys: int, operand: str, wrong: float
) -> None:
    rng = np.random.default_rng(11)
    q, k, v = np.ones((1, 2, 32), np.float32), *rng.random((2, 1, keys, 32), dtype=np.float32)
    keep = np.ones((1, 2, keys), bool)
    keep[0, 1, keys // 2] = False
    (q[0, 0] if operand == "q" else k[0, keys // 2])[5] = wrong
    q, k, v = (bfloat16_bits(x) if number_format == "bfloat16" else x for x in (q, k, v))
    out = values_of(sparse_attention(q, k, v, pack(keep)))
    assert np.isnan(out[0, 0]).all() and np.isfinite(out[0, 1]).all()


def test_the_result_does_not_depend_on_the_threads() -> None:
    rng = np.random.default_rng(2)
    for queries in (1, 150):
        q = random_rows(rng, "bfloat16", 4, queries, 64)
        k, v = (random_rows(rng, "bfloat16", 2, 9000, 64) for _ in range(2))
        words = pack(rng.random((4, queries, 9000)) < 0.1)
        first, *others = (sparse_attention(q, k, v, words, threads=threads) for threads in (1, 2, 3))
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("number_format", FORMATS)
def test_without_words_every_key_up_to_the_query_is_kept(path: str, number_format: str) -> None:
    rng = np.random.default_rng(4)
    q = random_rows(rng, number_format, 4, 3, 40)
    k, v = (random_rows(rng, number_format, 2, 5000, 40) for _ in range(2))
    slopes = np.array([0.0, 0.001, 0.01, 0.1], np.float32)
    out = causal_attention(q, k, v, slopes=slopes)
    assert_error_is_that_of_the_format(out, q, k, v, np.tri(3, 5000, 4997, dtype=bool), 40**-0.5, slopes)


def test_a_part_of_a_longer_cache_is_read_where_it_lies(path: str) -> None:
    rng = np.random.default_rng(5)
    cache = rng.standard_normal((2, 2, 400, 64), dtype=np.float32)
    q = rng.standard_normal((4, 1, 64), dtype=np.float32)
    k, v = cache[:, :, 100:300]
    np.testing.assert_array_equal(causal_attention(q, k, v), causal_attention(q, k.copy(), v.copy()))
    backwards = causal_attention(q, k[:, ::-1], v[:, ::-1])
    np.testing.assert_allclose(backwards, causal_attention(q, k, v), rtol=1e-5, atol=1e-6)


def test_arrays_and_tensors_give_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    q, k, v = (random_rows(rng, "bfloat16", 2, 50, 48) for _ in range(3))
    words = pack(rng.random((2, 50, 50)) < 0.3)
    out = sparse_attention(q, k, v, words)
    tensors = [torch.from_numpy(values_of(x)).bfloat16() for x in (q, k, v)]
    for packed in (torch.from_numpy(words), torch.from_numpy(words.view(np.int64))):
        tensor = sparse_attention(*tensors, packed)
        assert tensor.dtype == torch.bfloat16 and tensor.shape == q.shape
        np.testing.assert_array_equal(tensor.float().numpy(), values_of(out))
    transposed = sparse_attention(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors), packed)
    assert torch.equal(transposed, tensor)


GOOD = {name: np.ones((2, 3, 32), np.float32) for name in "qkv"} | {"words": np.zeros((2, 3, 1), np.uint64)}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"q": np.ones((2, 3, 32))}, r"^k: float32 does not fit q's float64"),
        ({name: np.ones((2, 3, 32)) for name in "qkv"}, r"^k: float32 or bfloat16 .* is needed, got float64"),
        ({"q": np.ones((3, 32), np.float32)}, r"^q: \[heads, tokens, d\] is needed, each at least 1, got \[3, 32\]"),
        ({"q": np.ones((2, 0, 32), np.float32)}, r"^q: \[heads, tokens, d\] is needed"),
        ({"q": np.ones((3, 3, 32), np.float32)}, r"^q: 3 heads are no multiple of the 2 key/value heads"),
        ({"q": np.ones((2, 3, 31), np.float32)}, r"^k: 32 channels do not fit q's 31"),
        ({"v": np.ones((2, 4, 32), np.float32)}, r"^v: shape \[2, 4, 32\] does not fit k's"),
        ({"words": np.zeros((2, 3, 1), bool)}, r"^words: uint64 is needed, got bool"),
        ({"words": np.zeros((2, 3, 2), np.uint64)}, r"^words: shape \[2, 3, 2\] is not \[2 heads or 2 KV heads, 3 queries, 1 words\]"),
        ({"words": np.zeros((4, 3, 1), np.uint64)}, r"^words: shape"),
        ({"words": np.full((2, 3, 1), 8, np.uint64)}, r"^words: a bit after the last of 3 keys is set"),
        ({"scale": np.inf}, r"^scale: inf must be finite"),
        ({"slopes": np.zeros(3)}, r"^slopes: a finite number for each of 2 heads is needed"),
        ({"threads": 0}, r"^threads: 0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse_attention(**(GOOD | changes))


def test_more_queries_than_keys_are_refused_where_positions_count() -> None:
    with pytest.raises(ValueError, match=r"^q: 3 queries see only 2 keys"):
        causal_attention(GOOD["q"], GOOD["k"][:, :2], GOOD["v"][:, :2])


def test_tensors_elsewhere_than_on_the_cpu_are_refused() -> None:
    torch = pytest.importorskip("torch")
    elsewhere = torch.empty((2, 3, 32), device="meta")
    with pytest.raises(ValueError, match=r"^k: a tensor on the CPU is needed, this one is on meta"):
        sparse_attention(elsewhere, elsewhere, elsewhere, torch.zeros((2, 3, 1), dtype=torch.int64))
