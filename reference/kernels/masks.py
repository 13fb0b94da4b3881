"""Masks of sparse attention by the compiled CPU kernels: scores, row sums and selection in one walk, tile by tile.

No matrix of scores is stored. On low-bit scores, which are exact, every bit equals the reference: rows in which the rounding of float32
exponentials could have decided are handed back to it. Exact scores differ from the reference's in their last digits, because a dot
product is added up in another order, and so may a decision that these digits make. Without compiled kernels NumPy makes the masks.
With device="cuda" the CUDA kernels make those that they serve (`xmsim.reference.kernels.cuda.masks`), the same bits as here.

Imports only numpy and ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from xmsim.reference.attention import (
    group_max_scores,
    group_sum_scores,
    nm_keep,
    predict_scores,
    salo_keep,
    sanger_keep,
    topk_keep,
    xm_causal_keep,
    xm_keep,
)
from xmsim.reference.attention.heads import heads_per_kv_head
from xmsim.reference.attention.prediction import quantisation
from xmsim.reference.kernels.native import Isa, address, default_threads, kernel

Judge = Callable[[np.ndarray, int], np.ndarray]  # scores [rows, keys] and the position of the first query -> bool [rows, keys]

NATIVE, CUDA, NUMPY = "native", "cuda", "numpy"
_TILE_QUERIES = 256  # scored together by the reference
_LARGEST_SCORE = 1e38  # below float32's range with room for a row's span
_EXACT_INTEGERS = 1 << 24  # of float32


@dataclass(frozen=True, slots=True)
class LowBit:
    """Low-bit prediction of scores, as `predict_integer_scores` takes it."""

    group: int  # channels of a query of which one is kept
    bits: int
    q_max: float | np.ndarray | None = None  # of the tensors that q and k are part of: a number, or one a head; None: of these
    k_max: float | np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSource:
    """What scores are made from: factor × q·k, plus ALiBi, of the keys that a query sees.

    Query i stands at position query_offset + i, by default so that the last query sees the last key.
    """

    q: npt.NDArray[np.float32]  # [heads, queries, d], after rotary embedding, before scaling
    k: npt.NDArray[np.float32]  # [kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one
    scale: float
    prediction: LowBit | None = None  # None: exact scores
    causal: bool = True  # False: every query sees every key
    window: int | None = None  # keys that a causal query sees; None: all before it
    slopes: npt.NDArray[np.float32] | None = None  # [heads], ALiBi: slope × key position is added
    query_offset: int | None = None

    def __post_init__(self) -> None:
        heads_per_kv_head(self.q, self.k)
        for name, operand in (("q", self.q), ("k", self.k)):
            if operand.ndim != 3 or not operand.size:
                raise ValueError(f"{name}: [heads, tokens, d] without an empty axis is needed, got {list(operand.shape)}")
            if operand.dtype != np.float32:
                raise ValueError(f"{name}: float32 is needed, got {operand.dtype}")
        if self.slopes is not None and np.shape(self.slopes) != (len(self.q),):
            raise ValueError(f"slopes: shape {list(np.shape(self.slopes))} is not one for each of {len(self.q)} heads")
        for name, factors in (("scale", self.scale), ("slopes", self.slopes)):
            if factors is not None and not np.isfinite(factors).all():
                raise ValueError(f"{name}: NaN or infinity; it must be finite")
        if self.window is not None and not (self.causal and self.window > 0):
            raise ValueError(f"window: {self.window} must be a positive number of keys, of a causal query")
        if self.first_position < 0:
            raise ValueError(f"query_offset: {self.first_position} must not be negative; more queries than keys need one")

    @property
    def first_position(self) -> int:
        """The position of the first query."""
        return self.k.shape[1] - self.q.shape[1] if self.query_offset is None else self.query_offset

    def scores(self, head: int, queries: np.ndarray) -> npt.NDArray[np.float32]:
        """Scores of some queries of a head as the reference has them; float32 [rows, keys], -inf where a pair is not allowed."""
        kv_head = head // (len(self.q) // len(self.k))
        keys = np.arange(self.k.shape[1])
        if self.prediction is None:
            products = self.q[head, queries] @ self.k[kv_head].T * np.float32(self.scale)
        else:
            low = self.prediction
            q_max, k_max = (np.asarray(np.abs(x).max() if top is None else top) for x, top in ((self.q, low.q_max), (self.k, low.k_max)))
            products = predict_scores(
                self.q[None, head, queries],
                self.k[None, kv_head],
                group=low.group,
                bits=low.bits,
                scale=self.scale,
                q_max=float(q_max[head] if q_max.ndim else q_max),
                k_max=float(k_max[kv_head] if k_max.ndim else k_max),
            )[0]
        if self.slopes is not None:
            products = products + np.float32(self.slopes[head]) * keys.astype(np.float32)
        if not self.causal:
            return products
        position = self.first_position + queries[:, None]
        allowed = (keys <= position) & (keys > position - (self.window or self.k.shape[1] + position))
        return np.where(allowed, products, np.float32(-np.inf))


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Kept pairs, packed, and who found them."""

    words: npt.NDArray[np.uint64]  # [heads, queries, ceil(keys / 64)]; bit j % 64 of word j // 64 is key j, little-endian
    kept: npt.NDArray[np.int32]  # [heads, queries]
    keys: int
    kernel: str  # "native", "cuda" or "numpy"
    isa: Isa | None  # of the native kernel
    judged_rows: int  # rows that a kernel handed back to the reference

    def keep(self) -> npt.NDArray[np.bool_]:
        """The mask, unpacked; bool [heads, queries, keys]."""
        return np.unpackbits(self.words.view(np.uint8), axis=-1, count=self.keys, bitorder="little").view(bool)


def xm_mask(source: ScoreSource, *, threads: int | None = None, device: str = "cpu", **parameters: Any) -> Mask:
    """The mask that `xm_keep` makes with these parameters; raises as it does."""
    rule = Rule.of_xm(0, source.k.shape[1], **parameters)
    return _mask(source, rule, lambda scores, _: xm_keep(scores, **parameters), threads, device)


def xm_causal_mask(source: ScoreSource, *, threads: int | None = None, device: str = "cpu", **parameters: Any) -> Mask:
    """The mask that `xm_causal_keep` makes with these parameters; raises as it does."""
    rule = Rule.of_xm(1, source.k.shape[1], **parameters)
    return _mask(source, rule, lambda scores, _: xm_causal_keep(scores, **parameters), threads, device)


def nm_mask(source: ScoreSource, *, kept: int, block: int, threads: int | None = None, device: str = "cpu") -> Mask:
    """The mask that `nm_keep` makes with these parameters; raises as it does."""
    rule = Rule(kind=2, block=block, kept_high=kept)
    return _mask(source, rule, lambda scores, _: nm_keep(scores, kept=kept, block=block), threads, device)


def topk_mask(source: ScoreSource, *, kept: int, threads: int | None = None, device: str = "cpu") -> Mask:
    """The mask that `topk_keep` makes with these parameters; raises as it does."""
    return _mask(source, Rule(kind=3, kept_high=kept), lambda scores, _: topk_keep(scores, kept=kept), threads, device)


def sanger_mask(source: ScoreSource, *, threshold: float, threads: int | None = None, device: str = "cpu") -> Mask:
    """The mask that `sanger_keep` makes with these parameters; raises as it does."""
    return _mask(source, Rule(kind=4, high=threshold), lambda scores, _: sanger_keep(scores, threshold=threshold), threads, device)


def salo_mask(source: ScoreSource, *, threads: int | None = None, device: str = "cpu", **parameters: int) -> Mask:
    """The mask that `salo_keep` makes with these parameters, all of them named; raises as it does."""
    rule = Rule(kind=5, **parameters)
    return _mask(
        source,
        rule,
        lambda scores, first: salo_keep(scores, query_offset=first, **parameters),
        threads,
        device,
        tile=parameters["block"],
    )


def xm_shared_mask(source: ScoreSource, *, by_largest: bool, device: str, **parameters: Any) -> Mask | None:
    """The mask that `xm_keep` makes of a group's summed (largest) probabilities, for each of its heads; None: no kernel serves it here.

    Raises:
        ValueError: as `xm_keep` does.
    """
    if not device.startswith("cuda"):
        return None
    from xmsim.reference.kernels.cuda.masks import device_shared_mask  # which reads this module

    combine = group_max_scores if by_largest else group_sum_scores

    def judge(scores: np.ndarray, _: int) -> np.ndarray:
        return xm_keep(combine(scores, kv_heads=1), **parameters)[0]

    judge(np.zeros((1, 1, 1), np.float32), 0)  # the reference checks its own arguments
    return device_shared_mask(source, Rule.of_xm(0, source.k.shape[1], **parameters), judge, device, by_largest=by_largest)


class _Scores(ctypes.Structure):
    """`MaskScores` of mask_job.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "factor", "slopes", "q_top", "q_steps", "k_top", "k_steps")),
        *((name, c_int64) for name in ("heads", "kv_heads", "queries", "keys", "dim", "group", "offset", "causal", "window")),
    )


class Rule(ctypes.Structure):
    """`MaskRule` of mask_job.h; the CUDA kernels read it too."""

    _fields_ = (
        *((name, c_int64) for name in ("kind", "block", "kept_high", "kept_low")),
        *((name, c_double) for name in ("high", "low")),
        *((name, c_int64) for name in ("window", "global_tokens", "picks", "dilation")),
    )

    @classmethod
    def of_xm(cls, kind: int, keys: int, *, block: int, kept_high: int, kept_low: int, threshold_high: float, threshold_low: float) -> Rule:
        beyond = 2 * max(keys / block, 1)  # as in the reference: no share is that high
        high, low = min(threshold_high, beyond), min(threshold_low, beyond)
        return cls(kind=kind, block=block, kept_high=kept_high, kept_low=kept_low, high=high, low=low)


class _Out(ctypes.Structure):
    """`MaskOut` of mask_job.h."""

    _fields_ = tuple((name, c_void_p) for name in ("words", "kept", "doubtful", "packed_keys"))


def _mask(source: ScoreSource, rule: Rule, judge: Judge, threads: int | None, device: str, tile: int = 1) -> Mask:
    """The mask of a rule; `judge` is its reference, which decides `tile` neighbouring rows together."""
    judge(np.zeros((1, 1), np.float32), 0)  # the reference checks its own arguments
    if device.startswith("cuda"):
        from xmsim.reference.kernels.cuda.masks import device_mask  # which reads this module

        if (made := device_mask(source, rule, judge, device)) is not None:
            return made
    make = kernel("xm_make_masks", c_int, POINTER(_Scores), POINTER(Rule), POINTER(_Out), c_int)
    factors = Factors.of(source, *(np.abs(x).max() for x in (source.q, source.k)))
    if make is None or not factors.are_served(source):
        return _judged(source, judge, tile)
    heads, queries, dim = source.q.shape
    kv_heads, keys, _ = source.k.shape
    q, k = np.ascontiguousarray(source.q), np.ascontiguousarray(source.k)
    slopes = None if source.slopes is None else np.ascontiguousarray(source.slopes, np.float32)
    words = np.zeros((heads, queries, -(-keys // 64)), np.uint64)
    kept, doubtful = np.zeros((heads, queries), np.int32), np.zeros((heads, queries), np.uint8)
    packed = np.empty(kv_heads * -(-keys // 16) * 16 * -(-dim // 4) * 4, np.float32)
    scores = _Scores(
        *(None if x is None else address(x) for x in (q, k, factors.factor, slopes, factors.q_top, factors.q_steps)),
        *(None if x is None else address(x) for x in (factors.k_top, factors.k_steps)),
        *(heads, kv_heads, queries, keys, dim, source.prediction.group if source.prediction else 1),
        *(source.first_position, source.causal, source.window or 0),
    )
    used = make(scores, rule, _Out(*(address(x) for x in (words, kept, doubtful, packed))), threads or default_threads())
    # low-bit scores are exact, so that the reference, given the same, decides the same
    judged = 0 if source.prediction is None else judge_rows(source.scores, judge, words, kept, doubtful)
    return Mask(words, kept, keys, NATIVE, get_args(Isa)[used], judged)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Numbers of a source as the kernel reads them, one a head; float32. The last four belong to low-bit scores."""

    factor: np.ndarray
    q_top: np.ndarray | None = None
    q_steps: np.ndarray | None = None
    k_top: np.ndarray | None = None
    k_steps: np.ndarray | None = None
    largest: float = 0.0  # of q·k

    @classmethod
    def of(cls, source: ScoreSource, q_found: np.float32, k_found: np.float32) -> Factors:
        """Those of a source whose operands' largest magnitudes were found to be these."""
        heads, kv_heads, dim = len(source.q), len(source.k), source.q.shape[2]
        if source.prediction is None:
            if not np.isfinite(q_found + k_found):
                raise ValueError("q, k: NaN or infinity; operands must be finite")
            return cls(np.full(heads, source.scale, np.float32), largest=dim * float(q_found) * float(k_found))
        low = source.prediction
        steps = quantisation(
            source.q.shape,
            source.k.shape,
            q_found,
            k_found,
            group=low.group,
            bits=low.bits,
            scale=source.scale,
            q_max=low.q_max,
            k_max=low.k_max,
        )

        def each(values: np.ndarray, count: int) -> np.ndarray:
            return np.ascontiguousarray(np.broadcast_to(values, count), np.float32)

        return cls(
            each(steps.factor, heads),
            each(steps.q_top, heads),
            each(steps.q_steps, heads),
            each(steps.k_top, kv_heads),
            each(steps.k_steps, kv_heads),
            largest=float(dim * steps.largest**2),
        )

    def are_served(self, source: ScoreSource) -> bool:
        """Whether all scores stay in float32's range, and integer ones are exact there."""
        if self.q_top is not None and self.largest >= _EXACT_INTEGERS:
            return False
        slope = 0.0 if source.slopes is None else float(np.abs(source.slopes).max())
        return max(self.largest, self.largest * float(np.abs(self.factor).max()) + slope * source.k.shape[1]) < _LARGEST_SCORE


def judge_rows(
    scores: Callable[[int, np.ndarray], np.ndarray], judge: Judge, words: np.ndarray, kept: np.ndarray, doubtful: np.ndarray
) -> int:
    """Decide the doubtful rows, [heads, queries], by the reference, in place; how many there were.

    `scores` gives the judge those of some queries of a head.
    """
    for head in map(int, np.flatnonzero(doubtful.any(axis=1))):
        marked = np.flatnonzero(doubtful[head])
        for rows in np.split(marked, range(_TILE_QUERIES, len(marked), _TILE_QUERIES)):
            words[head, rows], kept[head, rows] = packed_rows(judge(scores(head, rows), 0))
    return int(np.count_nonzero(doubtful))


def _judged(source: ScoreSource, judge: Judge, tile: int) -> Mask:
    """The mask by the reference, a few rows at a time."""
    heads, queries, _ = source.q.shape
    words = np.zeros((heads, queries, -(-source.k.shape[1] // 64)), np.uint64)
    kept = np.zeros((heads, queries), np.int32)
    first, step = source.first_position, -(-_TILE_QUERIES // tile) * tile
    starts = [0, *range(step - first % step, queries, step), queries]  # cut between tiles
    for head in range(heads):
        for start, stop in pairwise(starts):
            scores = source.scores(head, np.arange(start, stop))
            words[head, start:stop], kept[head, start:stop] = packed_rows(judge(scores, first + start))
    return Mask(words, kept, source.k.shape[1], NUMPY, None, heads * queries)


def packed_rows(keep: np.ndarray) -> tuple[npt.NDArray[np.uint64], np.ndarray]:
    """Words and counts of the rows of a mask, bool [rows, keys]."""
    padded = np.pad(keep, ((0, 0), (0, -keep.shape[1] % 64)))
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64), np.count_nonzero(keep, axis=1)
