"""Decoding on the CPU, token by token: torch, our dense kernel, and ours with the keys that a method keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xmsim.reference.formats.bfloat16 import bfloat16_bits
from xmsim.reference.kernels.kv_cache import KvCache, decode_attention
from xmsim.reference.kernels.native import offered_isa
from xmsim.traces.bits import pack
from xmsim.traces.store import LayerTrace
from xmsim.workloads.measuring.accuracy import AttentionProblem, check_mask
from xmsim.workloads.measuring.attention import position_bias
from xmsim.workloads.measuring.decode_contenders import (
    DENSE,
    FROM_CACHE,
    FROM_KEYS,
    MASK,
    SPARSE,
    Contender,
    Token,
    check_words,
    torch_contender,
)
from xmsim.workloads.measuring.dense_decode import DenseDecodeKernel
from xmsim.workloads.methods.library import Method


class CpuDecoder:
    """torch, and the compiled kernels on a bfloat16 cache."""

    device = "cpu"

    def __init__(self, method: Method, threads: int, before: Callable[[], object]) -> None:
        """`before` runs before each call of the trial that chooses torch's way."""
        self._method, self._threads, self._before = method, threads, before
        self._dense: DenseDecodeKernel | None = None

    def begin(self, layer: LayerTrace, window: int, prefill_tokens: int) -> None:
        self._cache = KvCache(layer.k.shape[1], layer.k.shape[3], tokens=layer.valid_tokens[window])
        self._cache.append(*(bfloat16_bits(x[window, :, :prefill_tokens]) for x in (layer.k, layer.v)))
        # a cache's selection does not know of sliding windows
        self._selection = None if layer.bias.window else self._method.config.cache_selection("cpu")
        if self._selection and self._method.prediction:
            self._cache.predict_with(self._method.prediction.bits, k_max=layer.k_max)

    def contenders(self, token: Token) -> list[Contender]:
        import torch

        layer, cache = token.so_far, self._cache
        cache.append(*(bfloat16_bits(token.new(x)) for x in (layer.k, layer.v)))
        q = torch.from_numpy(token.new(layer.q).copy()).bfloat16()
        k, v = (torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)[..., : q.shape[2]] for x in (cache.k, cache.v))
        found, self._dense = torch_contender(token, q, k, v, self._dense, self._before)
        slopes = None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32)
        seen = np.arange(token.keys) >= token.first_key
        backend = f"native, {offered_isa()}"
        attend = partial(decode_attention, q, cache, scale=layer.scale, slopes=slopes, threads=self._threads)
        shared = {"scale": layer.scale, "bias": position_bias(layer, token.window), "more_q": token.last_queries(q)}
        problem = partial(AttentionProblem, q, k, v, **shared)
        all_words = None if seen.all() else pack(np.broadcast_to(seen, (len(k), 1, token.keys)))
        contenders = [found, Contender(DENSE, backend, "bfloat16", partial(attend, all_words), problem(keep=seen[None, None]))]
        if token.keep is None:
            return contenders
        words = pack(token.keep)
        if self._method.prediction:
            select, made_of = self._predictor(token, q, slopes)
            contenders.append(Contender(MASK, made_of, "bfloat16" if made_of.endswith(FROM_CACHE) else "float32", select, None))
            words = select() if made_of.endswith(FROM_CACHE) else words  # a list for each KV head where its heads share one
        return [*contenders, Contender(SPARSE, backend, "bfloat16", partial(attend, words), problem(keep=token.keep))]

    def _predictor(self, token: Token, q: Any, slopes: np.ndarray | None) -> tuple[Callable[[], Any], str]:
        """What predicts the kept keys, checked, and its name: from the cache where a kernel does, else from the keys themselves."""
        layer, isa = token.so_far, offered_isa()
        assert token.keep is not None
        name = f"{token.name}: prediction {self._method.name}"
        if self._selection:
            options = {"q_max": layer.q_max, "scale": layer.scale, "slopes": slopes, "threads": self._threads}
            select = partial(self._selection, q, self._cache, **options)
            check_words(select(), token, f"{name}, native {isa}")
            return select, f"native, {isa}, {FROM_CACHE}"
        rows = range(token.keys - 1, token.keys)
        make = partial(self._method.mask, layer, token.window, queries=rows, threads=self._threads)
        mask = make()
        if mask is None or mask.isa is None:
            return partial(self._method.keep_last, layer, token.window), f"numpy, {FROM_KEYS}"
        check_mask(mask.keep(), token.keep, f"{name}, native {mask.isa}")
        return make, f"native, {mask.isa}, {FROM_KEYS}"
