"""The attention kernels as operators of torch, `torch.ops.xmsim.*`: importing this module registers them, and torch.compile sees through.

They are inference kernels, without gradients, on the CPU and, in bfloat16 and float16, on a GPU. `attention` and `kv_cache` call the same
code without torch's dispatcher.
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


@sparse_attention.register_kernel("cuda")
def cuda_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None
) -> Tensor:
    """The same on a GPU."""
    from xmsim.reference.kernels.cuda import attention as on_gpu

    return on_gpu.sparse_attention(*(x.contiguous() for x in (q, k, v, words)), scale=scale, slopes=slopes).contiguous()


@decode_attention.register_kernel("cuda")
def cuda_decode_attention(
    q: Tensor, k: Tensor, v: Tensor, words: Tensor | None = None, scale: float | None = None, slopes: Tensor | None = None
) -> Tensor:
    """The same on a GPU, of one query a head."""
    from xmsim.reference.kernels.cuda.decode import attend_newest

    if q.dim() != 3 or q.shape[1] != 1:
        raise ValueError(f"q: {list(q.shape)}; on a GPU decoding takes one query a head, torch.ops.xmsim.sparse_attention takes more")
    mask = None if words is None else words[:, 0].contiguous()
    return attend_newest(q[:, 0].contiguous(), k, v, mask, scale=scale, slopes=slopes)[:, None].contiguous()


@sparse_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)


@decode_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor | None = None, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)
