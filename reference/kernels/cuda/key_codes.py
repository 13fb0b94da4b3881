"""The few-bit copy of a cache's keys on the GPU, and which keys X:M pruning of the scores that it predicts keeps."""

from __future__ import annotations

import math
from ctypes import c_double, c_float, c_int, c_void_p
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from xmsim.reference.attention import torch_integers
from xmsim.reference.kernels.attention import WORD_KEYS, scale_of
from xmsim.reference.kernels.cuda.batch_shares import SHARES_ARGUMENTS, Shares
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel
from xmsim.reference.kernels.kv_cache import Lists, steps_per_unit

if TYPE_CHECKING:
    from xmsim.reference.kernels.cuda.decode import GpuKvCache
    from xmsim.reference.kernels.cuda.decode_batch import GpuKvBatch

_MOST_SHARING = 8
_MOST_LISTS = 65535  # of a launch
_BLOCKS = 264  # of threads, 2 on each of an H200's 132 multiprocessors
_PART_WARPS, _MOST_PART_BLOCKS = 8, 128  # of a part: its warps, and the blocks of keys that the scoring kernel has room for


class GpuKeyCodes:
    """Codes of the keys, in blocks of 64: of up to 4 bits integer + 8, eight channels a word as the CPU's cache has them; else integers."""

    def __init__(self, heads: tuple[int, ...], channels: int, bits: int, k_max: float, tokens: int, device: torch.device) -> None:
        """Room for so many tokens of each of the KV heads [kv_heads] or [sequences, kv_heads].

        Raises:
            ValueError: naming the argument.
        """
        if not 2 <= bits <= 8:
            raise ValueError(f"bits: {bits} must be between 2 and 8")
        if not (math.isfinite(k_max) and k_max >= 0):
            raise ValueError(f"k_max: {k_max} must be finite and not negative")
        self.bits, self.k_max, self.tokens, self.channels = bits, k_max, 0, channels
        self.code_bits = 4 if bits <= 4 else 8
        words = channels * self.code_bits // 32
        self.codes = torch.zeros((*heads, -(-tokens // WORD_KEYS), words, WORD_KEYS), dtype=torch.int32, device=device)

    def append(self, keys: torch.Tensor) -> None:
        """Add keys [kv_heads, tokens, channels]."""
        last = self.tokens + keys.shape[1]
        blocks = -(-last // WORD_KEYS)
        if blocks > self.codes.shape[1]:
            more = max(blocks, 2 * self.codes.shape[1]) - self.codes.shape[1]
            self.codes = torch.nn.functional.pad(self.codes, (0, 0, 0, 0, 0, more))
        places = torch.arange(self.tokens, last, device=keys.device)
        self.codes[:, places // WORD_KEYS, :, places % WORD_KEYS] = self._packed(keys).transpose(0, 1)
        self.tokens = last

    def put(self, sequences: torch.Tensor, places: torch.Tensor, keys: torch.Tensor) -> None:
        """Put keys [n, kv_heads, channels] to such places of such sequences, int64 [n] each on the device."""
        self.codes[sequences, :, places // WORD_KEYS, :, places % WORD_KEYS] = self._packed(keys)

    def _packed(self, keys: torch.Tensor) -> torch.Tensor:
        """Codes of keys [..., channels], int32 [..., words]."""
        top = np.float32(self.k_max)
        integers = torch_integers.quantise(keys.float(), np.asarray(top), np.asarray(steps_per_unit(top, self.bits)))
        if self.code_bits == 4:
            halves = (integers + 8).view(torch.uint8).unflatten(-1, (self.channels // 8, 2, 4))
            packed = halves[..., 0, :] | halves[..., 1, :] << 4
        else:
            packed = integers.view(torch.uint8).unflatten(-1, (self.channels // 4, 4))
        return packed.contiguous().view(torch.int32)[..., 0]


class PredictedWords(NamedTuple):
    """Kept keys, and where rounding could have decided otherwise."""

    words: torch.Tensor  # int64 [lists, ceil(tokens / 64)], for each sequence of a batch, where tokens is the room
    doubtful: torch.Tensor  # int32 [lists], the same, 1: two weights at a cut are equal up to the rounding of float64


def predicted_xm_words(
    q: torch.Tensor,
    cache: GpuKvCache | GpuKvBatch,
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
        q: [heads, head_dim] in the cache's number format, of a batch [sequences, heads, head_dim]; at most 8 heads share a KV head.
        cache: with low-bit keys (`predict_with`), whose width is that of the queries too.
        group: channels of a query of which the largest is kept, 2 for 1:2.
        lists: "head": each query head ranks its own scores. "group_sum", "group_max": the heads that share a KV head keep the same keys.
        kept_high, kept_low, threshold_high, threshold_low: as `xm_keep`.
        q_max: magnitude that stands for the largest integer of the queries; None: their own largest, which waits for the GPU. A batch
            needs one, as what a sequence keeps does not depend on the others.
        scale, slopes: as `decode_attention`.
    Raises:
        ValueError: naming the argument.
    """
    codes = cache.codes
    keys, _, lengths = cache.operands()
    check_tensor("q", q, dtypes=(keys.dtype,), axes=keys.dim() - 1)
    check_device(q=q, codes=codes.codes, **({} if slopes is None else {"slopes": slopes}))
    (*sequences, heads, dim), (*_, kv_heads, tokens, _) = q.shape, keys.shape
    if (sequences, dim) != ([*keys.shape[:-3]], cache.head_dim) or heads % kv_heads or heads // kv_heads > _MOST_SHARING:
        raise ValueError(f"q: {list(q.shape)} does not fit {kv_heads} KV heads of {cache.head_dim} channels; at most 8 heads share one")
    if heads > _MOST_LISTS:
        raise ValueError(f"q: {heads} heads of a sequence are too many at once; at most {_MOST_LISTS} are served")
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
    if q_max is None and lengths is not None:
        raise ValueError(
            "q_max: a batch needs it, so that no sequence depends on others; give the largest magnitude of the layer's queries"
        )
    top = torch_integers.largest_magnitude(q.float()) if q_max is None else np.float32(q_max)
    if not (np.isfinite(top) and top >= 0):
        raise ValueError(f"q: the largest magnitude, {top}, must be finite and not negative")
    steps, k_steps = steps_per_unit(top, codes.bits), steps_per_unit(np.float32(codes.k_max), codes.bits)
    per_product = float(np.float32(factor / (np.float64(steps) * np.float64(k_steps))))
    count, blocks = math.prod(sequences), -(-tokens // WORD_KEYS)
    sharing, by_largest = 1 if lists == "head" else heads // kv_heads, lists == "group_max" and heads > kv_heads
    shares = Shares.of(tokens, count, lengths, walks=kv_heads, blocks=_BLOCKS, least=_PART_WARPS, most=_MOST_PART_BLOCKS)

    def room(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=q.device)

    scores = [
        room(torch.int16 if codes.code_bits == 4 else torch.int32, count, heads, blocks, WORD_KEYS),
        *(room(dtype, count, heads, blocks) for dtype in (torch.float32, torch.float64)),
        *(room(dtype, heads, shares.count) for dtype in (torch.float32, torch.float64)),
    ]
    words, doubtful = room(torch.int64, *sequences, heads // sharing, blocks), room(torch.int32, *sequences, heads // sharing)
    made, slope = [x.data_ptr() for x in scores], None if slopes is None else slopes.data_ptr()
    score = cuda_kernel("xm_cuda_score_keys", *[c_void_p] * 10, *[c_int] * 9, *[c_float] * 3, *SHARES_ARGUMENTS)
    score(
        q,
        *(q.data_ptr(), codes.codes.data_ptr(), slope, *made, words.data_ptr(), doubtful.data_ptr()),
        *(int(q.dtype == torch.float16), dim, group, codes.codes.shape[-3], heads // sharing),
        *(heads, kv_heads, codes.channels, codes.code_bits, float(top), float(steps), per_product),
        *shares.arguments,
    )
    masses = [room(torch.float64, heads // sharing, size) for size in (count * blocks, shares.count)] if by_largest else []
    beyond = 2 * max(tokens / WORD_KEYS, 1)  # no share is that high
    select = cuda_kernel("xm_cuda_select_keys", *[c_void_p] * 10, *[c_int] * 6, c_float, c_double, c_double, *SHARES_ARGUMENTS)
    select(
        q,
        *(*made, slope, *([x.data_ptr() for x in masses] or (None, None)), words.data_ptr(), doubtful.data_ptr()),
        *(heads, kv_heads, codes.code_bits, sharing, kept_high, kept_low),
        *(per_product, min(threshold_high, beyond), min(threshold_low, beyond)),
        *shares.arguments,
    )
    return PredictedWords(words, doubtful)
