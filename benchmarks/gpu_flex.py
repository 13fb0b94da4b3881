"""torch's FlexAttention, compiled: a dense baseline, and what its users have for skipping tiles that a mask leaves empty."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

TILE = 64  # queries, and keys, that are skipped together
MASK_OPTIONS = {"BLOCK_M": TILE, "BLOCK_N": TILE}  # what a block of its kernel takes has to divide the tiles of the mask

compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)  # fullgraph: an error where it would go on uncompiled


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask | None, options: dict[str, int] | None = None
) -> torch.Tensor:
    """Attention of q [heads, queries, d] on k and v [kv_heads, keys, d]."""
    return compiled(q[None], k[None], v[None], block_mask=mask, enable_gqa=True, kernel_options=options)[0]


@cache
def causal_mask(tokens: int, device: str) -> BlockMask:
    """As torch makes it, in blocks of its own size."""
    return create_block_mask(_is_causal, None, None, tokens, tokens, device=device)


def mask_of(words: torch.Tensor, heads: int) -> BlockMask:
    """The mask that words int64 [masks, queries, queries / 64] say, queries a multiple of 64; heads is a multiple of masks."""
    share = heads // len(words)
    tiles = words.unflatten(1, (-1, TILE))
    full = (tiles == -1).all(2)
    partial = (tiles != 0).any(2) & ~full

    def keeps(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (words[head // share, query, key // TILE] >> (key % TILE)) & 1 == 1

    return BlockMask.from_kv_blocks(*_listed(partial, share), *_listed(full, share), BLOCK_SIZE=TILE, mask_mod=keeps)


def _is_causal(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query >= key


def _listed(tiles: torch.Tensor, share: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tiles of each row are meant, and which, those first; [1, heads, rows] and [1, heads, rows, tiles]."""
    each = tiles.repeat_interleave(share, 0)[None]
    return each.sum(-1, dtype=torch.int32), each.int().argsort(dim=-1, descending=True, stable=True).int()
