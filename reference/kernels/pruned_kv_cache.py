"""SparAMX's key/value cache: the smallest magnitudes of each KV head left out, a bitmap says which (arXiv 2502.12444).

Blocks of 64 tokens are pruned once they are full; the latest tokens stay as they came, so that decoding goes on: the authors' cache is
pruned once and does not see the tokens that follow. Heads are pruned before they are shared by query heads, not after.
"""

from __future__ import annotations

from ctypes import c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from xmsim.reference.attention import sparse_attention
from xmsim.reference.kernels.attention import (
    WORD_KEYS,
    as_float32,
    as_numbers,
    causal_keep,
    like,
    numbers,
    scale_of,
    slopes_of,
    threads_of,
)
from xmsim.reference.kernels.kv_cache import KvCache, check_queries, grown
from xmsim.reference.kernels.native import address, huge_empty, kernel

_RANGE_KEYS = 4096  # pruned keys of one part of the work
_WORD_CHANNELS = 32
_BFLOAT16_INFINITY = 0x7F80
_READ_AHEAD = 64  # values that may be read behind the last


@dataclass(slots=True, eq=False)
class _PrunedRows:
    """Keys or values of all blocks that are pruned."""

    bitmap: np.ndarray  # uint32 [kv_heads, room for tokens, channels / 32], bit c of word j: channel 32 j + c is there
    values: np.ndarray  # [kv_heads, room]: what is there, row after row
    starts: np.ndarray  # int64 [kv_heads, room for blocks + 1]: first value of each block
    tokens: int = 0

    @classmethod
    def empty(cls, kv_heads: int, channels: int, bits: np.dtype) -> _PrunedRows:
        bitmap = huge_empty((kv_heads, WORD_KEYS, channels // _WORD_CHANNELS), np.uint32)
        return cls(bitmap, huge_empty((kv_heads, _READ_AHEAD), bits), huge_empty((kv_heads, WORD_KEYS), np.int64))

    @property
    def counts(self) -> np.ndarray:
        """How many values each KV head has; int64 [kv_heads]."""
        return self.starts[:, self.tokens // WORD_KEYS]

    @property
    def nbytes(self) -> int:
        bitmap = self.bitmap[:, : self.tokens].nbytes
        return int(bitmap + self.counts.sum() * self.values.itemsize + self.starts[:, : self.tokens // WORD_KEYS + 1].nbytes)

    def add(self, rows: np.ndarray, sparsity: float, head_dim: int) -> None:
        """Prune and add whole blocks, [kv_heads, tokens, channels], of which the first `head_dim` channels were given."""
        magnitudes = _magnitudes(rows)
        first, tokens = self.tokens, rows.shape[1]
        last, blocks = first + tokens, tokens // WORD_KEYS
        keep = np.stack([_keep_largest(head, sparsity, head_dim) for head in magnitudes])
        counts = keep.reshape(len(keep), blocks, -1).sum(axis=2, dtype=np.int64)
        before = self.counts.copy()
        after = before + counts.sum(axis=1)
        self._make_room(last, int(after.max()))
        bits = np.packbits(keep, axis=2, bitorder="little").view(np.uint32)
        self.bitmap[:, first:last] = bits
        self.starts[:, first // WORD_KEYS + 1 : last // WORD_KEYS + 1] = before[:, None] + counts.cumsum(axis=1)
        for head, (begin, end) in enumerate(zip(before, after, strict=True)):
            self.values[head, begin:end] = rows[head][keep[head]]
        self.tokens = last

    def _make_room(self, tokens: int, values: int) -> None:
        if tokens > self.bitmap.shape[1]:
            self.bitmap = grown(self.bitmap, tokens, axis=1)
        if tokens // WORD_KEYS + 1 > self.starts.shape[1]:
            self.starts = grown(self.starts, tokens // WORD_KEYS + 1, axis=1)
        if values + _READ_AHEAD > self.values.shape[1]:
            self.values = grown(self.values, values + _READ_AHEAD, axis=1)

    def dense(self) -> np.ndarray:
        """[kv_heads, tokens, channels], with zeros for what was left out."""
        bitmap = np.ascontiguousarray(self.bitmap[:, : self.tokens])
        keep = np.unpackbits(bitmap.view(np.uint8), axis=2, bitorder="little").astype(bool)
        rows = np.zeros(keep.shape, self.values.dtype)
        for head, count in enumerate(self.counts):
            rows[head][keep[head]] = self.values[head, :count]
        return rows


class PrunedKvCache:
    """Keys and values of one layer, one sequence, of which the smallest magnitudes of each KV head are left out."""

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        *,
        k_sparsity: float,
        v_sparsity: float,
        dense_tokens: int = 64,
    ) -> None:
        """An empty cache.

        Args:
            kv_heads, head_dim, dtype: as `KvCache`.
            k_sparsity, v_sparsity: share of the entries of each KV head that is left out, in [0, 1).
            dense_tokens: how many of the latest tokens stay as they came, at least; up to 63 more until their block is full.
        Raises: ValueError naming the argument.
        """
        for name, sparsity in (("k_sparsity", k_sparsity), ("v_sparsity", v_sparsity)):
            if not 0 <= sparsity < 1:
                raise ValueError(f"{name}: {sparsity} must be at least 0 and below 1")
        if dense_tokens < 0:
            raise ValueError(f"dense_tokens: {dense_tokens} must not be negative")
        self.k_sparsity, self.v_sparsity, self.dense_tokens = k_sparsity, v_sparsity, dense_tokens
        self._tail = KvCache(kv_heads, head_dim, dtype, tokens=dense_tokens + WORD_KEYS)
        channels = self._tail.k.shape[2]
        self._k, self._v = (_PrunedRows.empty(kv_heads, channels, self._tail.k.dtype) for _ in range(2))

    @property
    def tokens(self) -> int:
        """All that were appended."""
        return self._k.tokens + self._tail.tokens

    @property
    def nbytes(self) -> int:
        """Bytes that a decode step reads: bitmaps, values, where blocks start, and the dense tail."""
        return self._k.nbytes + self._v.nbytes + self._tail.k.nbytes + self._tail.v.nbytes

    def append(self, k: Any, v: Any) -> None:
        """Add the next tokens; as `KvCache.append`, and finite. Full blocks that are no longer among the latest are pruned, together."""
        for name, x in (("k", k), ("v", v)):
            rows = numbers(name, x)
            if not (_magnitudes(rows) < (_BFLOAT16_INFINITY if rows.dtype == np.uint16 else np.inf)).all():
                raise ValueError(f"{name}: NaN or infinity; a cache is pruned by finite magnitudes")
        self._tail.append(k, v)
        leaving = (self._tail.tokens - self.dense_tokens) // WORD_KEYS * WORD_KEYS
        if leaving <= 0:
            return
        self._k.add(self._tail.k[:, :leaving], self.k_sparsity, self._tail.head_dim)
        self._v.add(self._tail.v[:, :leaving], self.v_sparsity, self._tail.head_dim)
        self._tail.drop_first(leaving)

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values as attention sees them, float32 [kv_heads, tokens, head_dim]: zeros where something was left out."""
        k, v = (
            as_float32(np.concatenate([rows.dense(), tail], axis=1))[..., : self._tail.head_dim]
            for rows, tail in ((self._k, self._tail.k), (self._v, self._tail.v))
        )
        return k, v


def pruned_decode_attention(
    q: Any, cache: PrunedKvCache, *, scale: float | None = None, slopes: Any | None = None, threads: int | None = None
) -> Any:
    """Attention of the last tokens' queries on every key of a pruned cache; arguments and result as `decode_attention`."""
    tail, k, v = cache._tail, cache._k, cache._v
    check_queries(q, tail.dtype, tail.kv_heads, tail.head_dim, cache.tokens)
    array, factor, slope = numbers("q", q), scale_of(scale, tail.head_dim), slopes_of(slopes, q.shape[0])
    heads, queries, dim = array.shape
    bf16 = array.dtype == np.uint16
    native = kernel("xm_attend_pruned", None, c_int, *[c_void_p] * 12, *[c_int64] * 13, c_float, c_int)
    if native is None:
        keep = causal_keep(queries, cache.tokens)
        bias = None if slope is None else slope[:, None, None] * np.arange(cache.tokens, dtype=np.float32)
        out = sparse_attention(as_float32(array)[..., : tail.head_dim], *cache.dense(), keep, scale=factor, bias=bias)
        return like(q, as_numbers(out, bf16))
    out = np.empty(array.shape, array.dtype)
    partial = np.empty((-(-k.tokens // _RANGE_KEYS) + -(-tail.tokens // _RANGE_KEYS), heads, queries, dim + 2), np.float32)
    native(
        bf16,
        address(array),
        address(k.bitmap),
        address(k.values),
        address(k.starts),
        address(v.bitmap),
        address(v.values),
        address(v.starts),
        tail.k.ctypes.data,
        tail.v.ctypes.data,
        None if slope is None else address(slope),
        address(out),
        address(partial),
        heads,
        tail.kv_heads,
        queries,
        k.tokens,
        tail.tokens,
        dim,
        k.bitmap.strides[0] // 4,
        k.values.shape[1],
        v.values.shape[1],
        k.starts.shape[1],
        tail.k.strides[0] // tail.k.itemsize,
        tail.k.strides[1] // tail.k.itemsize,
        _RANGE_KEYS,
        factor,
        threads_of(threads),
    )
    return like(q, out[..., : tail.head_dim])


def _magnitudes(rows: np.ndarray) -> np.ndarray:
    """Of bfloat16 its bits without the sign, which are in the order of the magnitudes."""
    return rows & np.uint16(0x7FFF) if rows.dtype == np.uint16 else np.abs(rows)


def _keep_largest(magnitudes: np.ndarray, sparsity: float, head_dim: int) -> np.ndarray:
    """Those above the k-th smallest, where k is the share `sparsity` of the channels that were given; zeros are never kept."""
    given = magnitudes[:, :head_dim]
    pruned = int(sparsity * given.size)
    limit = np.partition(given, pruned - 1, axis=None)[pruned - 1] if pruned else 0
    return magnitudes > limit
