"""Sparse attention of many queries on a Hopper GPU where the query heads of a KV head share a mask: only keys that are wanted are read."""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p
from typing import NamedTuple

import torch

from xmsim.reference.kernels.cuda.native import cuda_kernel

GROUPS = (2, 4, 8)  # query heads of a KV head that are compiled for
MOST_KEYS = 1 << 16
_BLOCK_ROWS = 128  # heads of a group × neighbouring queries
_MOST_WORK_BYTES = 1 << 30  # to work in, but for one mask at least


class KeyUnions(NamedTuple):
    """Of neighbouring queries, 128 / group of them a tile: the keys that any of them keeps, 64 a step; the first counts[m, t] steps."""

    picks: torch.Tensor  # uint16 [masks, tiles, key words, 8, 8]: the keys of a step, every eighth of them next to each other
    packed: torch.Tensor  # int64 [masks, tiles, key words, queries of a tile]: which keys of a step a query keeps
    counts: torch.Tensor  # int32 [masks, tiles]


def key_unions(words: torch.Tensor, keys: int, group: int) -> KeyUnions:
    """The keys that are read; `words` is int64 [masks, queries, ceil(keys / 64)], checked, and `group` heads share each mask."""
    masks, queries, key_words = words.shape
    positions = _BLOCK_ROWS // group
    tiles = -(-queries // positions)
    make = words.new_empty
    found = KeyUnions(
        make((masks, tiles, key_words, 8, 8), dtype=torch.uint16),
        make((masks, tiles, key_words, positions), dtype=torch.int64),
        make((masks, tiles), dtype=torch.int32),
    )
    launch = cuda_kernel("xm_cuda_pack_unions", c_void_p, *[c_int] * 4, *[c_void_p] * 3)
    launch(words, words.data_ptr(), masks, queries, keys, positions, *(part.data_ptr() for part in found))
    return found


def attend_shared(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, words: torch.Tensor, scale: float) -> torch.Tensor:
    """Softmax over the kept pairs of each row, times v, as `attention.sparse_attention`.

    Operands are checked, not empty, and of 64 or 128 channels; heads are one of `GROUPS` times the KV heads, these a multiple of the
    masks, and keys at most `MOST_KEYS`.
    """
    (heads, queries, dim), (kv_heads, keys, _), (masks, _, key_words) = q.shape, k.shape, words.shape
    group = heads // kv_heads
    out = torch.empty_like(q)
    mask_bytes = -(-queries // (_BLOCK_ROWS // group)) * key_words * (2 * 64 + 8 * _BLOCK_ROWS // group)
    at_once = max(1, _MOST_WORK_BYTES // mask_bytes)  # masks
    launch = cuda_kernel("xm_cuda_attend_unions", c_int, *[c_void_p] * 7, *[c_int] * 6, c_float)
    for part in range(0, masks, at_once):
        own, own_kv, own_heads = (slice(part * share, (part + at_once) * share) for share in (1, kv_heads // masks, heads // masks))
        unions = key_unions(words[own], keys, group)
        operands = (q[own_heads], k[own_kv], v[own_kv], *unions, out[own_heads])
        sizes = len(operands[0]), len(operands[1]), len(unions.counts), queries, keys, dim
        launch(q, int(q.dtype == torch.float16), *(tensor.data_ptr() for tensor in operands), *sizes, scale)
    return out
