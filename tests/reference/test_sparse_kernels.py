"""Sparse attention kernels against the float64 reference, in the error bound every kernel must meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xmsim.reference.attention import sparse_attention
from xmsim.reference.kernels import torch_attention
from xmsim.reference.kernels.cpu_attention import KeptPairs, gather_attention, kept_pairs

Kernel = Callable[..., np.ndarray]


def torch_gather(q: np.ndarray, k: np.ndarray, v: np.ndarray, pairs: KeptPairs, **options: Any) -> np.ndarray:
    torch = pytest.importorskip("torch")
    return torch_attention.GatherAttention(*(torch.from_numpy(x) for x in (q, k, v)), pairs, **options)().numpy()


@pytest.fixture(params=[gather_attention, torch_gather])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return request.param


def plain_float32(q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, scale: float, bias: np.ndarray) -> np.ndarray:
    """The plain computation in the kernel's precision."""
    out = np.zeros_like(q)
    for head, query in np.ndindex(q.shape[:2]):
        kv_head = head // (len(q) // len(k))
        kept = keep[head, query]
        if kept.any():
            scores = k[kv_head, kept] @ q[head, query] * np.float32(scale) + bias[head, 0, kept]
            weights = np.exp(scores - scores.max())
            out[head, query] = weights @ v[kv_head, kept] / weights.sum()
    return out


def assert_error_is_that_of_float32(
    kernel: Kernel, q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, slopes: np.ndarray | None = None
) -> None:
    bias = (np.zeros(len(q), np.float32) if slopes is None else slopes)[:, None, None] * np.arange(k.shape[1], dtype=np.float32)
    out = kernel(q, k, v, kept_pairs(keep), scale=0.25, slopes=slopes)
    exact = sparse_attention(*(x.astype(np.float64) for x in (q, k, v)), keep, scale=0.25, bias=bias)
    plain = plain_float32(q, k, v, keep, 0.25, bias)
    allowed = 2 * np.abs(plain - exact).max() + np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(out - exact).max() <= allowed
    assert not out[~keep.any(axis=-1)].any()


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("heads, kv_heads, queries, keys, dim", [(4, 2, 37, 37, 16), (1, 1, 1, 65, 64), (6, 1, 20, 33, 7)])
@pytest.mark.parametrize("with_slopes", [False, True])
def test_the_error_is_that_of_the_precision(
    kernel: Kernel, density: float, heads: int, kv_heads: int, queries: int, keys: int, dim: int, with_slopes: bool
) -> None:
    rng = np.random.default_rng([heads, queries, int(100 * density)])
    q = rng.standard_normal((heads, queries, dim), dtype=np.float32) * 3
    k, v = (rng.standard_normal((kv_heads, keys, dim), dtype=np.float32) for _ in range(2))
    keep = rng.random((heads, queries, keys)) < density
    keep[:, queries // 2] = False
    assert_error_is_that_of_float32(kernel, q, k, v, keep, rng.random(heads, dtype=np.float32) if with_slopes else None)


def test_a_long_even_row_loses_no_digits(kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    q = rng.standard_normal((1, 40, 64), dtype=np.float32) * np.float32(0.01)
    k, v = (rng.standard_normal((1, 4096, 64), dtype=np.float32) for _ in range(2))
    assert_error_is_that_of_float32(kernel, q, k, v, np.ones((1, 40, 4096), bool))


def test_lists_hold_the_kept_keys_of_every_row_in_order() -> None:
    keep = np.random.default_rng(0).random((3, 9, 70)) < 0.2
    keep[1, 4] = False
    pairs = kept_pairs(keep)
    rows = keep.reshape(-1, 70)
    assert len(pairs.starts) == len(rows) + 1
    for row, kept in enumerate(rows):
        np.testing.assert_array_equal(pairs.keys[pairs.starts[row] : pairs.starts[row + 1]], np.flatnonzero(kept))


def test_lists_of_other_rows_are_refused(kernel: Kernel) -> None:
    operand = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match=r"^pairs: 3 rows do not fit 2 heads of 3 queries"):
        kernel(operand, operand, operand, kept_pairs(np.ones((1, 3, 3), bool)), scale=1.0)


def test_torch_rows_are_computed_in_chunks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((2, 50, 8), dtype=np.float32) for _ in range(3))
    keep = rng.random((2, 50, 50)) < 0.3
    whole = torch_gather(q, k, v, kept_pairs(keep), scale=0.25)
    monkeypatch.setattr(torch_attention, "CHUNK_BYTES", 64 * 8 * 4)  # 64 gathered keys
    np.testing.assert_allclose(torch_gather(q, k, v, kept_pairs(keep), scale=0.25), whole, rtol=1e-5, atol=1e-6)
    chunks = torch_attention._chunks(keep.sum(axis=-1).ravel(), 64)
    assert [row for rows in chunks for row in range(rows.start, rows.stop)] == list(range(100)) and len(chunks) > 10
