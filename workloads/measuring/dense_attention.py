"""Dense attention through PyTorch: the baseline that sparse kernels are measured against."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.traces.store import LayerTrace
from xmsim.workloads.measuring.timing import time_calls
from xmsim.workloads.methods.scores import head_bias

_DTYPES = ("float32", "bfloat16")
_BACKENDS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
_MATH_PAIRS = 1 << 26  # the math backend stores every score; beyond this it only costs memory


@dataclass(frozen=True, slots=True)
class DenseKernel:
    """One way to compute dense attention."""

    device: str  # "cpu" or "cuda"
    backend: str  # a key of _BACKENDS
    dtype: str

    @property
    def name(self) -> str:
        """What a measurement record calls it."""
        return f"torch sdpa, {self.backend}"


class DenseAttention:
    """One layer of one window, all heads, made ready for PyTorch's scaled_dot_product_attention; padding is cut off."""

    def __init__(self, layer: LayerTrace, window: int, kernel: DenseKernel) -> None:
        import torch

        tokens = layer.valid_tokens[window]
        dtype = getattr(torch, kernel.dtype)
        self.q, self.k, self.v = (
            torch.from_numpy(x[window, :, :tokens].copy()).to(kernel.device, dtype)[None] for x in (layer.q, layer.k, layer.v)
        )
        self._kernel = kernel
        self._options: dict[str, Any] = {"scale": layer.scale, "enable_gqa": self.q.shape[1] != self.k.shape[1]}
        if layer.bias.kind == "causal":
            self._options["is_causal"] = True
        elif layer.bias.kind == "sliding_window":
            self._options["attn_mask"] = torch.from_numpy(layer.bias.allowed(tokens)).to(kernel.device)
        elif layer.bias.kind == "alibi":
            bias = np.stack([head_bias(layer, window, head) for head in range(self.q.shape[1])])
            self._options["attn_mask"] = torch.from_numpy(bias).to(kernel.device)[None]

    def __call__(self) -> Any:
        """Attention output, tensor [1, heads, queries, head_dim]; returns when it is done."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, _BACKENDS[self._kernel.backend])):
            out = torch.nn.functional.scaled_dot_product_attention(self.q, self.k, self.v, **self._options)
        if self._kernel.device == "cuda":
            torch.cuda.synchronize()
        return out


def fastest_dense_kernel(layer: LayerTrace, window: int, device: str) -> DenseKernel:
    """The fastest of the backends and number formats that serve this layer on this host, by the best time of a short trial of each.

    Raises:
        XmsimError: none does.
    """
    pairs = layer.q.shape[1] * layer.valid_tokens[window] ** 2
    times: dict[DenseKernel, float] = {}
    for backend in _BACKENDS:
        if backend == "math" and pairs > _MATH_PAIRS and times:
            continue
        for dtype in _DTYPES:
            kernel = DenseKernel(device, backend, dtype)
            # torch's answers when a backend does not serve these tensors
            with suppress(RuntimeError), warnings.catch_warnings(action="ignore"):
                times[kernel] = time_calls(DenseAttention(layer, window, kernel), repeats=15, seconds=0.2).min_ms
    if not times:
        raise XmsimError(f"layer {layer.layer}: no PyTorch attention backend serves these tensors on {device}; upgrade torch")
    return min(times, key=times.__getitem__)
