"""The attention kernels as operators of torch, `torch.ops.xmsim.*`: importing this module registers them, and torch.compile sees through.

They are inference kernels, without gradients. `attention` and `kv_cache` call the same code without torch's dispatcher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmsim.reference.kernels import attention


@torch.library.custom_op("xmsim::sparse_attention", mutates_args=())
def sparse_attention(q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    """Softmax over the kept pairs of each row, times v; arguments and errors are those of `attention.sparse_attention`."""
    return attention.sparse_attention(q, k, v, words, scale=scale, slopes=slopes)


@torch.library.custom_op("xmsim::decode_attention", mutates_args=())
def decode_attention(
    q: Tensor, k: Tensor, v: Tensor, words: Tensor | None = None, scale: float | None = None, slopes: Tensor | None = None
) -> Tensor:
    """Attention of the last tokens' queries on keys and values [kv_heads, tokens, d], which may be parts of a longer cache.

    Without words every key up to the query's own position; else as `sparse_attention`.
    """
    return attention.causal_attention(q, k, v, words, scale=scale, slopes=slopes)


@sparse_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)


@decode_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor | None = None, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)
