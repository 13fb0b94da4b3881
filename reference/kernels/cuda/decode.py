"""Attention of the newest token on the GPU: on all keys of a cache, or on those that a mask keeps, which are gathered."""

from __future__ import annotations

import math
from ctypes import c_float, c_int, c_void_p

import torch

from xmsim.reference.kernels.attention import WORD_KEYS, scale_of
from xmsim.reference.kernels.cuda.attention import HEAD_DIMS
from xmsim.reference.kernels.cuda.key_codes import GpuKeyCodes
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel, is_emulated
from xmsim.reference.kernels.cuda.weights import ELEMENTS

_BLOCKS = 396  # 3 on each of an H200's 132 multiprocessors, as many as its shared memory holds
_SHARING = 8  # query heads that read keys together; more read them again
_BLOCK_WORDS = 4  # that a block of threads takes at once: one a warp
_MOST_TOKENS = 1 << 24  # that the kernel's lists of keys can tell apart


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
        if not 2 <= bits <= 8:
            raise ValueError(f"bits: {bits} must be between 2 and 8")
        if k_max is None and not self.tokens:
            raise ValueError("k_max: an empty cache has no largest key; give k_max, or append the prefill first")
        keys = self._k[:, : self.tokens]
        largest = float(keys.abs().max()) if k_max is None else float(k_max)
        if not (math.isfinite(largest) and largest >= 0):
            raise ValueError(f"k_max: {largest} must be finite and not negative")
        self._codes = GpuKeyCodes(self.kv_heads, keys.shape[2], bits, largest, self._k.shape[1], keys.device)
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


def decode_attention(
    q: torch.Tensor,
    cache: GpuKvCache,
    words: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one query a head on the keys of a cache that are kept.

    Args:
        q: [heads, head_dim] in the cache's number format; heads is a multiple of the cache's KV heads, and neighbours share one.
        cache: the tokens so far, that of the queries among them.
        words: int64 [kv_heads or heads, ceil(tokens / 64)]: which keys each KV head's group, or each head, keeps; None: all. Keys that any
            head of a group keeps are read once for all of it.
        scale: factor of q·k; None means head_dim**-0.5.
        slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
    Returns: like q; a head that keeps nothing gives zeros.
    Raises:
        ValueError: naming the argument.
    """
    check_tensor("q", q, dtypes=(cache.k.dtype,), axes=2)
    if not cache.tokens:
        raise ValueError("cache: it is empty; append the token of the queries first")
    if q.shape[-1] != cache.head_dim:
        raise ValueError(f"q: {q.shape[-1]} channels a head, the cache has {cache.head_dim}")
    keys, values = (x[:, : cache.tokens] for x in (cache.k, cache.v))
    return attend_newest(q, keys, values, words, scale=scale_of(scale, cache.head_dim), slopes=slopes)


def attend_newest(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """`decode_attention` on keys and values that lie anywhere.

    Args:
        k, v: [kv_heads, tokens, d] of q's type, d at most 128. Parts of a longer cache are read where they lie if it has 64 or 128
            channels, as GpuKvCache has; others are copied first. Channels that q does not have are zeros.
    """
    check_tensor("q", q, dtypes=ELEMENTS, axes=2)
    check_device(q=q, k=k, v=v, **({} if words is None else {"words": words}), **({} if slopes is None else {"slopes": slopes}))
    for name, x in (("k", k), ("v", v)):
        if x.dim() != 3 or x.dtype != q.dtype or x.shape != k.shape or 0 in x.shape:
            raise ValueError(f"{name}: {q.dtype} [KV heads, tokens, channels] is needed, got {x.dtype} {list(x.shape)}")
    (heads, dim), (kv_heads, tokens, key_dim) = q.shape, k.shape
    if dim > key_dim or key_dim > HEAD_DIMS[-1] or not heads or heads % kv_heads:
        raise ValueError(
            f"q: {list(q.shape)} does not fit {kv_heads} KV heads of {key_dim} channels; heads must be their multiple, channels at most 128"
        )
    if tokens > _MOST_TOKENS:
        raise ValueError(f"k: {tokens} tokens; at most {_MOST_TOKENS} are served")
    key_words = -(-tokens // WORD_KEYS)
    if words is not None:
        check_tensor("words", words, dtypes=(torch.int64,), axes=2, alignment=8)
        if words.shape[0] not in (kv_heads, heads) or words.shape[1] != key_words:
            raise ValueError(f"words: shape {list(words.shape)} is not [{kv_heads} or {heads}, {key_words}]")
    if slopes is not None:
        check_tensor("slopes", slopes, dtypes=(torch.float32,), axes=1, alignment=4)
        if len(slopes) != heads:
            raise ValueError(f"slopes: {len(slopes)} are not one for each of {heads} heads")
    keys, values, room = _readable(k, v)
    channels, splits = keys.shape[2], _splits(kv_heads * -(-heads // (kv_heads * _SHARING)), key_words)
    query = q if dim == channels else torch.nn.functional.pad(q, (0, channels - dim))
    tops, sums = (torch.empty((splits, heads), dtype=torch.float32, device=q.device) for _ in range(2))
    parts, out = torch.empty((splits, heads, channels), dtype=torch.float32, device=q.device), torch.empty_like(query)
    masks, mask = (kv_heads, None) if words is None else (words.shape[0], words.data_ptr())
    operands = (*(x.data_ptr() for x in (query, keys, values)), mask, None if slopes is None else slopes.data_ptr())
    made = [x.data_ptr() for x in (tops, sums, parts, out)]
    attend = cuda_kernel("xm_cuda_decode", c_int, *[c_void_p] * 9, *[c_int] * 7, c_float)
    sizes = (heads, kv_heads, masks, tokens, room, channels, splits)
    attend(q, int(q.dtype == torch.float16), *operands, *made, *sizes, scale_of(scale, dim))
    return out[:, :dim]


def _readable(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Keys and values with channels that are compiled, and the tokens from one KV head to the next."""
    tokens, channels = k.shape[1:]
    wanted = next(least for least in HEAD_DIMS if channels <= least)
    in_rows = k.stride() == v.stride() and k.stride()[1:] == (channels, 1) and k.stride(0) % channels == 0
    if in_rows and wanted == channels and not any(x.data_ptr() % 16 for x in (k, v)):
        return k, v, k.stride(0) // channels
    keys, values = (torch.nn.functional.pad(x, (0, wanted - channels)).contiguous() for x in (k, v))
    return keys, values, tokens


def _splits(lists: int, key_words: int) -> int:
    """Parts of each of so many walks over a KV head's words that fill the GPU, none of them smaller than a word a warp."""
    wanted = 3 * lists if is_emulated() else _BLOCKS
    return max(1, min(wanted // lists, -(-key_words // _BLOCK_WORDS)))
