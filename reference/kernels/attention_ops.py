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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    words: Tensor | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Attention of the last tokens' queries on keys and values [kv_heads, tokens, d], which may be parts of a longer cache.

    Without words every key up to the query's own position; else as `sparse_attention`. All operands may be those of several sequences, one
    axis more in front; lengths, int32 [sequences], then says how many of the tokens each has: bits of words behind them are not looked at,
    and a sequence without tokens gives zeros.
    """
    if q.dim() != 4:
        if lengths is not None:
            raise ValueError("lengths: operands of several sequences are needed, q [sequences, heads, queries, d]")
        return attention.causal_attention(q, k, v, words, scale=scale, slopes=slopes)
    out = torch.zeros_like(q)
    for i, tokens in enumerate([k.shape[2]] * len(q) if lengths is None else lengths.clamp(0, k.shape[2]).tolist()):
        if tokens:
            mask = None if words is None else _first_bits(words[i], tokens)
            out[i] = attention.causal_attention(q[i], k[i, :, :tokens], v[i, :, :tokens], mask, scale=scale, slopes=slopes)
    return out


def _first_bits(words: Tensor, tokens: int) -> Tensor:
    """The words of so many tokens, without bits of others."""
    kept = words[..., : -(-tokens // attention.WORD_KEYS)].clone()
    if tokens % attention.WORD_KEYS:
        kept[..., -1] &= (1 << tokens % attention.WORD_KEYS) - 1
    return kept


@sparse_attention.register_kernel("cuda")
def cuda_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None
) -> Tensor:
    """The same on a GPU."""
    from xmsim.reference.kernels.cuda import attention as on_gpu

    return on_gpu.sparse_attention(*(x.contiguous() for x in (q, k, v, words)), scale=scale, slopes=slopes).contiguous()


@decode_attention.register_kernel("cuda")
def cuda_decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    words: Tensor | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """The same on a GPU, of one query a head; lengths are not waited for."""
    from xmsim.reference.kernels.cuda.decode import attend_newest

    if q.dim() not in (3, 4) or q.shape[-2] != 1:
        raise ValueError(f"q: {list(q.shape)}; on a GPU decoding takes one query a head, torch.ops.xmsim.sparse_attention takes more")
    mask = None if words is None else words.select(-2, 0).contiguous()
    row = q.select(-2, 0).contiguous()
    return attend_newest(row, k, v, mask, scale=scale, slopes=slopes, lengths=lengths).unsqueeze(-2).contiguous()


@sparse_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor, scale: float | None = None, slopes: Tensor | None = None) -> Tensor:
    return q.new_empty(q.shape)


@decode_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    words: Tensor | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape)
