"""What the tests of the attention kernels share: paths of this host, operands, and the error that a number format allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import numpy as np
import pytest

from xmsim.reference.attention import sparse_attention
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels import native

Format = Literal["float32", "bfloat16"]
FORMATS = get_args(Format)
PATHS = ("portable", "avx2", "avx512", "numpy")
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-8}


@contextmanager
def on_path(path: str, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> Iterator[None]:
    """Use no instruction set above `path`; "numpy": no compiled kernels in `modules`. Skips what this host does not offer."""
    offered = native.offered_isa()
    if path == "numpy":
        for module in modules:
            monkeypatch.setattr(module, "kernel", lambda *_: None)
    elif offered is None or get_args(native.Isa).index(path) > get_args(native.Isa).index(offered):
        pytest.skip(f"this host offers {offered}")
    with nullcontext() if path == "numpy" else native.limited_isa(path):
        yield


def random_rows(rng: np.random.Generator, number_format: str, *shape: int, size: float = 1.0) -> np.ndarray:
    """Normal noise; bfloat16 as its bits."""
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(size)
    return bfloat16_bits(values) if number_format == "bfloat16" else values


def values_of(array: np.ndarray) -> np.ndarray:
    return bfloat16_values(array) if array.dtype == np.uint16 else array


def pack(keep: np.ndarray) -> np.ndarray:
    padded = np.pad(keep, ((0, 0), (0, 0), (0, -keep.shape[-1] % 64)))
    return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)


def assert_error_is_that_of_the_format(
    out: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, scale: float, slopes: np.ndarray | None = None
) -> None:
    """error(kernel) <= 2 error(plain) + eps peak, against float64; keep: bool, broadcastable to [heads, queries, keys]."""
    assert out.dtype == q.dtype and out.shape == q.shape
    number_format = "bfloat16" if q.dtype == np.uint16 else "float32"
    q, k, v = (values_of(x) for x in (q, k, v))
    keep = np.broadcast_to(keep, (*q.shape[:2], k.shape[1]))
    bias = (np.zeros(len(q), np.float32) if slopes is None else slopes)[:, None, None] * np.arange(k.shape[1], dtype=np.float32)
    exact = sparse_attention(*(x.astype(np.float64) for x in (q, k, v)), keep, scale=scale, bias=bias)
    plain = _plain(q, k, v, keep, scale, bias, number_format)
    allowed = 2 * np.abs(plain - exact).max() + EPS[number_format] * np.abs(exact).max()
    assert np.abs(values_of(out) - exact).max() <= allowed
    assert not values_of(out)[~keep.any(axis=-1)].any()


def _plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray, scale: float, bias: np.ndarray, number_format: str) -> np.ndarray:
    """The plain computation in the same precision: sums in float32, weights and result in the number format."""

    def rounded(x: np.ndarray) -> np.ndarray:
        return bfloat16_values(bfloat16_bits(x)) if number_format == "bfloat16" else x

    out = np.zeros_like(q)
    for head, query in np.ndindex(q.shape[:2]):
        kv_head, kept = head // (len(q) // len(k)), keep[head, query]
        if kept.any():
            scores = k[kv_head, kept] @ q[head, query] * np.float32(scale) + bias[head, 0, kept]
            weights = rounded(np.exp(scores - scores.max()))
            out[head, query] = rounded(weights @ v[kv_head, kept] / weights.sum())
    return out
