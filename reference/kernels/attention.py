"""Sparse attention on the CPU: softmax over the kept keys of each row only, compiled for AVX-512, AVX2 or any processor.

Which keys are kept is said by packed words, one bit a pair, as `AttentionWorkload.words` has them: every method's mask comes that way.
Without the compiled kernels the float64 reference answers. Imports only numpy, and torch where a tensor is given.
"""

from __future__ import annotations

import math
from ctypes import c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import as_numpy, dtype_name, is_tensor
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels.native import address, default_threads, kernel

WORD_KEYS = 64
CHANNEL_STEP = 32  # heads are filled up with zero channels to a multiple of it
_TILE_ROWS = 64  # rows of a prefill that share the keys fetched for them
_TILE_KEYS = 256  # fetched for them at once: two rows of cache, with their values
_RANGE_KEYS = 1024  # where rows are few: keys whose kept ones are listed together
_RANGES_KEYS = 4096  # and keys of one part of the work; does not depend on the threads, nor does the result


def sparse_attention(
    q: Any, k: Any, v: Any, words: Any, *, scale: float | None = None, slopes: Any | None = None, threads: int | None = None
) -> Any:
    """Softmax over the kept pairs of each row, times v.

    Sums are made in float32, or with bfloat16 of products of bfloat16 numbers. The result does not depend on the number of threads.

    Args:
        q: float32 or bfloat16 (in NumPy its bits, as uint16) [heads, queries, d]; array or tensor on the CPU.
        k, v: of q's type, [kv_heads, keys, d]; heads is a multiple of kv_heads, and neighbours share one.
        words: uint64 (a tensor may be int64) [mask_heads, queries, ceil(keys / 64)]: bit j % 64 of word j // 64 says whether key j is
            kept. mask_heads is heads, or kv_heads for one mask for all that share a KV head, or any number between that divides.
        scale: factor of q·k; None means d**-0.5.
        slopes: float32 [heads], ALiBi: slope × key position is added to the scaled score.
        threads: None means as many as torch uses.
    Returns: like q; a row that keeps nothing gives zeros, one with a score that is NaN or +infinity gives NaN.
    Raises: ValueError naming the argument.
    """
    operands = Operands.of(q, k, v)
    mask = packed_words(words, operands)
    return attend(operands, mask, scale=scale, slopes=slopes, threads=threads)


def causal_attention(
    q: Any,
    k: Any,
    v: Any,
    words: Any | None = None,
    *,
    scale: float | None = None,
    slopes: Any | None = None,
    threads: int | None = None,
) -> Any:
    """`sparse_attention` of the last queries, where without words each query takes every key up to its own position.

    The last query sees the last key. k and v are read where they lie, so that they may be parts of a longer cache.
    """
    operands = Operands.of(q, k, v)
    if q.shape[1] > k.shape[1]:
        raise ValueError(f"q: {q.shape[1]} queries see only {k.shape[1]} keys; the last query sees the last key")
    mask = None if words is None else packed_words(words, operands)
    return attend(operands, mask, scale=scale, slopes=slopes, threads=threads)


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """q, k and v as the kernels read them: float32, or the bits of bfloat16, with channels filled up to a multiple of 32."""

    q: np.ndarray  # [heads, queries, channels]
    k: np.ndarray  # [kv_heads, keys, channels]; rows contiguous, all equally far apart, in v as well
    v: np.ndarray
    dim: int  # channels that were given
    given: Any  # q as it came: the result is of its kind

    @classmethod
    def of(cls, q: Any, k: Any, v: Any) -> Operands:
        """Check three operands that belong together."""
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.ndim != 3 or 0 in x.shape:
                raise ValueError(f"{name}: [heads, tokens, d] is needed, each at least 1, got {list(x.shape)}")
            if number_format(x) != number_format(q):
                raise ValueError(f"{name}: {number_format(x)} does not fit q's {number_format(q)}")
        if v.shape != k.shape:
            raise ValueError(f"v: shape {list(v.shape)} does not fit k's {list(k.shape)}")
        check_heads(q, k.shape[0], k.shape[2])
        keys, values = rows_of("k", k), rows_of("v", v)
        if keys.strides != values.strides:
            keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
        return cls(numbers("q", q), keys, values, q.shape[2], q)

    @property
    def bf16(self) -> bool:
        return self.q.dtype == np.uint16

    @property
    def sharing(self) -> int:
        """Query heads that share a KV head."""
        return len(self.q) // len(self.k)

    def result(self, out: np.ndarray) -> Any:
        """What was computed, as the kind of array that q was, without the channels that were filled up."""
        return like(self.given, out[..., : self.dim])


def attend(operands: Operands, words: np.ndarray | None, *, scale: float | None, slopes: Any | None, threads: int | None) -> Any:
    """`sparse_attention` of operands and words that are checked; without words every key up to the query's own position."""
    factor, slope, team = scale_of(scale, operands.dim), slopes_of(slopes, len(operands.q)), threads_of(threads)
    native = kernel("xm_attend", None, c_int, *[c_void_p] * 7, *[c_int64] * 11, c_float, c_int)
    if native is None:
        return operands.result(as_numbers(_reference(operands, words, factor, slope), operands.bf16))
    q, k, v = operands.q, operands.k, operands.v
    (heads, queries, dim), (kv_heads, keys) = q.shape, k.shape[:2]
    few = queries * operands.sharing < _TILE_ROWS
    ranges_keys = _RANGES_KEYS if few else -(-keys // WORD_KEYS) * WORD_KEYS
    out, partial = np.empty(q.shape, q.dtype), partial_rows(q, -(-keys // ranges_keys))
    native(
        operands.bf16,
        address(q),
        k.ctypes.data,
        v.ctypes.data,
        None if words is None else address(words),
        None if slope is None else address(slope),
        address(out),
        address(partial),
        heads,
        kv_heads,
        kv_heads if words is None else len(words),
        queries,
        keys,
        dim,
        k.strides[0] // k.itemsize,
        k.strides[1] // k.itemsize,
        queries if few else max(1, _TILE_ROWS // operands.sharing),
        _RANGE_KEYS if few else _TILE_KEYS,
        ranges_keys,
        factor,
        team,
    )
    return operands.result(out)


def packed_words(words: Any, operands: Operands) -> np.ndarray:
    """Check a packed mask against operands; contiguous uint64.

    Raises:
        ValueError: its type or shape does not fit, or it keeps keys that are not there.
    """
    if dtype_name(words) not in ("uint64", "int64"):
        raise ValueError(
            f"words: uint64 is needed, got {dtype_name(words)}; pack a bool mask with AttentionWorkload.from_keep(keep, ...).words"
        )
    array = np.ascontiguousarray(_array("words", words)).view(np.uint64)
    (heads, queries, _), (kv_heads, keys) = operands.q.shape, operands.k.shape[:2]
    row_words = -(-keys // WORD_KEYS)
    mask_heads = array.shape[0] if array.ndim == 3 else 0
    if array.shape[1:] != (queries, row_words) or not mask_heads or heads % mask_heads or mask_heads % kv_heads:
        shape = f"[{heads} heads or {kv_heads} KV heads, {queries} queries, {row_words} words]"
        raise ValueError(f"words: shape {list(array.shape)} is not {shape}")
    if keys % WORD_KEYS and (array[..., -1] >> np.uint64(keys % WORD_KEYS)).any():
        raise ValueError(f"words: a bit after the last of {keys} keys is set")
    return array


def unpacked(words: np.ndarray, keys: int) -> np.ndarray:
    """A packed mask as bool [mask_heads, queries, keys]."""
    return np.unpackbits(words.view(np.uint8), axis=-1, count=keys, bitorder="little").astype(bool)


def number_format(x: Any) -> str:
    """The number format by its name; a NumPy array of bfloat16 is one of its bits, uint16."""
    name = dtype_name(x)
    return "bfloat16" if name == "uint16" else name


def numbers(name: str, x: Any) -> np.ndarray:
    """`rows_of`, contiguous."""
    return np.ascontiguousarray(rows_of(name, x))


def rows_of(name: str, x: Any) -> np.ndarray:
    """float32 values, or the bits of bfloat16 ones, with channels filled up to a multiple of 32.

    Not copied where channels lie beside each other already, so that a part of a cache is read where it is.

    Raises:
        ValueError: another number format, or a tensor that is not on the CPU.
    """
    if number_format(x) not in ("float32", "bfloat16"):
        raise ValueError(f"{name}: float32 or bfloat16 (a tensor, or its bits as uint16) is needed, got {dtype_name(x)}")
    array = _array(name, x)
    if array.strides[-1] != array.itemsize or any(stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    missing = -array.shape[-1] % CHANNEL_STEP
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array


def _array(name: str, x: Any) -> np.ndarray:
    """The memory of an array or tensor; bfloat16 as its bits."""
    if not is_tensor(x):
        return np.asarray(x)
    if x.device.type != "cpu":
        raise ValueError(f"{name}: a tensor on the CPU is needed, this one is on {x.device}; move it with .cpu()")
    import torch

    bits = x.detach().view(torch.int16) if x.dtype == torch.bfloat16 else x.detach()
    return bits.numpy().view(np.uint16) if x.dtype == torch.bfloat16 else bits.numpy()


def like(given: Any, array: np.ndarray) -> Any:
    """float32 values or bfloat16 bits as what was given: an array, or a tensor."""
    if not is_tensor(given):
        return np.ascontiguousarray(array)
    import torch

    contiguous = np.ascontiguousarray(array)
    return torch.from_numpy(contiguous.view(np.int16)).view(torch.bfloat16) if array.dtype == np.uint16 else torch.from_numpy(contiguous)


def as_float32(array: np.ndarray) -> np.ndarray:
    """float32 values of float32 values or bfloat16 bits."""
    return bfloat16_values(array) if array.dtype == np.uint16 else array


def as_numbers(values: np.ndarray, bf16: bool) -> np.ndarray:
    """Values as float32, or as the bits of the nearest bfloat16."""
    return bfloat16_bits(values) if bf16 else values.astype(np.float32)


def check_heads(q: Any, kv_heads: int, dim: int) -> None:
    """Refuse queries that do not fit keys of so many heads and channels."""
    if q.shape[2] != dim:
        raise ValueError(f"k: {dim} channels do not fit q's {q.shape[2]}")
    if q.shape[0] % kv_heads:
        raise ValueError(f"q: {q.shape[0]} heads are no multiple of the {kv_heads} key/value heads")


def scale_of(scale: float | None, dim: int) -> float:
    """The factor of q·k; None means dim**-0.5."""
    factor = dim**-0.5 if scale is None else float(scale)
    if not math.isfinite(factor):
        raise ValueError(f"scale: {scale} must be finite")
    return factor


def slopes_of(slopes: Any | None, heads: int) -> np.ndarray | None:
    """Contiguous float32 [heads]."""
    if slopes is None:
        return None
    array = np.ascontiguousarray(as_numpy(slopes), np.float32)
    if array.shape != (heads,) or not np.isfinite(array).all():
        raise ValueError(f"slopes: a finite number for each of {heads} heads is needed, got shape {list(array.shape)}")
    return array


def threads_of(threads: int | None) -> int:
    """A number of threads; None means as many as torch uses."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads: {threads} must be at least 1")
    return threads or default_threads()


def partial_rows(q: np.ndarray, ranges: int) -> np.ndarray:
    """Room for what each range of keys gives each row; none where there is one range."""
    return np.empty((ranges if ranges > 1 else 0, *q.shape[:2], q.shape[2] + 2), np.float32)


def causal_keep(queries: int, keys: int) -> np.ndarray:
    """bool [queries, keys]: the last query sees the last key."""
    return np.tri(queries, keys, keys - queries, dtype=bool)


def _reference(operands: Operands, words: np.ndarray | None, scale: float, slopes: np.ndarray | None) -> np.ndarray:
    from xmsim.reference.attention import sparse_attention as attention

    (heads, queries, _), keys = operands.q.shape, operands.k.shape[1]
    keep = causal_keep(queries, keys) if words is None else unpacked(words, keys).repeat(heads // len(words), axis=0)
    bias = None if slopes is None else slopes[:, None, None] * np.arange(keys, dtype=np.float32)
    q, k, v = (as_float32(x) for x in (operands.q, operands.k, operands.v))
    with np.errstate(invalid="ignore"):  # a score that is no number shows in its row
        return attention(q, k, v, keep, scale=scale, bias=bias)
