"""Key/value caches for decoding on the CPU: as they come, with a few-bit copy of the keys for prediction, and pruned (SparAMX).

`decode_attention` is exact attention on the keys of a cache that are kept, or on all of them; `predicted_xm_words` and
`predicted_topk_words` say which to keep. Imports only numpy, and torch where a tensor is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ctypes import c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from xmsim.reference.attention import group_max_scores, group_sum_scores, numpy_integers, predict_scores, topk_keep, xm_keep
from xmsim.reference.kernels.attention import (
    CHANNEL_STEP,
    WORD_KEYS,
    Operands,
    as_float32,
    attend,
    causal_keep,
    check_heads,
    number_format,
    numbers,
    packed_words,
    scale_of,
    slopes_of,
    threads_of,
)
from xmsim.reference.kernels.native import address, huge_empty, kernel

Lists = Literal["head", "group_sum", "group_max"]  # who decides which keys are kept: each query head, or those of a KV head together


class KvCache:
    """Keys and values of one layer, one sequence; room is made ahead, so that a token costs no copy of the others.

    With `prediction` a few-bit copy of the keys is kept beside them: half a byte a channel up to 4 bits, else one.
    """

    def __init__(self, kv_heads: int, head_dim: int, dtype: Literal["float32", "bfloat16"] = "bfloat16", *, tokens: int = 1024) -> None:
        """An empty cache.

        Args:
            kv_heads, head_dim: shape of the keys and values.
            dtype: their number format.
            tokens: how many to make room for; more are made room for when they come.
        Raises: ValueError naming the argument.
        """
        if min(kv_heads, head_dim, tokens) < 1:
            raise ValueError(f"kv_heads, head_dim and tokens must be at least 1, got {kv_heads}, {head_dim} and {tokens}")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: float32 or bfloat16 is needed, got {dtype}")
        self.kv_heads, self.head_dim, self.dtype, self.tokens = kv_heads, head_dim, dtype, 0
        shape = (kv_heads, _blocks(tokens) * WORD_KEYS, -(-head_dim // CHANNEL_STEP) * CHANNEL_STEP)
        bits = np.float32 if dtype == "float32" else np.uint16
        self._k, self._v = (huge_empty(shape, bits) for _ in range(2))
        self._codes: KeyCodes | None = None

    def append(self, k: Any, v: Any) -> None:
        """Add the next tokens.

        Args:
            k, v: [kv_heads, new tokens, head_dim] in the cache's number format (bfloat16 arrays as uint16); keys after rotary embedding.
        Raises: ValueError naming the argument.
        """
        for name, x in (("k", k), ("v", v)):
            if x.ndim != 3 or (x.shape[0], x.shape[2]) != (self.kv_heads, self.head_dim) or x.shape != k.shape:
                raise ValueError(f"{name}: [{self.kv_heads} KV heads, tokens, {self.head_dim}] is needed, got {list(x.shape)}")
            if number_format(x) != self.dtype:
                raise ValueError(f"{name}: the cache holds {self.dtype}, got {number_format(x)}")
        new = slice(self.tokens, self.tokens + k.shape[1])
        if not k.shape[1]:
            return
        if new.stop > self._k.shape[1]:
            self._k, self._v = (grown(x, new.stop, axis=1) for x in (self._k, self._v))
        self._k[:, new, : self.head_dim] = numbers("k", k)[..., : self.head_dim]
        self._v[:, new, : self.head_dim] = numbers("v", v)[..., : self.head_dim]
        self.tokens = new.stop
        if self._codes is not None:
            self._codes.append(as_float32(self._k[:, new]))

    def drop_first(self, tokens: int) -> None:
        """Forget the oldest tokens; of a cache without low-bit keys.

        Raises:
            ValueError: it has them, or holds fewer tokens.
        """
        if self._codes is not None or not 0 <= tokens <= self.tokens:
            raise ValueError(f"tokens: {tokens} of {self.tokens} cannot be dropped; a cache with low-bit keys drops none")
        self._k, self._v = (grown(x[:, tokens : self.tokens], WORD_KEYS, axis=1) for x in (self._k, self._v))
        self.tokens -= tokens

    def predict_with(self, bits: int, *, k_max: float | None = None) -> None:
        """Keep a few-bit copy of the keys from now on.

        Args:
            bits: width of the integers, 2 to 8.
            k_max: magnitude that stands for the largest integer; larger keys are clamped. None: the largest of the keys that are there,
                which is the prefill's, and stays as it is while tokens are added.
        Raises: ValueError naming the argument.
        """
        if not 2 <= bits <= 8:
            raise ValueError(f"bits: {bits} must be between 2 and 8")
        if k_max is None and not self.tokens:
            raise ValueError("k_max: an empty cache has no largest key; give k_max, or append the prefill first")
        keys = as_float32(self._k[:, : self.tokens])
        largest = float(numpy_integers.largest_magnitude(keys)) if k_max is None else float(k_max)
        if not (np.isfinite(largest) and largest >= 0):
            raise ValueError(f"k_max: {largest} must be finite and not negative")
        self._codes = KeyCodes(self.kv_heads, keys.shape[2], bits, largest, self._k.shape[1])
        self._codes.append(keys)

    @property
    def codes(self) -> KeyCodes:
        """The few-bit copy of the keys.

        Raises:
            ValueError: there is none.
        """
        if self._codes is None:
            raise ValueError("cache: it has no low-bit keys to predict with; call cache.predict_with(bits) after the prefill")
        return self._codes

    @property
    def k(self) -> np.ndarray:
        """Keys, a view [kv_heads, tokens, head_dim filled up to a multiple of 32]; float32 or the bits of bfloat16."""
        return self._k[:, : self.tokens]

    @property
    def v(self) -> np.ndarray:
        """Values, as `k`."""
        return self._v[:, : self.tokens]

    def operands(self, q: Any) -> Operands:
        """The cache and some queries, checked."""
        check_queries(q, self.dtype, self.kv_heads, self.head_dim, self.tokens)
        return Operands(numbers("q", q), self.k, self.v, self.head_dim, q)


class KeyCodes:
    """The few-bit copy of the keys of a cache: codes = integer + 2^(bits - 1), in blocks of 64 keys.

    In a block, four channels of all its keys lie together (64 × 4 bytes), as byte products take them. Of codes up to 4 bits a byte
    holds two: channel c in its lower half and c + 4 in the upper.
    """

    def __init__(self, kv_heads: int, channels: int, bits: int, k_max: float, tokens: int) -> None:
        self.bits, self.k_max, self.tokens = bits, k_max, 0
        self.code_bits = 4 if bits <= 4 else 8
        self.codes = huge_empty((kv_heads, _blocks(tokens), channels * self.code_bits // 32, WORD_KEYS, 4), np.uint8)
        self._room: dict[tuple[int, str], np.ndarray] = {}

    def append(self, keys: np.ndarray) -> None:
        """Add float32 keys [kv_heads, tokens, channels]."""
        last = self.tokens + keys.shape[1]
        if _blocks(last) > self.codes.shape[1]:
            self.codes = grown(self.codes, _blocks(last), axis=1)
        step = 16 * WORD_KEYS
        for first in range(self.tokens, last, step):  # in slices: a long prefill would be copied several times over
            part = keys[:, first - self.tokens : first - self.tokens + step]
            magnitude = np.float32(self.k_max)
            integers = numpy_integers.quantise(part, np.asarray(magnitude), np.asarray(steps_per_unit(magnitude, self.bits)))
            kv_heads, tokens, channels = integers.shape
            if self.code_bits == 4:
                halves = (integers + np.int8(8)).view(np.uint8).reshape(kv_heads, tokens, channels // 8, 2, 4)
                codes = halves[..., 0, :] | (halves[..., 1, :] << np.uint8(4))
            else:
                codes = integers.view(np.uint8) ^ np.uint8(128)
            place = np.arange(first, first + tokens)
            self.codes[:, place // WORD_KEYS, :, place % WORD_KEYS] = codes.reshape(kv_heads, tokens, -1, 4).swapaxes(0, 1)
        self.tokens = last

    def room(self, name: str, size: int) -> np.ndarray:
        """float32 [size] for what a prediction makes on its way; the same memory each time, since fresh pages would cost more than it.

        Each thread has its own: kernels do not hold Python's lock, so that two may predict on one cache at once.
        """
        own = threading.get_ident(), name
        if own not in self._room or len(self._room[own]) < size:
            self._room[own] = huge_empty((size,), np.float32)
        return self._room[own]


def steps_per_unit(magnitude: np.float32, bits: int) -> np.float32:
    """Integers per unit, as `predict_integer_scores` has them."""
    return np.float32(2 ** (bits - 1) - 1) / magnitude if magnitude > np.float32(1e-36) else np.float32(1)


def decode_attention(
    q: Any, cache: KvCache, words: Any | None = None, *, scale: float | None = None, slopes: Any | None = None, threads: int | None = None
) -> Any:
    """Attention of the last tokens' queries on the keys of a cache.

    Args:
        q: [heads, queries, head_dim] in the cache's number format; the last query sees the last key.
        cache: the tokens so far, those of the queries among them.
        words: uint64 [heads or KV heads, queries, ceil(tokens / 64)], which keys are kept, as `predicted_xm_words` gives them;
            None: every key up to the query's own position.
        scale, slopes, threads: as `sparse_attention`.
    Returns: like q.
    Raises: ValueError naming the argument.
    """
    operands = cache.operands(q)
    mask = None if words is None else packed_words(words, operands)
    return attend(operands, mask, scale=scale, slopes=slopes, threads=threads)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a selection compiled for blocks of 64 keys needs, and the reference that says what is right."""

    kept_high: int
    kept_low: int  # -1: kept_high of the whole row
    threshold_high: float
    threshold_low: float
    reference: Callable[[np.ndarray], np.ndarray]


def predicted_xm_words(
    q: Any,
    cache: KvCache,
    *,
    group: int,
    lists: Lists = "group_sum",
    block: int = 64,
    kept_high: int = 16,
    kept_low: int = 8,
    threshold_high: float = 1.0,
    threshold_low: float = 0.1,
    q_max: float | None = None,
    scale: float | None = None,
    slopes: Any | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Keys that X:M pruning of predicted scores keeps: `xm_keep` of `predict_scores`, bit for bit.

    Args:
        q: [heads, queries, head_dim] in the cache's number format; the last query sees the last key.
        cache: with low-bit keys (`predict_with`), whose width is that of the queries too.
        group: channels of a query of which the largest is kept, 2 for 1:2.
        lists: "head": each query head ranks its own scores. "group_sum", "group_max": the heads that share a KV head keep the same keys,
            ranked by `group_sum_scores` or `group_max_scores`: those keys are fetched once.
        block, kept_high, kept_low, threshold_high, threshold_low: as `xm_keep`; other blocks than 64 are computed in NumPy.
        q_max: magnitude that stands for the largest integer of the queries; None: their own largest.
        scale, slopes, threads: as `sparse_attention`.
    Returns: uint64 [heads or kv_heads, queries, ceil(tokens / 64)].
    Raises: ValueError naming the argument.
    """

    def keep(scores: np.ndarray) -> np.ndarray:
        return xm_keep(
            scores, block=block, kept_high=kept_high, kept_low=kept_low, threshold_high=threshold_high, threshold_low=threshold_low
        )

    keep(np.zeros((1, 1)))  # its own words for arguments that do not fit
    beyond = 2 * max(cache.tokens / block, 1)  # as xm_keep: no share is that high
    rule = _Rule(kept_high, kept_low, min(threshold_high, beyond), min(threshold_low, beyond), keep)
    return _predicted_words(q, cache, rule if block == WORD_KEYS else rule.reference, group, lists, q_max, scale, slopes, threads)


def predicted_topk_words(
    q: Any,
    cache: KvCache,
    *,
    kept: int,
    group: int,
    lists: Lists = "group_sum",
    q_max: float | None = None,
    scale: float | None = None,
    slopes: Any | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """The `kept` keys of largest predicted score, `topk_keep` of `predict_scores`; other arguments and result as `predicted_xm_words`."""
    if kept < 1:
        raise ValueError(f"kept: {kept} must be at least 1")
    rule = _Rule(kept, -1, 0.0, 0.0, lambda scores: topk_keep(scores, kept=kept))
    return _predicted_words(q, cache, rule, group, lists, q_max, scale, slopes, threads)


def _predicted_words(
    q: Any,
    cache: KvCache,
    rule: _Rule | Callable[[np.ndarray], np.ndarray],
    group: int,
    lists: Lists,
    q_max: float | None,
    scale: float | None,
    slopes: Any | None,
    threads: int | None,
) -> np.ndarray:
    if lists not in ("head", "group_sum", "group_max"):
        raise ValueError(f"lists: head, group_sum or group_max is needed, got {lists}")
    if group < 1 or cache.head_dim % group:
        raise ValueError(f"group: {group} must divide the head dimension, {cache.head_dim}")
    codes = cache.codes
    check_queries(q, cache.dtype, cache.kv_heads, cache.head_dim, cache.tokens)
    factor, slope = scale_of(scale, cache.head_dim), slopes_of(slopes, q.shape[0])
    values = as_float32(numbers("q", q))[..., : cache.head_dim]
    if factor <= 0:
        raise ValueError(f"scale: {factor} must be positive for scores that are ranked")
    found = numpy_integers.largest_magnitude(values)
    largest = found if q_max is None else np.float32(q_max)
    if not (np.isfinite(found) and 0 <= largest < np.inf):
        raise ValueError(f"q: the queries and their q_max must be finite, their largest magnitudes are {found} and {largest}")
    native = kernel(
        "xm_predict_and_select", None, *[c_void_p] * 10, *[c_int64] * 6, c_int, c_int64, c_int, c_int64, c_int64, c_double, c_double, c_int
    )
    if native is None or callable(rule):
        keep = rule if callable(rule) else rule.reference
        return _reference_words(values, cache, keep, group, lists, largest, factor, slope)
    steps = steps_per_unit(largest, codes.bits)
    integers = numpy_integers.quantise(numpy_integers.prune(values, group), np.asarray(largest), np.asarray(steps))
    integers = np.pad(integers, ((0, 0), (0, 0), (0, -cache.head_dim % CHANNEL_STEP)))
    heads, queries, dim = integers.shape
    k_steps = steps_per_unit(np.float32(codes.k_max), codes.bits)
    offsets = integers.sum(axis=2, dtype=np.int32) << (codes.code_bits - 1)  # codes are integers plus this power of two
    factors = np.full(heads, factor / (np.float64(steps) * np.float64(k_steps)), np.float32)
    blocks, shared = _blocks(cache.tokens), lists != "head"
    rows = heads * queries * blocks
    scores, tops, sums = codes.room("scores", rows * WORD_KEYS), codes.room("tops", rows), codes.room("sums", rows)
    exponentials = codes.room("exponentials", rows * WORD_KEYS if shared else 0)
    words = np.empty((cache.kv_heads if shared else heads, queries, blocks), np.uint64)
    native(
        address(codes.codes),
        address(integers),
        address(offsets),
        address(factors),
        None if slope is None else address(slope),
        address(scores),
        address(exponentials),
        address(tops),
        address(sums),
        address(words),
        heads,
        cache.kv_heads,
        queries,
        cache.tokens,
        dim,
        codes.codes.strides[0],
        codes.code_bits,
        heads // cache.kv_heads if shared else 1,
        lists == "group_max",
        rule.kept_high,
        rule.kept_low,
        rule.threshold_high,
        rule.threshold_low,
        threads_of(threads),
    )
    return words


def _reference_words(
    q: np.ndarray,
    cache: KvCache,
    keep: Callable[[np.ndarray], np.ndarray],
    group: int,
    lists: Lists,
    q_max: np.float32,
    scale: float,
    slopes: np.ndarray | None,
) -> np.ndarray:
    keys, codes = as_float32(cache.k)[..., : cache.head_dim], cache.codes
    scores = predict_scores(q, keys, group=group, bits=codes.bits, scale=scale, q_max=float(q_max), k_max=codes.k_max)
    if slopes is not None:
        scores = scores + slopes[:, None, None] * np.arange(cache.tokens, dtype=np.float32)
    scores = np.where(causal_keep(q.shape[1], cache.tokens), scores, np.float32(-np.inf))
    if lists != "head":
        scores = (group_sum_scores if lists == "group_sum" else group_max_scores)(scores, kv_heads=cache.kv_heads)
    packed = np.packbits(keep(scores), axis=-1, bitorder="little")
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, 0), (0, -packed.shape[-1] % 8)))).view(np.uint64)


def check_queries(q: Any, dtype: str, kv_heads: int, head_dim: int, tokens: int) -> None:
    """Refuse queries that do not fit a cache."""
    if q.ndim != 3 or 0 in q.shape:
        raise ValueError(f"q: [heads, queries, d] is needed, each at least 1, got {list(q.shape)}")
    if number_format(q) != dtype:
        raise ValueError(f"q: the cache holds {dtype}, got {number_format(q)}")
    check_heads(q, kv_heads, head_dim)
    if q.shape[1] > tokens:
        raise ValueError(f"q: {q.shape[1]} queries, but the cache holds {tokens} tokens; append theirs first")


def _blocks(tokens: int) -> int:
    return -(-tokens // WORD_KEYS)


def grown(array: np.ndarray, least: int, *, axis: int) -> np.ndarray:
    """A copy with room for at least so many along an axis, and for twice what there was."""
    shape = list(array.shape)
    shape[axis] = max(2 * shape[axis], -(-least // WORD_KEYS) * WORD_KEYS)
    larger = huge_empty(tuple(shape), array.dtype)
    larger[(*(slice(None),) * axis, slice(array.shape[axis]))] = array
    return larger
