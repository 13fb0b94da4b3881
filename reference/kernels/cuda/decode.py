"""Attention of the newest token on the GPU: on all keys of a cache, or on those that a mask keeps, which are gathered."""

from __future__ import annotations

import math
from ctypes import c_float, c_int, c_int64, c_void_p

import torch

from xmsim.reference.kernels.attention import WORD_KEYS, scale_of
from xmsim.reference.kernels.cuda.attention import HEAD_DIMS
from xmsim.reference.kernels.cuda.batch_shares import MOST_TOKENS, SHARES_ARGUMENTS, Shares, check_lengths
from xmsim.reference.kernels.cuda.decode_batch import GpuKvBatch
from xmsim.reference.kernels.cuda.key_codes import GpuKeyCodes
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel
from xmsim.reference.kernels.cuda.weights import ELEMENTS

_BLOCKS = 396  # 3 on each of an H200's 132 multiprocessors, as many as its shared memory holds
_SHARING = 8  # query heads that read keys together; more read them again
_BLOCK_WORDS = 4  # that a block of threads takes at once: one a warp
_MOST_SHARES = 65535  # of a launch


class GpuKvCache:
    """Keys and values of one layer of one sequence; room is made ahead, so that a token costs no copy of the others."""

    def __init__(
        self, kv_heads: int, head_dim: int, dtype: torch.dtype = torch.bfloat16, *, tokens: int = 1024, device: str = "cuda"
    ) -> None:
        """An empty cache.

        Args:
            kv_heads, head_dim: shape of the keys and values; head_dim at most 128.
            dtype: bfloat16 or float16.
            tokens: how many to make room for; more are made room for when they come.
        Raises:
            ValueError: naming the argument.
        """
        if min(kv_heads, head_dim, tokens) < 1 or head_dim > HEAD_DIMS[-1]:
            raise ValueError(f"kv_heads, head_dim and tokens: {kv_heads}, {head_dim}, {tokens}; each at least 1, head_dim at most 128")
        if dtype not in ELEMENTS:
            raise ValueError(f"dtype: {dtype} is not one of {', '.join(map(str, ELEMENTS))}")
        self.kv_heads, self.head_dim, self.tokens = kv_heads, head_dim, 0
        channels = next(least for least in HEAD_DIMS if head_dim <= least)
        self._k, self._v = (torch.zeros((kv_heads, tokens, channels), dtype=dtype, device=device) for _ in range(2))
        self._codes: GpuKeyCodes | None = None

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add the next tokens; k, v [kv_heads, new tokens, head_dim], keys after rotary embedding.

        Raises:
            ValueError: naming the argument.
        """
        for name, x in (("k", k), ("v", v)):
            if x.dim() != 3 or (x.shape[0], x.shape[2]) != (self.kv_heads, self.head_dim) or x.shape != k.shape:
                raise ValueError(f"{name}: [{self.kv_heads} KV heads, tokens, {self.head_dim}] is needed, got {list(x.shape)}")
            if x.dtype != self._k.dtype:
                raise ValueError(f"{name}: the cache holds {self._k.dtype}, got {x.dtype}")
        last = self.tokens + k.shape[1]
        if last > self._k.shape[1]:
            more = max(last, 2 * self._k.shape[1]) - self._k.shape[1]
            self._k, self._v = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self._k, self._v))
        for room, new in ((self._k, k), (self._v, v)):
            room[:, self.tokens : last, : self.head_dim] = new
        if self._codes is not None:
            self._codes.append(self._k[:, self.tokens : last])
        self.tokens = last

    def predict_with(self, bits: int, *, k_max: float | None = None) -> None:
        """Keep a few-bit copy of the keys from now on.

        Args:
            bits: width of the integers, 2 to 8.
            k_max: magnitude that stands for the largest integer; larger keys are clamped. None: the largest of the keys that are there,
                which is the prefill's, and stays as it is while tokens are added.
        Raises:
            ValueError: naming the argument.
        """
        if k_max is None and not self.tokens:
            raise ValueError("k_max: an empty cache has no largest key; give k_max, or append the prefill first")
        keys = self._k[:, : self.tokens]
        largest = float(keys.abs().max()) if k_max is None else float(k_max)
        self._codes = GpuKeyCodes((self.kv_heads,), keys.shape[2], bits, largest, self._k.shape[1], keys.device)
        self._codes.append(keys)

    @property
    def codes(self) -> GpuKeyCodes:
        """The few-bit copy of the keys.

        Raises:
            ValueError: there is none.
        """
        if self._codes is None:
            raise ValueError("cache: it has no low-bit keys to predict with; call cache.predict_with(bits) after the prefill")
        return self._codes

    @property
    def k(self) -> torch.Tensor:
        """Room for keys, [kv_heads, room, 64 or 128]; the first `tokens` of it are filled."""
        return self._k

    @property
    def v(self) -> torch.Tensor:
        """Room for values, as `k`."""
        return self._v

    def operands(self) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The keys and values that are there; their length is known."""
        return self._k[:, : self.tokens], self._v[:, : self.tokens], None


def decode_attention(
    q: torch.Tensor,
    cache: GpuKvCache | GpuKvBatch,
    words: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one query a head on the keys of a cache that are kept.

    Args:
        q: [heads, head_dim] in the cache's number format, of a batch [sequences, heads, head_dim]; heads is a multiple of the cache's KV
            heads, and neighbours share one.
        cache: the tokens so far, that of the queries among them.
        words: int64 [kv_heads or heads, ceil(tokens / 64)], of a batch [sequences, kv_heads or heads, ceil(room / 64)]: which keys each KV
            head's group, or each head, keeps; None: all. Keys that any head of a group keeps are read once for all of it.
        scale: factor of q·k; None means head_dim**-0.5.
        slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
    Returns: like q; a head that keeps nothing, or whose sequence is empty, gives zeros.
    Raises:
        ValueError: naming the argument.
    """
    keys, values, lengths = cache.operands()
    check_tensor("q", q, dtypes=(keys.dtype,), axes=keys.dim() - 1)
    if not keys.shape[-2]:
        raise ValueError("cache: it is empty; append the token of the queries first")
    if q.shape[-1] != cache.head_dim:
        raise ValueError(f"q: {q.shape[-1]} channels a head, the cache has {cache.head_dim}")
    return attend_newest(q, keys, values, words, scale=scale_of(scale, cache.head_dim), slopes=slopes, lengths=lengths)


def attend_newest(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """`decode_attention` on keys and values that lie anywhere.

    Args:
        k, v: [kv_heads, tokens, d] of q's type, d at most 128, of a batch [sequences, kv_heads, room, d]. Parts of a longer cache are
            read where they lie if it has 64 or 128 channels, as GpuKvCache has; others are copied first. Channels that q does not have
            are zeros.
        lengths: int32 [sequences], of a batch: tokens of each sequence, 0 to room (what lies beyond counts as the end); what lies behind
            them is not read. None: all have as many as there is room for.
    """
    check_tensor("q", q, dtypes=ELEMENTS, axes=3 if q.dim() == 3 else 2)
    given = {"words": words, "slopes": slopes, "lengths": lengths}
    check_device(q=q, k=k, v=v, **{name: x for name, x in given.items() if x is not None})
    for name, x in (("k", k), ("v", v)):
        if x.dim() != q.dim() + 1 or x.dtype != q.dtype or x.shape != k.shape or 0 in x.shape or x.shape[:-3] != q.shape[:-2]:
            wanted = "[KV heads, tokens, channels]" if q.dim() == 2 else f"[{len(q)} sequences, KV heads, tokens, channels]"
            raise ValueError(f"{name}: {q.dtype} {wanted} is needed, got {x.dtype} {list(x.shape)}")
    (*sequences, heads, dim), (*_, kv_heads, tokens, key_dim) = q.shape, k.shape
    if dim > key_dim or key_dim > HEAD_DIMS[-1] or not heads or heads % kv_heads:
        raise ValueError(
            f"q: {list(q.shape)} does not fit {kv_heads} KV heads of {key_dim} channels; heads must be their multiple, channels at most 128"
        )
    if tokens > MOST_TOKENS:
        raise ValueError(f"k: {tokens} tokens; at most {MOST_TOKENS} are served")
    key_words, count = -(-tokens // WORD_KEYS), math.prod(sequences)
    if words is not None:
        check_tensor("words", words, dtypes=(torch.int64,), axes=q.dim(), alignment=8)
        if words.shape[-2] not in (kv_heads, heads) or (*words.shape[:-2], words.shape[-1]) != (*sequences, key_words):
            shape = ", ".join(map(str, (*sequences, f"{kv_heads} or {heads}", key_words)))
            raise ValueError(f"words: shape {list(words.shape)} is not [{shape}]")
    if slopes is not None:
        check_tensor("slopes", slopes, dtypes=(torch.float32,), axes=1, alignment=4)
        if len(slopes) != heads:
            raise ValueError(f"slopes: {len(slopes)} are not one for each of {heads} heads")
    if lengths is not None:
        if not sequences:
            raise ValueError("lengths: operands of several sequences are needed, q [sequences, heads, d]")
        check_lengths(lengths, count)
    keys, values = _readable(k, v)
    channels, walks = keys.shape[-1], kv_heads * -(-heads // (kv_heads * _SHARING))
    shares = Shares.of(tokens, count, lengths, walks=walks, blocks=_BLOCKS, least=_BLOCK_WORDS)
    if shares.count > _MOST_SHARES:
        raise ValueError(f"q: {count} sequences are too many at once; decode {count // 4 + 1} at a time")
    query = q if dim == channels else torch.nn.functional.pad(q, (0, channels - dim))
    tops, sums = (torch.empty((shares.count, heads), dtype=torch.float32, device=q.device) for _ in range(2))
    parts, out = torch.empty((shares.count, heads, channels), dtype=torch.float32, device=q.device), torch.empty_like(query)
    masks, mask = (kv_heads, None) if words is None else (words.shape[-2], words.data_ptr())
    operands = (*(x.data_ptr() for x in (query, keys, values)), mask, None if slopes is None else slopes.data_ptr())
    made = [x.data_ptr() for x in (tops, sums, parts, out)]
    rows = (keys.stride(-3) // channels, keys.stride(0) // channels)  # without sequences the latter is that of KV heads, and not used
    attend = cuda_kernel("xm_cuda_decode", c_int, *[c_void_p] * 9, c_int64, c_int64, *[c_int] * 5, c_float, *SHARES_ARGUMENTS)
    sizes = (heads, kv_heads, masks, key_words, channels)
    attend(q, int(q.dtype == torch.float16), *operands, *made, *rows, *sizes, scale_of(scale, dim), *shares.arguments)
    return out[..., :dim]


def _readable(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values with channels that are compiled, all rows of them whole."""
    channels = k.shape[-1]
    wanted = next(least for least in HEAD_DIMS if channels <= least)
    in_rows = k.stride() == v.stride() and k.stride()[-2:] == (channels, 1) and not any(far % channels for far in k.stride()[:-2])
    if in_rows and wanted == channels and not any(x.data_ptr() % 16 for x in (k, v)):
        return k, v
    keys, values = (torch.nn.functional.pad(x, (0, wanted - channels)).contiguous() for x in (k, v))
    return keys, values
