"""Decoding on a GPU, token by token: torch, and our kernels where they are built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xmsim.reference.kernels.cpu_attention import kept_pairs
from xmsim.reference.kernels.torch_attention import GatherAttention
from xmsim.traces.bits import pack
from xmsim.traces.store import LayerTrace
from xmsim.workloads.measuring.accuracy import MASK_ROUNDING, AttentionProblem
from xmsim.workloads.measuring.attention import position_bias
from xmsim.workloads.measuring.decode_contenders import DENSE, FROM_CACHE, MASK, SPARSE, Contender, Token, check_words, torch_contender
from xmsim.workloads.measuring.dense_decode import DenseDecodeKernel
from xmsim.workloads.methods.library import Method

_MOST_SHARING = 8  # query heads of a KV head that prediction serves


class GpuDecoder:
    """torch, and the CUDA kernels on a bfloat16 cache where they are built; else torch's gather, the kept keys given."""

    def __init__(self, method: Method, device: str, before: Callable[[], object]) -> None:
        self.device, self._method, self._before = device, method, before
        self._dense: DenseDecodeKernel | None = None

    def begin(self, layer: LayerTrace, window: int, prefill_tokens: int) -> None:
        from xmsim.reference.kernels.cuda.attention import HEAD_DIMS
        from xmsim.reference.kernels.cuda.decode import GpuKvCache
        from xmsim.reference.kernels.cuda.native import cuda_library

        kv_heads, dim = layer.k.shape[1], layer.k.shape[3]
        self._cache, self._selection = None, None
        if cuda_library() is None or dim > HEAD_DIMS[-1]:
            return
        self._cache = GpuKvCache(kv_heads, dim, tokens=layer.valid_tokens[window], device=self.device)
        self._cache.append(*(self._tensor(x[window, :, :prefill_tokens]) for x in (layer.k, layer.v)))
        if not layer.bias.window and layer.q.shape[1] <= _MOST_SHARING * kv_heads:
            self._selection = self._method.config.cache_selection("cuda")
        if self._selection and self._method.prediction:
            self._cache.predict_with(self._method.prediction.bits, k_max=layer.k_max)

    def contenders(self, token: Token) -> list[Contender]:
        import torch

        layer = token.so_far
        q = self._tensor(token.new(layer.q))
        k, v = (self._tensor(token.new(x, first=0)) for x in (layer.k, layer.v))
        found, self._dense = torch_contender(token, q, k, v, self._dense, self._before)
        slopes = None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32)
        shared = {"scale": layer.scale, "bias": position_bias(layer, token.window), "more_q": token.last_queries(q)}
        problem = partial(AttentionProblem, q, k, v, **shared)
        if self._cache is None:
            if token.keep is None:
                return [found]
            gather = GatherAttention(q, k, v, kept_pairs(token.keep), scale=layer.scale, slopes=slopes)
            return [found, Contender(SPARSE, "torch gather", "bfloat16", self._finished(gather), problem(keep=token.keep))]
        from xmsim.reference.kernels.cuda.decode import decode_attention as attend_on_gpu

        cache = self._cache
        cache.append(*(self._tensor(token.new(x)) for x in (layer.k, layer.v)))
        row, slope = q[:, 0].contiguous(), None if slopes is None else torch.from_numpy(slopes).to(self.device)
        seen = np.arange(token.keys) >= token.first_key

        def attend(words: np.ndarray | Any | None) -> Callable[[], Any]:
            given = torch.from_numpy(words.view(np.int64)).to(self.device) if isinstance(words, np.ndarray) else words
            return self._finished(lambda: attend_on_gpu(row, cache, given, scale=layer.scale, slopes=slope)[:, None])

        all_words = None if seen.all() else pack(np.broadcast_to(seen, (len(k), token.keys)))
        contenders = [found, Contender(DENSE, "cuda", "bfloat16", attend(all_words), problem(keep=seen[None, None]))]
        if token.keep is None:
            return contenders
        words, keep = pack(token.keep[:, 0]), token.keep
        if self._selection:
            select = self._finished(partial(self._selection, row, cache, q_max=layer.q_max, scale=layer.scale, slopes=slope))
            words = select()
            # weights at a cut that are equal up to float64's rounding may be decided otherwise
            keep = check_words(words.cpu().numpy()[:, None], token, f"{token.name}: prediction, cuda", rounding=MASK_ROUNDING)
            contenders.append(Contender(MASK, f"cuda, {FROM_CACHE}", "bfloat16", select, None))
        return [*contenders, Contender(SPARSE, "cuda", "bfloat16", attend(words), problem(keep=keep))]

    def _tensor(self, values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values.copy()).to(self.device, torch.bfloat16)

    def _finished(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call, which returns when the device is done."""
        import torch

        def finish() -> Any:
            out = call()
            if out.is_cuda:
                torch.cuda.synchronize()
            return out

        return finish
