"""Constants of what is a black box to the model: torch's dense baselines, our masks, and calls.

Each is timed at two shapes that no record of ours measures, and the model lays a line through what they took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import c_int, c_int64, c_uint64, c_void_p
from functools import partial
from itertools import cycle, product
from typing import Any

import numpy as np

from xmsim.reference.kernels import native
from xmsim.reference.kernels.attention import sparse_attention
from xmsim.reference.kernels.kv_cache import KvCache, decode_attention, predicted_xm_words
from xmsim.reference.kernels.masks import LowBit, ScoreSource, nm_mask, salo_mask, sanger_mask, xm_mask
from xmsim.workloads.measuring.calibration.core_rates import cache_bytes
from xmsim.workloads.measuring.calibration.record import Constant
from xmsim.workloads.measuring.calibration.sampling import timed_ns

LINEAR_SHAPES = ((1536, 1536), (3072, 6144))  # in, out
LINEAR_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)
PREFILL_TOKENS, PREFILL_HEADS, PREFILL_KV_HEADS = (1024, 2560), 4, 1
DECODE_KEYS, DECODE_KV_HEADS, DECODE_GROUP, DECODE_DIM = (4096, 12288), 8, 4, 128
MASK_TOKENS, MASK_HEADS = (1024, 2560), 4
MASKS: dict[str, Callable[..., Any]] = {
    "xm": partial(xm_mask, block=64, kept_high=16, kept_low=8, threshold_high=1.0, threshold_low=0.1),
    "nm": partial(nm_mask, kept=16, block=64),
    "sanger": partial(sanger_mask, threshold=2e-3),
    "salo": partial(salo_mask, block=64, window=8, global_tokens=1, picks=3, dilation=1),
}
SAMPLES = 7
CALL_SAMPLES = 32
PASSED = {"l3": ("l2", 4), "memory": ("l3", 4)}  # where code and objects of a call are by now: since the last one so much has passed


def whole_call_constants(threads: tuple[int, ...]) -> Iterator[Constant]:
    """All of them; torch's number of threads is put back afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        yield from _calls()
        for count in threads:
            torch.set_num_threads(count)
            yield from _masks(count)
            with torch.inference_mode():
                yield from _linears(count)
                yield from _prefills(count)
                yield from _decodes(count)
    finally:
        torch.set_num_threads(before)


def _calls() -> Iterator[Constant]:
    """What a call costs before its work, of which next to none is there, after other data has passed through the caches: so much that its
    code and its objects are still in L3, or so much that they are in memory again."""
    import torch

    from xmsim.reference.kernels.linear_modules import SparseLinear

    weight, x = torch.randn(32, 32), torch.randn(1, 32)
    layer = SparseLinear.from_weight(weight)
    q = torch.randn(1, 1, 64)
    words = torch.ones(1, 1, 1, dtype=torch.int64)
    cache = KvCache(1, 64, tokens=64)
    cache.append(*(torch.randn(1, 64, 64).bfloat16() for _ in range(2)))
    cache.predict_with(4)
    one = torch.randn(4, 1, 64).bfloat16()
    calls: dict[str, Callable[[], Any]] = {
        "linear": lambda: layer(x),
        "attention": lambda: sparse_attention(q, q, q, words, threads=1),
        "decode": lambda: decode_attention(one, cache, threads=1),
        "prediction": lambda: predicted_xm_words(one, cache, group=2, threads=1),
        "torch linear": lambda: torch.nn.functional.linear(x, weight),
        "torch attention": lambda: torch.nn.functional.scaled_dot_product_attention(q[None], q[None], q[None]),
        "torch operator": lambda: x + x,
    }
    caches = cache_bytes()
    passing = native.huge_empty((_passed_words(caches, "memory"),), np.uint64)
    passing[:] = 1
    read = native.kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
    assert read is not None  # CoreRates said that there are kernels
    with torch.inference_mode():
        for (name, call), level in product(calls.items(), PASSED):
            samples = []
            for _ in range(CALL_SAMPLES):
                read(native.address(passing), _passed_words(caches, level), 1)
                samples.append(timed_ns(call))
            yield Constant.of_samples("call", {"of": name, "from": level}, "call", samples[1:])


def _passed_words(caches: dict[str, int], level: str) -> int:
    """Words of 8 bytes that leave what was in the caches before in this level."""
    emptied, times = PASSED[level]
    return times * caches[emptied] // 8


def _masks(threads: int) -> Iterator[Constant]:
    """Of noise, causal, from q and k; as many threads as torch has."""
    rng = np.random.default_rng(0)
    for tokens, dim, bits in product(MASK_TOKENS, (64, 128), (0, 4)):
        pairs = MASK_HEADS * tokens * (tokens + 1) // 2
        q, k = rng.standard_normal((2, MASK_HEADS, tokens, dim), dtype=np.float32)
        source = ScoreSource(q, k, dim**-0.5, LowBit(group=2, bits=bits) if bits else None)
        for rule, make in MASKS.items():
            of = {"rule": rule, "bits": bits, "head_dim": dim, "tokens": tokens, "threads": threads}
            samples = _samples(partial(make, source), pairs)
            yield Constant.of_samples("mask", of, "pair of query and key", samples)


def _linears(threads: int) -> Iterator[Constant]:
    import torch

    for element, (in_features, out_features) in product(("bfloat16", "float32"), LINEAR_SHAPES):
        dtype = getattr(torch, element)
        copies = 2 * cache_bytes()["l3"] // (in_features * out_features * dtype.itemsize) + 2
        weights = [_in_huge_pages(torch.randn(out_features, in_features), dtype) for _ in range(copies)]
        for tokens in LINEAR_TOKENS:
            x, turns = torch.randn(tokens, in_features).to(dtype), cycle(weights)

            def product_of_next(x: Any = x, turns: Iterator[Any] = turns) -> Any:
                return torch.nn.functional.linear(x, next(turns))

            samples = _samples(product_of_next, in_features * out_features)
            of = {"element": element, "weights": in_features * out_features, "tokens": tokens, "threads": threads}
            yield Constant.of_samples("torch_linear", of, "weight", samples)


def _prefills(threads: int) -> Iterator[Constant]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    for element, dim, tokens in product(("bfloat16", "float32"), (64, 128), PREFILL_TOKENS):
        pairs = PREFILL_HEADS * tokens * (tokens + 1) // 2
        q, k, v = (
            torch.randn(1, heads, tokens, dim).to(getattr(torch, element)) for heads in (PREFILL_HEADS, PREFILL_KV_HEADS, PREFILL_KV_HEADS)
        )
        repeated = [x.repeat_interleave(PREFILL_HEADS, 1) for x in (k, v)]
        ways = (
            _samples(partial(sdpa, q, repeated[0], repeated[1], is_causal=True), pairs),
            _samples(partial(sdpa, q, k, v, is_causal=True, enable_gqa=True), pairs),
        )
        of = {"element": element, "head_dim": dim, "tokens": tokens, "threads": threads}
        yield Constant.of_samples("torch_prefill", of, "pair of query and key", min(ways, key=np.median))


def _decodes(threads: int) -> Iterator[Constant]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q = torch.randn(1, DECODE_KV_HEADS, DECODE_GROUP, DECODE_DIM).bfloat16()
    for keys in DECODE_KEYS:
        copies = cache_bytes()["l3"] // (keys * DECODE_KV_HEADS * DECODE_DIM * 4) + 2
        shape = (1, DECODE_KV_HEADS, keys, DECODE_DIM)
        turns = cycle([tuple(_in_huge_pages(torch.randn(shape), torch.bfloat16) for _ in range(2)) for _ in range(copies)])

        def decode_next(turns: Iterator[Any] = turns) -> Any:
            return sdpa(q, *next(turns))

        samples = _samples(decode_next, DECODE_KV_HEADS * keys)
        yield Constant.of_samples("torch_decode", {"element": "bfloat16", "keys": keys, "threads": threads}, "key of a KV head", samples)


def _samples(call: Callable[[], Any], steps: float) -> list[float]:
    call()
    return [timed_ns(call) / steps for _ in range(SAMPLES)]


def _in_huge_pages(values: Any, dtype: Any) -> Any:
    """A tensor of its own in huge pages, as weights and caches of the measured runs are."""
    import torch

    bits = {2: np.uint16, 4: np.float32}[dtype.itemsize]
    own = torch.from_numpy(native.huge_empty(tuple(values.shape), bits)).view(dtype)
    return own.copy_(values)
