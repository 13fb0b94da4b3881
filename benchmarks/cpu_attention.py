"""Sparse attention against the fastest torch SDPA and our own dense kernel: python benchmarks/cpu_attention.py [--quick] [--out RECORD]

Prefill: 4096 tokens, causal, the mask given; masks keep so many random keys of every 64, as N:M and X:M do. Decode: one query against a
cache of 32768 tokens in the shape of a Llama-3-8B layer; keys are noise with a direction that some blocks have more of, so that X:M
prediction keeps about a tenth of them. Contenders run by turns in one process, bound to cores; before each decode step more than the last
cache is read. Ratios are taken round by round, and given as median and quartiles. torch is what is fastest of grouped heads, repeated
heads, and (decode) the heads of a group as queries of one. Goals: prefill at a density of an eighth faster than torch; X:M decode with
its prediction 2 times as fast as torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from ctypes import c_int, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import FORMAT, VERSION
from torch.nn.functional import scaled_dot_product_attention as sdpa

from xmsim.configs.codec import encode
from xmsim.configs.record import write_record
from xmsim.reference.kernels import native
from xmsim.reference.kernels.attention import sparse_attention
from xmsim.reference.kernels.kv_cache import KvCache, decode_attention, predicted_xm_words
from xmsim.reference.kernels.pruned_kv_cache import PrunedKvCache, pruned_decode_attention
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.host import describe_host

TORCH, DENSE = "torch sdpa", "own dense"
HEADS, KV_HEADS = 32, 8
PREFILL_HEADS, PREFILL_KV_HEADS, PREFILL_TOKENS = 4, 1, 4096
FLUSHED_BYTES = 1 << 27
XM, XM_BY_HEAD = "xm, 4-bit prediction, group lists", "xm, 4-bit prediction, head lists"

Call = Callable[[], Any]


def measure_prefill(*, rounds: int = 11, quick: bool = False) -> list[dict[str, Any]]:
    """Rows of a record: one for each head dimension, number format and density."""
    rows = []
    masks = {kept: random_words(PREFILL_HEADS, PREFILL_TOKENS, kept) for kept in ((8,) if quick else (2, 4, 8, 16))}
    allowed = PREFILL_HEADS * PREFILL_TOKENS * (PREFILL_TOKENS + 1) // 2
    for head_dim in (128,) if quick else (64, 128):
        for dtype in (torch.bfloat16, torch.float32):
            q, k, v = (
                torch.randn(heads, PREFILL_TOKENS, head_dim).to(dtype) for heads in (PREFILL_HEADS, PREFILL_KV_HEADS, PREFILL_KV_HEADS)
            )
            torch_name, dense = _fastest(
                {
                    "repeated heads": lambda q=q, k=k, v=v: sdpa(q[None], *(_repeated(x, len(q)) for x in (k, v)), is_causal=True),
                    "grouped heads": lambda q=q, k=k, v=v: sdpa(q[None], k[None], v[None], is_causal=True, enable_gqa=True),
                }
            )
            calls: dict[str, Call] = {TORCH: dense}
            for kept, words in masks.items():
                calls[f"{kept} of 64"] = lambda q=q, k=k, v=v, words=words: sparse_attention(q, k, v, words)
            samples_ms = _timed_by_turns(calls, rounds)
            densities = {f"{kept} of 64": int(np.bitwise_count(words).sum()) / allowed for kept, words in masks.items()}
            for name, samples in samples_ms.items():
                rows.append(
                    _row(name, "prefill", dtype, head_dim, samples, samples_ms)
                    | {"tokens": PREFILL_TOKENS, "density": densities.get(name, 1.0), "torch": torch_name}
                )
    return rows


def measure_decode(*, rounds: int = 25, quick: bool = False) -> list[dict[str, Any]]:
    """Rows of a record: one for each contender; prediction and attention apart and together."""
    tokens, head_dim = 8192 if quick else 32768, 128
    q, k, v = _decode_operands(tokens, head_dim)
    cache = KvCache(KV_HEADS, head_dim, tokens=tokens)
    cache.append(k, v)
    cache.predict_with(4)
    pruned = PrunedKvCache(KV_HEADS, head_dim, k_sparsity=0.3, v_sparsity=0.5)
    pruned.append(k, v)
    k, v = (torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) for x in (cache.k, cache.v))  # in huge pages, as ours
    repeated = tuple(_repeated(x, HEADS) for x in (k, v))
    torch_name, dense = _fastest(
        {
            "group as queries": lambda: sdpa(q.view(1, KV_HEADS, HEADS // KV_HEADS, head_dim), k[None], v[None]),
            "grouped heads": lambda: sdpa(q[None], k[None], v[None], enable_gqa=True),
            "repeated heads": lambda: sdpa(q[None], *repeated),
        }
    )
    words = {lists: predicted_xm_words(q, cache, group=2, lists=lists) for lists in ("group_sum", "head")}
    calls: dict[str, Call] = {
        TORCH: dense,
        DENSE: lambda: decode_attention(q, cache),
        XM: lambda: decode_attention(q, cache, predicted_xm_words(q, cache, group=2)),
        f"{XM}: prediction": lambda: predicted_xm_words(q, cache, group=2),
        f"{XM}: attention": lambda: decode_attention(q, cache, words["group_sum"]),
        XM_BY_HEAD: lambda: decode_attention(q, cache, predicted_xm_words(q, cache, group=2, lists="head")),
        "pruned, K 0.3, V 0.5": lambda: pruned_decode_attention(q, pruned),
    }
    by_group = np.bitwise_or.reduce(words["head"].reshape(KV_HEADS, -1, *words["head"].shape[1:]), axis=1)
    kept_by_name = {XM: words["group_sum"], XM_BY_HEAD: by_group}
    densities = {name: int(np.bitwise_count(kept).sum()) / (KV_HEADS * tokens) for name, kept in kept_by_name.items()}
    samples_ms = _timed_by_turns(calls, rounds, flush=_cache_flusher())
    cache_bytes = cache.k.nbytes + cache.v.nbytes
    return [
        _row(name, "decode", torch.bfloat16, head_dim, samples, samples_ms)
        | {"tokens": tokens, "kv_density": densities.get(name.split(":")[0], 1.0), "torch": torch_name}
        | {"cache_bytes": pruned.nbytes if name.startswith("pruned") else cache_bytes}
        for name, samples in samples_ms.items()
    ]


def random_words(heads: int, tokens: int, kept: int) -> np.ndarray:
    """A causal mask that keeps `kept` random ones of every 64 keys, packed."""
    rng = np.random.default_rng(0)
    words = np.empty((heads, tokens, tokens // 64), np.uint64)
    causal = np.tri(tokens, dtype=bool)
    for head in range(heads):
        order = rng.random((tokens, tokens // 64, 64), dtype=np.float32)
        keep = order <= np.partition(order, kept - 1, axis=-1)[..., kept - 1 : kept]
        words[head] = np.packbits(keep.reshape(tokens, tokens) & causal, axis=-1, bitorder="little").view(np.uint64)
    return words


def _decode_operands(tokens: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(KV_HEADS, 1, head_dim, generator=generator), dim=-1) * head_dim**0.5
    share = torch.randn(KV_HEADS, tokens // 64, 1, generator=generator).repeat_interleave(64, 1)
    k = torch.randn(KV_HEADS, tokens, head_dim, generator=generator) + 0.25 * share * direction
    v = torch.randn(KV_HEADS, tokens, head_dim, generator=generator)
    q = 0.7 * torch.randn(HEADS, 1, head_dim, generator=generator) + 0.7 * direction.repeat_interleave(HEADS // KV_HEADS, 0)
    return q.bfloat16(), k.bfloat16(), v.bfloat16()


def _repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.repeat_interleave(heads // len(x), 0)[None]


def _fastest(calls: dict[str, Call]) -> tuple[str, Call]:
    def best_ms(call: Call) -> float:
        return min(_milliseconds(call) for _ in range(4))

    name = min(calls, key=lambda name: best_ms(calls[name]))
    return name, calls[name]


def _cache_flusher() -> Call:
    read = native.kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
    if read is None:
        raise SystemExit("benchmarks/cpu_attention.py needs the compiled kernels; install xmsim where a C++ compiler is")
    words = native.huge_empty((FLUSHED_BYTES // 8,), np.uint64)
    words[:] = 1
    return lambda: read(native.address(words), len(words), torch.get_num_threads())


def _milliseconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def _timed_by_turns(calls: dict[str, Call], rounds: int, flush: Call = lambda: None) -> dict[str, list[float]]:
    samples_ms: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, call in calls.items():
            flush()
            elapsed_ms = _milliseconds(call)
            if turn >= 0:
                samples_ms[name].append(elapsed_ms)
    return samples_ms


def _row(
    name: str, phase: str, dtype: torch.dtype, head_dim: int, samples: list[float], all_samples: dict[str, list[float]]
) -> dict[str, Any]:
    bases = [base for base in (TORCH, DENSE) if base in all_samples]
    ratios = {f"times_as_fast_as_{base.replace(' ', '_')}": _ratio(all_samples[base], samples) for base in bases}
    shape = {"dtype": str(dtype).removeprefix("torch."), "head_dim": head_dim, "threads": torch.get_num_threads()}
    return {"name": name, "phase": phase} | shape | encode(Timing.of(samples)) | ratios


def _ratio(base_ms: list[float], samples_ms: list[float]) -> dict[str, float]:
    """How many times as fast, round by round."""
    first, median, third = np.quantile(np.array(base_ms) / np.array(samples_ms), [0.25, 0.5, 0.75])
    return {"median": float(median), "first_quartile": float(first), "third_quartile": float(third)}


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'':8}{'dtype':>9}{'d':>4} {'threads':>7}  {'':45}{'density':>7} {'median ms':>9}  {'x own dense':>17}  {'x torch':>17}")
    for row in rows:
        found = [row.get(f"times_as_fast_as_{base}") for base in ("own_dense", "torch_sdpa")]
        ratios = ["{median:5.2f} ({first_quartile:4.2f}-{third_quartile:4.2f})".format(**ratio) if ratio else "" for ratio in found]
        density = row.get("density", row.get("kv_density"))
        name = f"{row['name']}, {row['torch']}" if row["name"] == TORCH else row["name"]
        print(
            f"{row['phase']:8}{row['dtype']:>9}{row['head_dim']:>4} {row['threads']:>7}  {name:45}{density:7.3f} {row['median_ms']:9.2f}"
            f"  {ratios[0]:>17}  {ratios[1]:>17}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer densities, a shorter cache, fewer rounds")
    parser.add_argument("--out", type=Path, help="keep the rows as a record")
    arguments = parser.parse_args()
    host = describe_host()
    rows = []
    for threads in range(min(2, host.cores), 0, -1):  # the most first: binding a thread narrows what its process may use
        torch.set_num_threads(threads)
        native.default_threads()  # shares torch's threads, before they are bound
        native.pin_threads(threads)
        part = measure_prefill(rounds=5 if arguments.quick else 11, quick=arguments.quick)
        part += measure_decode(rounds=7 if arguments.quick else 25, quick=arguments.quick)
        print_rows(part)
        rows += part
    if arguments.out:
        write_record(arguments.out, FORMAT, VERSION, {"host": encode(host), "runs": rows})


if __name__ == "__main__":
    main()
