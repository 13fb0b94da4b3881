"""Keys and values of several sequences that are decoded together on the GPU."""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p

import numpy as np
import torch

from xmsim.reference.kernels.cuda.attention import HEAD_DIMS
from xmsim.reference.kernels.cuda.batch_shares import MOST_TOKENS
from xmsim.reference.kernels.cuda.key_codes import GpuKeyCodes
from xmsim.reference.kernels.cuda.native import check_device, check_tensor, cuda_kernel
from xmsim.reference.kernels.cuda.weights import ELEMENTS
from xmsim.reference.kernels.kv_cache import steps_per_unit


class GpuKvBatch:
    """Keys and values of one layer of several sequences of different lengths, in places with the same room each.

    Lengths lie on the GPU and nothing waits for them: `append`, prediction and attention can be captured in a CUDA graph, whose replays
    each add a token to every sequence. A place without tokens stays empty until a sequence begins there.
    """

    def __init__(
        self,
        sequences: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.bfloat16,
        *,
        tokens: int,
        device: str = "cuda",
    ) -> None:
        """Empty places.

        Args:
            sequences: how many places.
            kv_heads, head_dim: shape of the keys and values; head_dim at most 128.
            dtype: bfloat16 or float16.
            tokens: room of each place.
        Raises:
            ValueError: naming the argument.
        """
        if min(sequences, kv_heads, head_dim, tokens) < 1 or head_dim > HEAD_DIMS[-1] or tokens > MOST_TOKENS:
            given = f"{sequences}, {kv_heads}, {head_dim}, {tokens}"
            limits = f"head_dim at most {HEAD_DIMS[-1]}, tokens at most {MOST_TOKENS}"
            raise ValueError(f"sequences, kv_heads, head_dim and tokens: {given}; each at least 1, {limits}")
        if dtype not in ELEMENTS:
            raise ValueError(f"dtype: {dtype} is not one of {', '.join(map(str, ELEMENTS))}")
        self.kv_heads, self.head_dim = kv_heads, head_dim
        channels = next(least for least in HEAD_DIMS if head_dim <= least)
        shape = (sequences, kv_heads, tokens, channels)
        self._k, self._v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self._codes: GpuKeyCodes | None = None
        self.lengths = torch.zeros(sequences, dtype=torch.int32, device=device)  # tokens of each sequence

    def begin(self, sequence: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put a sequence's first tokens in a place, instead of what was there; k, v [kv_heads, tokens, head_dim], of no tokens to empty it.

        Raises:
            ValueError: naming the argument.
        """
        places, kv_heads, room, _ = self._k.shape
        if not 0 <= sequence < places:
            raise ValueError(f"sequence: {sequence} is not one of the places 0 to {places - 1}")
        for name, x in (("k", k), ("v", v)):
            if x.dim() != 3 or (x.shape[0], x.shape[2]) != (kv_heads, self.head_dim) or x.shape != k.shape or x.shape[1] > room:
                shape = f"[{kv_heads} KV heads, at most {room} tokens, {self.head_dim}]"
                raise ValueError(f"{name}: {shape} is needed, got {list(x.shape)}")
            self._check_format(name, x)
        tokens = k.shape[1]
        for old, new in ((self._k, k), (self._v, v)):
            old[sequence, :, :tokens, : self.head_dim] = new
        if self._codes is not None:
            self._encode(torch.full((tokens,), sequence, device=self._k.device), torch.arange(tokens, device=self._k.device))
        self.lengths[sequence].fill_(tokens)

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add a token to every sequence that has some; k, v [sequences, kv_heads, head_dim], those of empty places count for nothing.

        A sequence that outgrows its place loses what there is no room for; its length says so.

        Raises:
            ValueError: naming the argument.
        """
        wanted = (len(self._k), self.kv_heads, self.head_dim)
        for name, x in (("k", k), ("v", v)):
            if tuple(x.shape) != wanted:
                raise ValueError(f"{name}: [{wanted[0]} sequences, {wanted[1]} KV heads, {wanted[2]}] is needed, got {list(x.shape)}")
            self._check_format(name, x)
            check_tensor(name, x, dtypes=(self._k.dtype,), axes=3, alignment=2)
        check_device(k=k, v=v, cache=self._k)
        codes, (*_, room, channels) = self._codes, self._k.shape
        top = np.float32(codes.k_max if codes else 0)
        put = cuda_kernel("xm_cuda_append_token", c_int, *[c_void_p] * 6, *[c_int] * 7, c_float, c_float)
        put(
            k,
            int(k.dtype == torch.float16),
            *(x.data_ptr() for x in (k, v, self._k, self._v)),
            *(codes.codes.data_ptr() if codes else None, self.lengths.data_ptr()),
            *(*wanted, room, channels, codes.codes.shape[2] if codes else 0, codes.code_bits if codes else 0),
            *(float(top), float(steps_per_unit(top, codes.bits) if codes else 1)),
        )

    def predict_with(self, bits: int, *, k_max: float) -> None:
        """Keep a few-bit copy of the keys from now on.

        Args:
            bits: width of the integers, 2 to 8.
            k_max: magnitude that stands for the largest integer, of all sequences; larger keys are clamped.
        Raises:
            ValueError: naming the argument.
        """
        sequences, kv_heads, tokens, channels = self._k.shape
        self._codes = GpuKeyCodes((sequences, kv_heads), channels, bits, float(k_max), tokens, self._k.device)
        places = torch.arange(tokens, device=self._k.device)
        for sequence in range(sequences):
            self._encode(torch.full_like(places, sequence), places)

    @property
    def codes(self) -> GpuKeyCodes:
        """The few-bit copy of the keys.

        Raises:
            ValueError: there is none.
        """
        if self._codes is None:
            raise ValueError("cache: it has no low-bit keys to predict with; call cache.predict_with(bits, k_max=...)")
        return self._codes

    @property
    def k(self) -> torch.Tensor:
        """Room for keys, [sequences, kv_heads, tokens, 64 or 128]; what lies behind a sequence's length is never read."""
        return self._k

    @property
    def v(self) -> torch.Tensor:
        """Room for values, as `k`."""
        return self._v

    def operands(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, values and lengths."""
        return self._k, self._v, self.lengths

    def _encode(self, sequences: torch.Tensor, places: torch.Tensor) -> None:
        self.codes.put(sequences, places, self._k[sequences, :, places])

    def _check_format(self, name: str, x: torch.Tensor) -> None:
        if x.dtype != self._k.dtype:
            raise ValueError(f"{name}: the cache holds {self._k.dtype}, got {x.dtype}")
