"""Calibrate this host, then measure kernels that the calibration never saw: python benchmarks/host_check.py [--quick] [--out RECORD]

One record: constants, and shapes, sparsities and lengths that are held out from them. On a host that others use too, a core is slower by up
to 1.8 times for a minute, and faster in the next. So constants and runs are measured in several passes over some minutes, and of each the
fastest pass counts: the model speaks of a core that nobody disturbs. With one pass, what drifts (the memory's speed, the clock) is measured
before and after every group of runs and kept instead. Prints how far predictions are off, and keeps these errors, rounded up, as bounds
that later models have to meet. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from ctypes import c_int, c_int64, c_uint64, c_void_p
from dataclasses import replace
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_attention import random_words
from torch.nn.functional import scaled_dot_product_attention as sdpa

from xmsim.accel_models.host.constants import HostConstants
from xmsim.accel_models.host.cross_check import checked
from xmsim.reference.attention import group_sum_scores, predict_scores
from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear, native
from xmsim.reference.kernels.attention import sparse_attention
from xmsim.reference.kernels.kv_cache import KvCache, decode_attention, predicted_xm_words
from xmsim.reference.kernels.masks import LowBit, ScoreSource
from xmsim.reports.cross_check import accuracies
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.calibration.calibrate import calibrate, unsteady
from xmsim.workloads.measuring.calibration.core_rates import MINUTE_GROUP, CoreRates, cache_bytes
from xmsim.workloads.measuring.calibration.record import CalibrationRecord
from xmsim.workloads.measuring.calibration.whole_calls import MASKS
from xmsim.workloads.measuring.decided_again import decided_again
from xmsim.workloads.measuring.host_check_record import (
    DECODE,
    LINEAR,
    MASK,
    PREDICTION,
    PREFILL,
    CrossCheckRecord,
    ErrorBound,
    HostCheckRecord,
    HostRun,
    Minute,
    write_host_check,
)

LINEAR_SHAPES = ((2048, 2048), (4096, 4096), (2048, 8192))  # in, out
LINEAR_TOKENS = (1, 4, 16, 64)
LINEAR_KERNELS = (  # kernel, element, share of zeros
    ("torch", "bfloat16", 0.0),
    ("torch", "float32", 0.0),
    ("dense", "bfloat16", 0.0),
    ("dense", "float32", 0.0),
    ("sparse", "bfloat16", 0.4),
    ("sparse", "bfloat16", 0.8),
    ("sparse", "float32", 0.6),
    ("sparse", "int8", 0.6),
)
PREFILL_TOKENS, PREFILL_HEADS, PREFILL_KV_HEADS, PREFILL_KEPT = (2048, 3072), 4, 1, (4, 8, 24)
DECODE_TOKENS, HEADS, KV_HEADS, HEAD_DIM, DECODE_KEPT = (16384, 24576), 32, 8, 128, 8
MASK_TOKENS, MASK_HEADS, MASK_DIM = 1536, 8, 64
FLUSHED_BYTES = 1 << 27

Call = Callable[[], Any]
Series = tuple[str, str, str, dict[str, Any]]  # operation, kernel, element, shape
Pass = tuple[CalibrationRecord, tuple[HostRun, ...]]


class Check:
    """Runs by turns, between two looks at what drifts."""

    def __init__(self, calibration: CalibrationRecord, rounds: int) -> None:
        self.rates, self.rounds, self.runs = CoreRates(calibration.threads), rounds, list[HostRun]()
        host = HostConstants.of_calibration(calibration)
        of = {"element": "bfloat16", "stored": "whole", "group": MINUTE_GROUP, "words": "few", "from": "l1", "threads": 1}
        self.calibrated_step_ns = host.ns("row", **of)
        words = native.huge_empty((FLUSHED_BYTES // 8,), np.uint64)
        words[:] = 1
        read = native.kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
        assert read is not None
        self.flush: Call = partial(read, native.address(words), len(words), 1)
        self._flushed = words

    def measure(self, threads: int, calls: dict[str, tuple[Series, Call]], *, cold: bool = False) -> None:
        """Time calls by turns and keep them as runs of this minute; cold: caches are emptied before each."""
        torch.set_num_threads(threads)
        before = self.rates.minute(threads)
        samples_ms: dict[str, list[float]] = {name: [] for name in calls}
        with torch.inference_mode():
            for turn in range(-1, self.rounds):
                for name, (_, call) in calls.items():
                    if cold:
                        self.flush()
                    begin = time.perf_counter()
                    call()
                    if turn >= 0:
                        samples_ms[name].append(1e3 * (time.perf_counter() - begin))
        after = self.rates.minute(threads)
        line_ns, step_ns = (sum(pair) / 2 for pair in zip(before, after, strict=True))
        minute = Minute(line_ns, step_ns / self.calibrated_step_ns)
        for name, ((operation, kernel, element, shape), _) in calls.items():
            self.runs.append(HostRun(operation, kernel, element, threads, shape, Timing.of(samples_ms[name]), minute))


def check_linears(check: Check, threads: tuple[int, ...], quick: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for in_features, out_features in LINEAR_SHAPES[:1] if quick else LINEAR_SHAPES:
        weight, order = (make(out_features, in_features, generator=generator) for make in (torch.randn, torch.rand))
        with torch.inference_mode():
            layers = {kind: layer_copies(kind, weight, order) for kind in LINEAR_KERNELS}
        for count, tokens in product(threads, LINEAR_TOKENS[:2] if quick else LINEAR_TOKENS):
            x = torch.randn(tokens, in_features, generator=generator)
            calls = {}
            for kind, turns in layers.items():
                kernel, element, sparsity = kind
                shape = {"in_features": in_features, "out_features": out_features, "tokens": tokens, "sparsity": sparsity}
                given = x if element == "float32" else x.bfloat16()
                calls[str(kind)] = ((LINEAR, kernel, element, shape), partial(call_next, turns, given))
            check.measure(count, calls)


def layer_copies(kind: tuple[str, str, float], weight: torch.Tensor, order: torch.Tensor) -> Iterator[Call]:
    """So many copies of a layer that none is in a cache when its turn comes; each was called once, as packed weights are looked at then."""
    kernel, element, sparsity = kind
    kept = torch.where(order < sparsity, 0, weight)

    def make() -> tuple[Call, int]:
        if kernel == "torch":
            dtype = getattr(torch, element)
            own = torch.from_numpy(native.huge_empty(tuple(kept.shape), np.float32 if element == "float32" else np.uint16)).view(dtype)
            own.copy_(kept)
            return lambda x: torch.nn.functional.linear(x, own), own.numel() * own.element_size()
        form = {"dense": DenseLinear, "sparse": Int8SparseLinear if element == "int8" else SparseLinear}[kernel]
        layer = form.from_weight(kept.bfloat16() if element == "bfloat16" else kept)
        return layer, layer.nbytes

    first, nbytes = make()
    copies = [first, *(make()[0] for _ in range(2 * cache_bytes()["l3"] // nbytes + 1))]
    x = torch.zeros(1, weight.shape[1], dtype=torch.float32 if element == "float32" else torch.bfloat16)
    for copy in copies:
        copy(x)
    return cycle(copies)


def call_next(turns: Iterator[Call], x: torch.Tensor) -> Any:
    return next(turns)(x)


def check_prefills(check: Check, threads: tuple[int, ...], quick: bool) -> None:
    heads = {"heads": PREFILL_HEADS, "kv_heads": PREFILL_KV_HEADS}
    for tokens in PREFILL_TOKENS[:1] if quick else PREFILL_TOKENS:
        masks = {kept: random_words(PREFILL_HEADS, tokens, kept) for kept in (PREFILL_KEPT[:1] if quick else PREFILL_KEPT)}
        for count, dim, element in product(threads, (64, 128), ("bfloat16", "float32")):
            q, k, v = (torch.randn(n, tokens, dim).to(getattr(torch, element)) for n in (PREFILL_HEADS, PREFILL_KV_HEADS, PREFILL_KV_HEADS))
            shape = heads | {"tokens": tokens, "head_dim": dim}
            repeated = [x.repeat_interleave(PREFILL_HEADS, 0)[None] for x in (k, v)]
            ways = (
                partial(sdpa, q[None], repeated[0], repeated[1], is_causal=True),
                partial(sdpa, q[None], k[None], v[None], is_causal=True, enable_gqa=True),
            )
            torch.set_num_threads(count)
            calls: dict[str, tuple[Series, Call]] = {"torch": ((PREFILL, "torch", element, shape | {"kept": 64}), fastest(ways))}
            for kept, words in masks.items():
                calls[f"{kept} of 64"] = (
                    (PREFILL, "sparse", element, shape | {"kept": kept}),
                    partial(sparse_attention, q, k, v, words),
                )
            check.measure(count, calls)


def fastest(ways: tuple[Call, ...]) -> Call:
    def best_s(way: Call) -> float:
        spent = []
        for _ in range(3):
            begin = time.perf_counter()
            way()
            spent.append(time.perf_counter() - begin)
        return min(spent)

    return min(ways, key=best_s)


def check_decodes(check: Check, threads: tuple[int, ...], quick: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for tokens in DECODE_TOKENS[:1] if quick else DECODE_TOKENS:
        q, k, v = (
            torch.randn(n, t, HEAD_DIM, generator=generator).bfloat16() for n, t in ((HEADS, 1), (KV_HEADS, tokens), (KV_HEADS, tokens))
        )
        cache = KvCache(KV_HEADS, HEAD_DIM, tokens=tokens)
        cache.append(k, v)
        cache.predict_with(4)
        own_k, own_v = (torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) for x in (cache.k, cache.v))
        chosen = np.random.default_rng(0).random((KV_HEADS, tokens // 64, 64)).argsort(axis=-1) < DECODE_KEPT
        words = np.packbits(chosen.reshape(KV_HEADS, 1, tokens), axis=-1, bitorder="little").view(np.uint64)
        shape = {"tokens": tokens, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
        grouped = q.view(1, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
        density = float(chosen.mean())
        weights = group_sum_scores(
            predict_scores(*(x.float().numpy() for x in (q, k)), group=2, bits=4, scale=HEAD_DIM**-0.5), kv_heads=KV_HEADS
        )[:, 0]
        again = decided_again(weights, kept_high=16, kept_low=8, threshold_high=1.0, threshold_low=0.1)
        calls: dict[str, tuple[Series, Call]] = {
            "torch": ((DECODE, "torch", "bfloat16", shape | {"kv_density": 1.0}), partial(sdpa, grouped, own_k[None], own_v[None])),
            "dense": ((DECODE, "dense", "bfloat16", shape | {"kv_density": 1.0}), partial(decode_attention, q, cache)),
            "sparse": ((DECODE, "sparse", "bfloat16", shape | {"kv_density": density}), partial(decode_attention, q, cache, words)),
            "predicted": (
                (PREDICTION, "xm", "bfloat16", shape | {"bits": 4, "classified_again": again.classified, "ranked_again": again.ranked}),
                partial(predicted_xm_words, q, cache, group=2),
            ),
        }
        for count in threads:
            check.measure(count, calls, cold=True)


def check_masks(check: Check, threads: tuple[int, ...], quick: bool) -> None:
    q, k = np.random.default_rng(1).standard_normal((2, MASK_HEADS, MASK_TOKENS, MASK_DIM), dtype=np.float32)
    shape = {"tokens": MASK_TOKENS, "heads": MASK_HEADS, "kv_heads": MASK_HEADS, "head_dim": MASK_DIM}
    calls = {}
    for (rule, make), bits in product(list(MASKS.items())[: 1 if quick else None], (0, 4)):
        source = ScoreSource(q, k, MASK_DIM**-0.5, LowBit(group=2, bits=bits) if bits else None)
        calls[f"{rule} {bits}"] = ((MASK, rule, "float32", shape | {"bits": bits}), partial(make, source))
    for count in threads:
        check.measure(count, calls)


def one_pass(quick: bool) -> Pass:
    """Calibrate, then measure everything once."""
    begin = time.perf_counter()
    calibration = calibrate()
    for constant in unsteady(calibration):
        print(f"unsteady: {constant.name} {constant.of}: {constant.first_quartile_ns:.3g} to {constant.third_quartile_ns:.3g} ns")
    print(f"calibrated in {time.perf_counter() - begin:.0f} s")
    threads = tuple(reversed(calibration.threads))
    torch.set_num_threads(threads[0])
    cores = os.sched_getaffinity(0)
    native.pin_threads(threads[0])
    check = Check(calibration, rounds=3 if quick else 9)
    for part in (check_decodes, check_linears, check_prefills, check_masks):
        part(check, threads, quick)
        print(f"{part.__name__}: {len(check.runs)} runs after {time.perf_counter() - begin:.0f} s", flush=True)
    os.sched_setaffinity(0, cores)  # the next calibration chooses for itself
    return calibration, tuple(check.runs)


def fastest_of(passes: list[Pass]) -> Pass:
    """Of each constant and of each run that of the fastest pass; what its minute was like no longer matters."""
    first = passes[0][0]
    constants = {}
    for constant in (one for calibration, _ in passes for one in calibration.constants):
        place = (constant.name, json.dumps(constant.of, sort_keys=True))
        if place not in constants or constant.median_ns < constants[place].median_ns:
            constants[place] = constant
    runs = {}
    for run in (one for _, measured in passes for one in measured):
        place = (run.operation, run.kernel, run.element, run.threads, json.dumps(run.shape, sort_keys=True))
        if place not in runs or run.timing.median_ms < runs[place].timing.median_ms:
            runs[place] = replace(run, minute=Minute(None, None))
    return replace(first, constants=tuple(constants.values())), tuple(runs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument("--passes", type=int, default=7, help="over calibration and runs, of which the fastest counts")
    parser.add_argument("--out", type=Path, help="keep calibration and runs as a record")
    arguments = parser.parse_args()
    passes = []
    for number in range(arguments.passes):
        passes.append(one_pass(arguments.quick))
        print(f"pass {number + 1} of {arguments.passes}", flush=True)
    calibration, measured = passes[0] if len(passes) == 1 else fastest_of(passes)
    constants = HostConstants.of_calibration(calibration)
    runs = tuple(one for run in measured for one in checked(constants, run, "this check"))
    found = accuracies(CrossCheckRecord(constants.name, True, calibration.host, runs, ()))
    bounds = {}
    for accuracy in found:
        print(accuracy)
        if accuracy.series == "all":
            bounds[accuracy.constants] = ErrorBound(*(math.ceil(100 * error) / 100 for error in (accuracy.mean, accuracy.p95)))
    if arguments.out:
        write_host_check(arguments.out, HostCheckRecord(calibration, measured, bounds))


if __name__ == "__main__":
    main()
