"""Dense attention of one decoded token through PyTorch: the baseline that decode kernels are measured against."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measuring.timing import time_in_turns

_DTYPES = ("float32", "bfloat16")
_GROUPED, _REPEATED, _AS_QUERIES = "grouped heads", "repeated heads", "a group's heads as queries"
_TRIAL_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class DenseDecodeKernel:
    """One way to hand a query a head and a cache of fewer heads to PyTorch."""

    way: str
    dtype: str

    @property
    def name(self) -> str:
        """What a measurement record calls it."""
        return f"torch sdpa, {self.way}"


class DenseDecode:
    """One query a head on the keys it may see, made ready for PyTorch's scaled_dot_product_attention."""

    def __init__(self, q: Any, k: Any, v: Any, kernel: DenseDecodeKernel, *, scale: float, bias: Any | None) -> None:
        """Prepare the operands; keys are read where they lie, unless the kernel's number format is another.

        Args:
            q: tensor [heads, 1, d]; k, v: tensors [kv_heads, keys, d], neighbouring heads share one.
            bias: float32 tensor [heads, 1, keys] that is added to the scaled scores; None: nothing.
        """
        import torch

        dtype = getattr(torch, kernel.dtype)
        self.q, self.k, self.v = (x.to(dtype) for x in (q, k, v))
        sharing = len(q) // len(k)
        queries, keys, values = self.q, self.k, self.v
        if kernel.way == _AS_QUERIES:
            queries = queries.view(len(k), sharing, -1)
        if kernel.way == _REPEATED:
            keys, values = (x.repeat_interleave(sharing, 0) for x in (keys, values))
        self._operands = [x[None] for x in (queries, keys, values)]
        added = None if bias is None else bias.to(dtype).view(1, *queries.shape[:2], -1)
        self._options: dict[str, Any] = {"scale": scale, "attn_mask": added, "enable_gqa": len(queries) != len(keys)}

    def __call__(self) -> Any:
        """Attention output, tensor [heads, 1, d]; returns when it is done."""
        import torch

        out = torch.nn.functional.scaled_dot_product_attention(*self._operands, **self._options)
        if self.q.is_cuda:
            torch.cuda.synchronize()
        return out.view(self.q.shape)


def fastest_dense_decode(q: Any, k: Any, v: Any, *, scale: float, bias: Any | None, before: Callable[[], object]) -> DenseDecodeKernel:
    """The fastest way and number format for these operands on this host, by the best time of a short trial in turns.

    Args are those of DenseDecode; `before` runs before each call.

    Raises:
        XmsimError: PyTorch serves none.
    """
    ways = (_GROUPED,) if len(q) == len(k) else (_GROUPED, _REPEATED, _AS_QUERIES)
    calls: dict[str, DenseDecode] = {}
    kernels = {}
    for kernel in (DenseDecodeKernel(way, dtype) for way in ways for dtype in _DTYPES):
        with suppress(RuntimeError):  # torch's answer to operands that it does not serve
            call = DenseDecode(q, k, v, kernel, scale=scale, bias=bias)
            call()
            calls[f"{kernel}"], kernels[f"{kernel}"] = call, kernel
    if not calls:
        raise XmsimError("no PyTorch attention serves one query on these keys here; upgrade torch")
    times = time_in_turns(calls, rounds=_TRIAL_ROUNDS, before=before)
    return kernels[min(times, key=lambda name: times[name].min_ms)]
