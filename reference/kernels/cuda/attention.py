"""Sparse attention of many queries on the GPU, of any method: which pairs are kept is said by packed words, one bit a pair."""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p
from typing import NamedTuple

import torch

from xmsim.reference.kernels.attention import WORD_KEYS, scale_of
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel
from xmsim.reference.kernels.cuda.shared_attention import GROUPS, MOST_KEYS, attend_shared
from xmsim.reference.kernels.cuda.weights import ELEMENTS

TILE_QUERIES = 64  # that are skipped together
HEAD_DIMS = (64, 128)  # compiled; smaller heads are filled up with zero channels
CACHED_BYTES = 24 << 20  # of keys and values that stay in the second-level cache, half of an H200's
HOPPER_TILES = "xm_cuda_attend_tiles_hopper"


def prefill_kernel(device: torch.device) -> str:
    """The kernel of many queries for a device: by products of warpgroups where there are some, which is on compute capability 9.0."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    return HOPPER_TILES if hopper else "xm_cuda_attend_tiles"


def kv_heads_together(kv_heads: int, keys: int, dim: int) -> int:
    """How many KV heads are attended to at a time: as many as the second-level cache holds, in equal parts of all."""
    most = max(CACHED_BYTES // max(4 * keys * dim, 1), 1)
    return max(count for count in range(1, min(most, kv_heads) + 1) if kv_heads % count == 0)


class LiveTiles(NamedTuple):
    """Tiles of 64 queries × 64 keys in which a pair is kept, in ascending order; the first counts[m, t] of each row of tiles."""

    tiles: torch.Tensor  # int32 [masks, ceil(queries / 64), ceil(keys / 64)]
    counts: torch.Tensor  # int32 [masks, ceil(queries / 64)]

    @property
    def live_share(self) -> float:
        """Live tiles over all tiles, those above the diagonal of a causal mask too."""
        return float(self.counts.sum()) / max(self.tiles.numel(), 1)


def live_tiles(words: torch.Tensor) -> LiveTiles:
    """The tiles that are walked.

    Args:
        words: int64 [masks, queries, ceil(keys / 64)]: bit j % 64 of word j // 64 says whether key j is kept.
    Raises:
        ValueError: naming the argument.
    """
    check_device(words=words)
    check_tensor("words", words, dtypes=(torch.int64, torch.uint64), axes=3, alignment=8)
    masks, queries, key_words = words.shape
    tiles = torch.empty((masks, -(-queries // TILE_QUERIES), key_words), dtype=torch.int32, device=words.device)
    counts = torch.zeros(tiles.shape[:2], dtype=torch.int32, device=words.device)
    if tiles.numel():
        launch = cuda_kernel("xm_cuda_list_tiles", c_void_p, c_int, c_int, c_int, c_void_p, c_void_p)
        launch(words, words.data_ptr(), masks, queries, key_words, tiles.data_ptr(), counts.data_ptr())
    return LiveTiles(tiles, counts)


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: torch.Tensor,
    *,
    tiles: LiveTiles | None = None,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax over the kept pairs of each row, times v; sums in float32.

    Args:
        q: bfloat16 or float16 [heads, queries, d], finite, d at most 128.
        k, v: of q's type, [kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        words: int64 [masks, queries, ceil(keys / 64)], see `live_tiles`; heads is a multiple of masks, and neighbours share one.
        tiles: what `live_tiles` says of the words; None: it is asked, or keys that are kept are gathered instead of tiles, which needs
            products of warpgroups, a mask for one or more KV heads, 2, 4 or 8 heads to each of these, at most 65536 keys and no slopes.
        scale: factor of q·k; None means d**-0.5.
        slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
    Returns: like q; a row that keeps nothing gives zeros.
    Raises:
        ValueError: naming the argument.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor, dtypes=ELEMENTS if name == "q" else (q.dtype,), axes=3)
    check_device(q=q, k=k, v=v, words=words, **({} if slopes is None else {"slopes": slopes}))
    (heads, queries, dim), (kv_heads, keys, key_dim), masks = q.shape, k.shape, words.shape[0]
    if v.shape != k.shape or key_dim != dim:
        raise ValueError(f"v: q {list(q.shape)}, k {list(k.shape)} and v {list(v.shape)} do not fit each other")
    if dim > HEAD_DIMS[-1]:
        raise ValueError(f"q: {dim} channels a head; at most {HEAD_DIMS[-1]} are compiled")
    for name, count in (("k", kv_heads), ("words", masks)):
        if not count or heads % count:
            raise ValueError(f"{name}: {heads} query heads do not share {count}")
    if words.dim() != 3 or tuple(words.shape[1:]) != (queries, -(-keys // WORD_KEYS)):
        raise ValueError(f"words: shape {list(words.shape)} is not [masks, {queries}, {-(-keys // WORD_KEYS)}]")
    if slopes is not None:
        check_tensor("slopes", slopes, dtypes=(torch.float32,), axes=1, alignment=4)
        if len(slopes) != heads:
            raise ValueError(f"slopes: {len(slopes)} are not one for each of {heads} heads")
    check_tensor("words", words, dtypes=(torch.int64, torch.uint64), axes=3, alignment=8)
    if tiles is not None:
        check_device(q=q, tiles=tiles.tiles, counts=tiles.counts)
        check_tensor("tiles", tiles.tiles, dtypes=(torch.int32,), axes=3, alignment=4)
        check_tensor("counts", tiles.counts, dtypes=(torch.int32,), axes=2, alignment=4)
        if tiles.counts.shape != (masks, -(-queries // TILE_QUERIES)) or tiles.tiles.shape != (*tiles.counts.shape, words.shape[2]):
            raise ValueError(f"tiles: lists {list(tiles.tiles.shape)} and counts {list(tiles.counts.shape)} are not those of these words")
    factor, compiled = scale_of(scale, dim), next(least for least in HEAD_DIMS if dim <= least)
    q, k, v = (x if dim == compiled else torch.nn.functional.pad(x, (0, compiled - dim)) for x in (q, k, v))
    shared = kv_heads % masks == 0 and heads // kv_heads in GROUPS
    if tiles is None and shared and slopes is None and 0 < keys <= MOST_KEYS and q.numel() and prefill_kernel(q.device) == HOPPER_TILES:
        return attend_shared(q, k, v, words, factor)[..., :dim]
    listed = live_tiles(words) if tiles is None else tiles
    out = torch.empty_like(q)
    if out.numel():
        launch = cuda_kernel(prefill_kernel(q.device), c_int, *[c_void_p] * 8, *[c_int] * 7, c_float)
        addresses = [part.data_ptr() for part in (q, k, v, words, listed.tiles, listed.counts)]
        slope = None if slopes is None else slopes.data_ptr()
        half = int(q.dtype == torch.float16)
        together = heads // kv_heads * kv_heads_together(kv_heads, keys, compiled)
        launch(q, half, *addresses, slope, out.data_ptr(), heads, kv_heads, masks, together, queries, keys, compiled, factor)
    return out[..., :dim]
