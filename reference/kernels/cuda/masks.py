"""Masks of sparse attention by the CUDA kernels: few-bit codes, scores on tensor cores, row sums and selection; no score is stored.

Bit for bit the masks of the CPU's kernels, and on low-bit scores of the reference: these are integers times a factor, which a GPU makes
exactly, and rows in which the rounding of exponentials could decide are handed back to the reference. Exact scores are made on CUDA cores
with every rounding of the CPU's vectors. What the kernels do not serve is left to the CPU's.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xmsim.reference.attention import topk_keep
from xmsim.reference.attention.torch_integers import largest_magnitude
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel, cuda_library, is_emulated
from xmsim.reference.kernels.masks import CUDA, Factors, Judge, Mask, Rule, ScoreSource, judge_rows
from xmsim.reference.kernels.native import offered_isa

_XM, _XM_CAUSAL, _NM, _TOPK, _SANGER, _SALO = range(6)  # MaskKind of mask_job.h
_DIMS = (64, 128, 256)  # of codes
_BLOCKS = (16, 32, 64)  # of X:M and N:M, whose kernels sort sixteen scores at a time
_MOST_KEPT = 16
_SALO_BLOCK = 64
_LARGEST_PRODUCT = 1 << 22  # of codes, which the kernels make by adding to 1.5 × 2^23
_BLOCK_ROWS = 128  # rows of a block of threads
_ROOM_BYTES = 1 << 31  # that a launch may take to work in, unless one KV head needs more
_ROOM_ITEM_BYTES = {"mass": 4, "classes": 1, "doubts": 4, "low_words": 8}
_RANKED_ENTRIES = 1 << 27  # scores that top-k ranks together
_GROUPS = (2, 4, 8)  # query heads that can share a list
_PACKED_PRODUCT, _PACKED_FACTOR, _PACKED_BLOCKS = 1 << 15, 32.0, (32, 64)  # where the kernels keep 16 bits of a score
_SMALLEST_STEP = 1.2e-4  # between scores whose probabilities float32 tells apart for certain


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Low-bit queries and keys on a GPU, and what turns their products into scores."""

    q: Any  # int8 [heads, queries, 64, 128 or 256], zeros behind the model's channels; float32 as they are for exact scores
    k: Any  # the same [kv_heads, keys, as many]
    factor: Any  # float32 [heads]
    slopes: Any | None  # float32 [heads]
    first_position: int
    causal: bool
    window: int | None
    largest: float = math.inf  # bound of the products; infinite, too, where factors are so large that a step between scores is


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMask:
    """A mask on a GPU."""

    words: Any  # int64 [heads, queries, ceil(keys / 64)], the bits of `Mask.words`
    kept: Any  # int32 [heads, queries]
    doubtful: Any  # uint8 [heads, queries], rows that the reference has to decide


def device_mask(source: ScoreSource, rule: Rule, judge: Judge, device: str) -> Mask | None:
    """The mask of a rule by the CUDA kernels; None where they are not built or do not serve it.

    Args:
        judge: the rule's reference.
        device: where they run, as torch names it.
    """
    if source.prediction is None:
        return _exact_mask(source, rule, device)
    codes = _served_codes(source, rule, device)
    if codes is None:
        return None
    words, kept, doubtful = _on_host(rule_mask(codes, rule))
    judged = judge_rows(source.scores, judge, words, kept, doubtful)
    return Mask(words, kept, source.k.shape[1], CUDA, None, judged)


def _exact_mask(source: ScoreSource, rule: Rule, device: str) -> Mask | None:
    """The mask that the CPU's AVX2 and AVX-512 kernels make of exact scores; None where these are not those of this host."""
    rounds_alike = offered_isa() not in (None, "portable") and source.window is None
    if cuda_library() is None or not rounds_alike or rule.kind in (_TOPK, _SALO) or not _is_served(rule):
        return None
    if source.q.shape[2] % 4 or source.q.shape[2] > _DIMS[-1]:
        return None
    import torch

    home = _home(device)
    q, k = (torch.tensor(np.ascontiguousarray(x), device=home) for x in (source.q, source.k))
    factors = Factors.of(source, largest_magnitude(q), largest_magnitude(k))
    if not factors.are_served(source):
        return None
    for name, operand in (("q", q), ("k", k)):
        check_tensor(name, operand, dtypes=(torch.float32,), axes=3)
    slopes = None if source.slopes is None else torch.tensor(np.asarray(source.slopes, np.float32), device=home)
    exact = Codes(q, k, torch.tensor(factors.factor, device=home), slopes, source.first_position, source.causal, None)
    target = _target(len(q), q.shape[1], k.shape[1], home)
    if rule.kind in (_XM, _XM_CAUSAL):
        _keep_blocks("xm_cuda_mask_exact", exact, rule, target, ("mass", "low_words"))
    else:
        _launch("xm_cuda_mask_exact", exact, range(len(k)), rule, target, len(q) // len(k))
    words, kept, _ = _on_host(target)
    return Mask(words, kept, source.k.shape[1], CUDA, None, 0)


def _home(device: str) -> Any:
    import torch

    return torch.device("cpu" if is_emulated() else device)


def device_shared_mask(source: ScoreSource, rule: Rule, judge: Judge, device: str, *, by_largest: bool) -> Mask | None:
    """The same of X:M with one list a KV head; `judge` takes the scores of a group's heads, [heads, rows, keys]."""
    share = len(source.q) // len(source.k)
    if share not in _GROUPS or source.slopes is not None:
        return None
    codes = _served_codes(source, rule, device)
    if codes is None or float(codes.factor.min()) < _SMALLEST_STEP:
        return None
    words, kept, doubtful = _on_host(shared_rule_mask(codes, rule, by_largest=by_largest))

    def group_scores(kv_head: int, rows: np.ndarray) -> np.ndarray:
        return np.stack([source.scores(head, rows) for head in range(kv_head * share, (kv_head + 1) * share)])

    judged = judge_rows(group_scores, judge, words, kept, doubtful)
    return Mask(words.repeat(share, axis=0), kept.repeat(share, axis=0), source.k.shape[1], CUDA, None, judged * share)


def _served_codes(source: ScoreSource, rule: Rule, device: str) -> Codes | None:
    """Codes of a source on the device; None where there are no kernels for it, or for the rule."""
    if cuda_library() is None or source.prediction is None or not _is_served(rule) or source.q.shape[2] > _DIMS[-1]:
        return None
    import torch

    q, k = (torch.tensor(np.ascontiguousarray(x), device=_home(device)) for x in (source.q, source.k))
    factors = Factors.of(source, largest_magnitude(q), largest_magnitude(k))
    if not factors.are_served(source) or factors.largest >= _LARGEST_PRODUCT:
        return None
    return make_codes(q, k, source, factors)


def _on_host(mask: DeviceMask) -> tuple[npt.NDArray[np.uint64], np.ndarray, np.ndarray]:
    return mask.words.cpu().numpy().view(np.uint64), mask.kept.cpu().numpy(), mask.doubtful.cpu().numpy()


def _is_served(rule: Rule) -> bool:
    if rule.kind in (_XM, _XM_CAUSAL, _NM):
        return rule.block in _BLOCKS and rule.kept_high <= _MOST_KEPT
    return bool(rule.kind != _SALO or rule.block == _SALO_BLOCK)


def make_codes(q: Any, k: Any, source: ScoreSource, factors: Factors) -> Codes:
    """Prune and quantise as `predict_integer_scores` does.

    Args:
        q, k: those of the source on a GPU, float32 [heads, queries, d] and [kv_heads, keys, d].
    """
    import torch

    assert source.prediction is not None
    assert factors.q_top is not None and factors.q_steps is not None and factors.k_top is not None and factors.k_steps is not None
    check_device(q=q, k=k)
    dim = next(dim for dim in _DIMS if dim >= q.shape[2])

    def on_device(values: np.ndarray) -> Any:
        return torch.tensor(values, device=q.device)

    return Codes(
        _codes("q", q, on_device(factors.q_top), on_device(factors.q_steps), source.prediction.group, dim),
        _codes("k", k, on_device(factors.k_top), on_device(factors.k_steps), 1, dim),
        on_device(factors.factor),
        None if source.slopes is None else on_device(np.asarray(source.slopes, np.float32)),
        source.first_position,
        source.causal,
        source.window,
        factors.largest / source.prediction.group if factors.factor.max() < _PACKED_FACTOR else math.inf,
    )


def _codes(name: str, values: Any, top: Any, steps: Any, group: int, dim: int) -> Any:
    import torch

    check_tensor(name, values, dtypes=(torch.float32,), axes=3)
    heads, rows, channels = values.shape
    codes = torch.empty((heads, rows, dim), dtype=torch.int8, device=values.device)
    make = cuda_kernel("xm_cuda_make_codes", *[c_void_p] * 3, c_int64, c_int64, c_int, c_int, c_int, c_void_p)
    make(values, *(x.data_ptr() for x in (values, top, steps)), heads, rows, channels, dim, group, codes.data_ptr())
    return codes


class _Scores(ctypes.Structure):
    """`CodeScores` of cuda/mask_job.h, and `FloatScores`, which has the same fields."""

    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "factor", "slopes")),
        *((name, c_int64) for name in ("heads", "kv_heads", "queries", "keys", "dim", "offset", "causal", "window")),
    )


class _Target(ctypes.Structure):
    """`MaskTarget` of cuda/mask_job.h."""

    _fields_ = tuple((name, c_void_p) for name in ("words", "kept", "doubtful", "mass", "classes", "doubts", "low_words", "rows"))


def rule_mask(codes: Codes, rule: Rule) -> DeviceMask:
    """The mask of a rule that the kernels serve, on the codes' device."""
    heads, queries, _ = codes.q.shape
    kv_heads, keys, _ = codes.k.shape
    target = _target(heads, queries, keys, codes.q.device)
    if rule.kind == _TOPK:
        _rank_rows(codes, rule.kept_high, target)
    elif rule.kind == _SALO:
        _launch("xm_cuda_mask_tiles", codes, range(kv_heads), rule, target, heads // kv_heads)
    elif rule.kind == _SANGER:
        plain = _plain(codes)
        facts = row_facts(codes, plain=plain)
        _launch("xm_cuda_mask_above", codes, range(kv_heads), rule, target, heads // kv_heads, (c_int, plain), rows=facts)
    else:
        names = ("classes",) if rule.kind == _NM else ("mass", "classes")
        _keep_blocks("xm_cuda_mask_blocks", codes, rule, target, names, _packed(codes, rule))
    return target


def _packed(codes: Codes, rule: Rule) -> tuple[Any, int]:
    """Whether scores fit into 16 bits, as a kernel's argument."""
    return c_int, codes.slopes is None and codes.largest < _PACKED_PRODUCT and rule.block in _PACKED_BLOCKS


def _plain(codes: Codes) -> bool:
    """Whether exponentials can be made of products in one fused step."""
    return codes.slopes is None and math.isfinite(codes.largest)


def _target(lists: int, queries: int, keys: int, device: Any) -> DeviceMask:
    import torch

    words = torch.empty((lists, queries, -(-keys // 64)), dtype=torch.int64, device=device)
    kept = torch.empty((lists, queries), dtype=torch.int32, device=device)
    return DeviceMask(words, kept, torch.zeros((lists, queries), dtype=torch.uint8, device=device))


def row_facts(codes: Codes, *, plain: bool) -> Any:
    """What the softmax of each row needs; int64 [heads, queries, 2], bits of (level, margin: float32) and of the sum: float64.

    Args:
        plain: exponentials of products in one fused step, where a margin pays for the rounding of the reference's scores.
    """
    import torch

    facts = torch.empty((*codes.q.shape[:2], 2), dtype=torch.int64, device=codes.q.device)
    call = cuda_kernel("xm_cuda_mask_sums", POINTER(_Scores), c_void_p, c_int)
    call(codes.q, _scores(codes, range(len(codes.k))), facts.data_ptr(), plain)
    return facts


def _keep_blocks(name: str, codes: Codes, rule: Rule, target: DeviceMask, names: tuple[str, ...], *further: tuple[Any, int]) -> None:
    """X:M or N:M, as many KV heads a launch as the room to work in allows."""
    heads, queries, words = target.words.shape
    share, padded = heads // len(codes.k), -(-queries // _BLOCK_ROWS) * _BLOCK_ROWS
    room = _Room(names, share, words, 64 // rule.block, padded)
    step = room.kv_heads_at_once(len(codes.k))
    tensors = room.tensors(step, codes.q.device)
    for first in range(0, len(codes.k), step):
        part = range(first, min(first + step, len(codes.k)))
        _launch(name, codes, part, rule, target, share, *further, **tensors)


def shared_rule_mask(codes: Codes, rule: Rule, *, by_largest: bool) -> DeviceMask:
    """X:M with one list a KV head, by the sum or the largest of its heads' probabilities; [kv_heads, ...]."""
    kv_heads, keys, _ = codes.k.shape
    share, queries = len(codes.q) // kv_heads, codes.q.shape[1]
    target = _target(kv_heads, queries, keys, codes.q.device)
    block_queries = _BLOCK_ROWS // share
    padded = -(-queries // block_queries) * block_queries
    room = _Room(("mass", "doubts", "low_words"), 1, target.words.shape[2], 64 // rule.block, padded)
    step = room.kv_heads_at_once(kv_heads)
    tensors, facts = room.tensors(step, codes.q.device), row_facts(codes, plain=False)
    for first in range(0, kv_heads, step):
        part = range(first, min(first + step, kv_heads))
        rows = facts[first * share :]
        _launch("xm_cuda_mask_shared", codes, part, rule, target, 1, (c_int, by_largest), rows=rows, **tensors)
    return target


@dataclass(frozen=True, slots=True)
class _Room:
    """What X:M's kernels write down of the blocks of each row: arrays of `MaskTarget`."""

    names: tuple[str, ...]
    lists: int  # masks of a KV head
    words: int  # of a row
    blocks: int  # of a word
    rows: int  # of a list, padded

    def kv_heads_at_once(self, kv_heads: int) -> int:
        nbytes = sum(math.prod(self._shape(name, 1)) * _ROOM_ITEM_BYTES[name] for name in self.names)
        return min(max(1, _ROOM_BYTES // nbytes), kv_heads)

    def tensors(self, kv_heads: int, device: Any) -> dict[str, Any]:
        import torch

        types = {1: torch.uint8, 4: torch.float32, 8: torch.int64}
        return {name: torch.empty(self._shape(name, kv_heads), dtype=types[_ROOM_ITEM_BYTES[name]], device=device) for name in self.names}

    def _shape(self, name: str, kv_heads: int) -> tuple[int, int, int]:
        by_words = name in ("classes", "low_words")
        return kv_heads * self.lists, self.words * (1 if by_words else self.blocks), self.rows


def _launch(
    name: str, codes: Codes, kv_heads: range, rule: Rule, target: DeviceMask, lists: int, *further: tuple[Any, Any], **room: Any
) -> None:
    """A kernel on some KV heads, each of which has so many lists in the target."""
    first = kv_heads.start * lists
    tensors = {"words": target.words[first:], "kept": target.kept[first:], "doubtful": target.doubtful[first:]} | room
    call = cuda_kernel(name, POINTER(_Scores), POINTER(Rule), POINTER(_Target), *(kind for kind, _ in further))
    addresses = _Target(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
    call(codes.q, _scores(codes, kv_heads), rule, addresses, *(value for _, value in further))


def _scores(codes: Codes, kv_heads: range) -> _Scores:
    share = len(codes.q) // len(codes.k)
    first = kv_heads.start * share
    _, queries, dim = codes.q.shape
    return _Scores(
        codes.q[first:].data_ptr(),
        codes.k[kv_heads.start :].data_ptr(),
        *(None if x is None else x[first:].data_ptr() for x in (codes.factor, codes.slopes)),
        *(len(kv_heads) * share, len(kv_heads), queries, codes.k.shape[1], dim),
        *(codes.first_position, codes.causal, codes.window or 0),
    )


def _rank_rows(codes: Codes, kept: int, target: DeviceMask) -> None:
    """Top-k by torch, a few rows at a time, on the same codes.

    A cut through a whole row needs all its scores at once; torch's radix selection on a device has them in memory, and a kernel of ours
    that recomputes them for each digit would not be faster.
    """
    import torch

    heads, queries, words = target.words.shape
    keys, share = codes.k.shape[1], heads // len(codes.k)
    position = torch.arange(keys, device=codes.q.device)
    weights = 1 << torch.arange(8, device=codes.q.device)
    for head in range(heads):
        k = codes.k[head // share].float()
        for first in range(0, queries, max(1, _RANKED_ENTRIES // keys)):
            rows = slice(first, first + max(1, _RANKED_ENTRIES // keys))
            scores = codes.q[head, rows].float() @ k.T * codes.factor[head]
            if codes.slopes is not None:
                scores += codes.slopes[head] * position.float()
            if codes.causal:
                seen = codes.first_position + torch.arange(first, first + len(scores), device=codes.q.device)[:, None]
                hidden = position > seen
                if codes.window:
                    hidden |= position <= seen - codes.window
                scores.masked_fill_(hidden, -torch.inf)
            keep = topk_keep(scores, kept=kept)
            padded = torch.nn.functional.pad(keep, (0, words * 64 - keys)).view(len(keep), words * 8, 8)
            target.words[head, rows] = (padded * weights).sum(-1).to(torch.uint8).view(torch.int64)
            target.kept[head, rows] = keep.sum(-1, dtype=torch.int32)
