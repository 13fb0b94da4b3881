"""The few-bit copy of a cache's keys on the GPU, and which keys X:M pruning of the scores that it predicts keeps."""

from __future__ import annotations

from ctypes import c_double, c_float, c_int, c_void_p
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from xmsim.reference.attention import torch_integers
from xmsim.reference.kernels.attention import WORD_KEYS, scale_of
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel, is_emulated
from xmsim.reference.kernels.kv_cache import Lists, steps_per_unit

if TYPE_CHECKING:
    from xmsim.reference.kernels.cuda.decode import GpuKvCache

_MOST_SHARING = 8
_BLOCKS = 264  # of threads, 2 on each of an H200's 132 multiprocessors
_PART_WARPS, _MOST_PART_BLOCKS = 8, 128  # of a part: its warps, and the blocks of keys that the scoring kernel has room for


class GpuKeyCodes:
    """Codes of the keys, in blocks of 64: of up to 4 bits integer + 8, eight channels a word as the CPU's cache has them; else integers."""

    def __init__(self, kv_heads: int, channels: int, bits: int, k_max: float, tokens: int, device: torch.device) -> None:
        self.bits, self.k_max, self.tokens, self.channels = bits, k_max, 0, channels
        self.code_bits = 4 if bits <= 4 else 8
        words = channels * self.code_bits // 32
        self.codes = torch.zeros((kv_heads, -(-tokens // WORD_KEYS), words, WORD_KEYS), dtype=torch.int32, device=device)

    def append(self, keys: torch.Tensor) -> None:
        """Add keys [kv_heads, tokens, channels]."""
        last = self.tokens + keys.shape[1]
        blocks = -(-last // WORD_KEYS)
        if blocks > self.codes.shape[1]:
            more = max(blocks, 2 * self.codes.shape[1]) - self.codes.shape[1]
            self.codes = torch.nn.functional.pad(self.codes, (0, 0, 0, 0, 0, more))
        top = np.float32(self.k_max)
        integers = torch_integers.quantise(keys.float(), np.asarray(top), np.asarray(steps_per_unit(top, self.bits)))
        if self.code_bits == 4:
            halves = (integers + 8).view(torch.uint8).reshape(*integers.shape[:2], -1, 2, 4)
            packed = halves[..., 0, :] | halves[..., 1, :] << 4
        else:
            packed = integers.view(torch.uint8).reshape(*integers.shape[:2], -1, 4)
        places = torch.arange(self.tokens, last, device=keys.device)
        self.codes[:, places // WORD_KEYS, :, places % WORD_KEYS] = packed.contiguous().view(torch.int32)[..., 0].transpose(0, 1)
        self.tokens = last


class PredictedWords(NamedTuple):
    """Kept keys, and where rounding could have decided otherwise."""

    words: torch.Tensor  # int64 [lists, ceil(tokens / 64)]
    doubtful: torch.Tensor  # int32 [lists], 1: two weights at a cut are equal up to the rounding of float64


def predicted_xm_words(
    q: torch.Tensor,
    cache: GpuKvCache,
    *,
    group: int,
    lists: Lists = "group_sum",
    kept_high: int = 16,
    kept_low: int = 8,
    threshold_high: float = 1.0,
    threshold_low: float = 0.1,
    q_max: float | None = None,
    scale: float | None = None,
    slopes: torch.Tensor | None = None,
) -> PredictedWords:
    """Keys that X:M pruning of predicted scores keeps: what the CPU's `predicted_xm_words` gives in blocks of 64, bit for bit.

    Args:
        q: [heads, head_dim] in the cache's number format; at most 8 heads share a KV head.
        cache: with low-bit keys (`predict_with`), whose width is that of the queries too.
        group: channels of a query of which the largest is kept, 2 for 1:2.
        lists: "head": each query head ranks its own scores. "group_sum", "group_max": the heads that share a KV head keep the same keys.
        kept_high, kept_low, threshold_high, threshold_low: as `xm_keep`.
        q_max: magnitude that stands for the largest integer of the queries; None: their own largest, which waits for the GPU.
        scale, slopes: as `decode_attention`.
    Raises:
        ValueError: naming the argument.
    """
    codes = cache.codes
    check_tensor("q", q, dtypes=(cache.k.dtype,), axes=2)
    check_device(q=q, codes=codes.codes, **({} if slopes is None else {"slopes": slopes}))
    (heads, dim), kv_heads = q.shape, cache.kv_heads
    if dim != cache.head_dim or heads % kv_heads or heads // kv_heads > _MOST_SHARING:
        raise ValueError(f"q: {list(q.shape)} does not fit {kv_heads} KV heads of {cache.head_dim} channels; at most 8 heads share one")
    if lists not in ("head", "group_sum", "group_max"):
        raise ValueError(f"lists: head, group_sum or group_max is needed, got {lists}")
    if group < 1 or dim % group:
        raise ValueError(f"group: {group} must divide the head dimension, {dim}")
    if not 0 <= kept_low <= kept_high <= WORD_KEYS or not 0 <= threshold_low <= threshold_high:
        raise ValueError("kept_low and threshold_low must not be negative nor exceed kept_high and threshold_high; kept_high at most 64")
    factor = scale_of(scale, dim)
    if factor <= 0:
        raise ValueError(f"scale: {factor} must be positive for scores that are ranked")
    if slopes is not None:
        check_tensor("slopes", slopes, dtypes=(torch.float32,), axes=1, alignment=4)
        if len(slopes) != heads:
            raise ValueError(f"slopes: {len(slopes)} are not one for each of {heads} heads")
    top = torch_integers.largest_magnitude(q.float()) if q_max is None else np.float32(q_max)
    if not (np.isfinite(top) and top >= 0):
        raise ValueError(f"q: the largest magnitude, {top}, must be finite and not negative")
    steps, k_steps = steps_per_unit(top, codes.bits), steps_per_unit(np.float32(codes.k_max), codes.bits)
    per_product = float(np.float32(factor / (np.float64(steps) * np.float64(k_steps))))
    keys, blocks = cache.tokens, -(-cache.tokens // WORD_KEYS)
    sharing, by_largest = 1 if lists == "head" else heads // kv_heads, lists == "group_max" and heads > kv_heads
    parts = _parts(kv_heads, blocks)

    def room(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=q.device)

    products = room(torch.int16 if codes.code_bits == 4 else torch.int32, heads, blocks, WORD_KEYS)
    scores = [
        products,
        *(room(dtype, heads, blocks) for dtype in (torch.float32, torch.float64)),
        *(room(dtype, heads, parts) for dtype in (torch.float32, torch.float64)),
    ]
    words, doubtful = room(torch.int64, heads // sharing, blocks), room(torch.int32, heads // sharing)
    made, slope = [x.data_ptr() for x in scores], None if slopes is None else slopes.data_ptr()
    score = cuda_kernel("xm_cuda_score_keys", *[c_void_p] * 9, *[c_int] * 11, *[c_float] * 3)
    score(
        q,
        *(q.data_ptr(), codes.codes.data_ptr(), slope, *made, doubtful.data_ptr()),
        *(int(q.dtype == torch.float16), dim, group, codes.codes.shape[1], heads // sharing),
        *(heads, kv_heads, keys, parts, codes.channels, codes.code_bits),
        *(float(top), float(steps), per_product),
    )
    masses = [room(torch.float64, heads // sharing, count) for count in (blocks, parts)] if by_largest else []
    beyond = 2 * max(keys / WORD_KEYS, 1)  # no share is that high
    select = cuda_kernel("xm_cuda_select_keys", *[c_void_p] * 10, *[c_int] * 8, c_float, c_double, c_double)
    select(
        q,
        *(*made, slope, *([x.data_ptr() for x in masses] or (None, None)), words.data_ptr(), doubtful.data_ptr()),
        *(heads, kv_heads, keys, parts, codes.code_bits, sharing, kept_high, kept_low),
        *(per_product, min(threshold_high, beyond), min(threshold_low, beyond)),
    )
    return PredictedWords(words, doubtful)


def _parts(kv_heads: int, blocks: int) -> int:
    """Parts of a KV head's blocks that fill the GPU, of a block a warp at least and no more than fit a block of threads."""
    wanted = 3 if is_emulated() else _BLOCKS // kv_heads
    return max(1, min(wanted, -(-blocks // _PART_WARPS)), -(-blocks // _MOST_PART_BLOCKS))
