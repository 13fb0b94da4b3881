"""Attention on the GPU in the shape of a Llama-3-8B layer, beside torch's fastest: checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_timing import Contender, copies_wanted, fastest, speedup, summary, timed_by_turns
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from xmsim.reference.kernels.cuda.attention import live_tiles, sparse_attention
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention

HEADS, KV_HEADS, DIM = 32, 8, 128
PREFILL_TOKENS = (4096, 16384, 32768)
DECODE_TOKENS = (4096, 16384, 32768, 131072)
LIVE_SHARES = (0.1, 0.2, 0.35, 1.0)  # of the tiles at or below the diagonal
DECODE_DENSITY = 0.1
DTYPE = torch.bfloat16
ALLOWED_ERROR = 8e-3
TILE = 64

Run = Callable[[], torch.Tensor]


def torch_attentions(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> dict[str, Run]:
    """torch's attention by each of its backends that takes these operands."""
    found = {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):

        def run(backend: SDPBackend = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return sdpa(q[None], k[None], v[None], is_causal=causal, enable_gqa=True)[0]

        try:
            run()
        except RuntimeError:  # this backend does not serve the shape
            continue
        found[f"torch {backend.name.lower()}"] = run
    return found


def tile_words(heads: int, tokens: int, live: float, device: str) -> torch.Tensor:
    """A causal mask whose tiles at or below the diagonal are whole or dead, at random; int64 [heads, tokens, tokens / 64]."""
    tiles = tokens // TILE
    alive = torch.rand(heads, tiles, tiles, device=device) < live
    alive |= torch.eye(tiles, dtype=torch.bool, device=device)  # every query sees itself
    alive &= torch.ones(tiles, tiles, dtype=torch.bool, device=device).tril()
    words = torch.where(alive, -1, 0).repeat_interleave(TILE, dim=1)
    row = torch.arange(tokens, device=device)
    own = (torch.ones_like(row) << (row % TILE)) - 1 | torch.ones_like(row) << (row % TILE)
    words[:, row, row // TILE] &= own
    return words


def operands(heads: int, kv_heads: int, queries: int, keys: int, device: str) -> tuple[torch.Tensor, ...]:
    """Fresh q, k and v of normal numbers."""
    return tuple(torch.randn(n, t, DIM, device=device).to(DTYPE) for n, t in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))


def judged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The answer in float64, head by head."""
    keys = k.shape[1]
    out = []
    for head in range(len(q)):
        mask = words[head * len(words) // len(q)]
        keep = (mask[:, :, None] >> torch.arange(TILE, device=q.device) & 1).bool().flatten(1)[:, :keys]
        kv_head = head * len(k) // len(q)
        scores = (q[head].double() @ k[kv_head].double().T) * q.shape[2] ** -0.5
        weights = torch.softmax(scores.masked_fill(~keep, -torch.inf), dim=-1).nan_to_num(0.0)
        out.append(weights @ v[kv_head].double())
    return torch.stack(out)


def check_prefill(heads: int, kv_heads: int, tokens: int, live: float, device: str) -> float:
    """The relative error of the tile-skipping kernel; raises where it is too large."""
    q, k, v = operands(heads, kv_heads, tokens, tokens, device)
    words = tile_words(heads, tokens, live, device)
    return _error("prefill", sparse_attention(q, k, v, words), judged(q, k, v, words))


def check_decode(heads: int, kv_heads: int, tokens: int, density: float, device: str) -> float:
    """The relative error of the gathering kernel; raises where it is too large."""
    q, k, v = operands(heads, kv_heads, 1, tokens, device)
    cache, words = _cache(k, v), decode_words(kv_heads, tokens, density, device)
    return _error("decode", decode_attention(q[:, 0].contiguous(), cache, words), judged(q, k, v, words[:, None])[:, 0])


def decode_words(kv_heads: int, tokens: int, density: float, device: str) -> torch.Tensor:
    """Keys that a group keeps, at random; int64 [kv_heads, tokens / 64]."""
    keep = torch.rand(kv_heads, tokens // TILE, TILE, device=device) < density
    return (keep.long() << torch.arange(TILE, device=device)).sum(2)


def measure_prefill(rounds: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a record, the mask given."""
    error = check_prefill(4, 1, 1024, 0.3, "cuda")
    for tokens in PREFILL_TOKENS[:1] if quick else PREFILL_TOKENS:
        q, k, v = operands(HEADS, KV_HEADS, tokens, tokens, "cuda")
        for live in LIVE_SHARES:
            # one mask for the heads of a group, as its words would fill the memory otherwise
            words = tile_words(KV_HEADS, tokens, live, "cuda")
            tiles = live_tiles(words)
            runs = torch_attentions(q, k, v, causal=True)
            runs["own, list given"] = partial(sparse_attention, q, k, v, words, tiles=tiles)
            runs["own, list made"] = partial(sparse_attention, q, k, v, words)
            samples = timed_by_turns([Contender(name, (run,)) for name, run in runs.items()], rounds)
            base = fastest({name: each for name, each in samples.items() if name.startswith("torch")})
            flop = 4 * DIM * TILE**2 * float(tiles.counts.sum()) * HEADS / KV_HEADS
            for name, each in samples.items():
                row = _row("prefill", name, tokens, base, each, samples[base], error)
                yield row | {"live_tiles": live, "live_tflops": flop / row["median_ms"] / 1e9}


def measure_decode(rounds: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a record, the mask given; with own dense on all keys as a control of the code path."""
    error = check_decode(8, 2, 4096, DECODE_DENSITY, "cuda")
    for tokens in DECODE_TOKENS[:2] if quick else DECODE_TOKENS:
        copies = []
        for _ in range(min(copies_wanted(4 * KV_HEADS * tokens * DIM), 16)):
            q, k, v = operands(HEADS, KV_HEADS, 1, tokens, "cuda")
            cache, words, row = _cache(k, v), decode_words(KV_HEADS, tokens, DECODE_DENSITY, "cuda"), q[:, 0].contiguous()
            runs = torch_attentions(q, k, v, causal=False)
            runs["own dense"] = partial(decode_attention, row, cache)
            runs["own sparse"] = partial(decode_attention, row, cache, words)
            copies.append(runs)
        names = list(copies[0])
        samples = timed_by_turns([Contender(name, tuple(runs[name] for runs in copies)) for name in names], rounds)
        base = fastest({name: samples[name] for name in names if name != "own sparse"})
        for name in names:
            row_of = _row("decode", name, tokens, base, samples[name], samples[base], error)
            yield row_of | {"kv_density": DECODE_DENSITY if name == "own sparse" else 1.0}


def _cache(k: torch.Tensor, v: torch.Tensor) -> GpuKvCache:
    cache = GpuKvCache(len(k), DIM, DTYPE, tokens=k.shape[1], device=str(k.device))
    cache.append(k, v)
    return cache


def _row(phase: str, name: str, tokens: int, base: str, samples: list[float], baseline: list[float], error: float) -> dict[str, Any]:
    return {
        "name": f"{phase}, {tokens} tokens: {name}",
        "kernel": name,
        "phase": phase,
        "tokens": tokens,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_dim": DIM,
        "dtype": "bfloat16",
        "baseline": base,
        "error": error,
        **summary(samples),
        **speedup(baseline, samples),
    }


def _error(what: str, out: torch.Tensor, wanted: torch.Tensor) -> float:
    error = float((out.double() - wanted).norm() / wanted.norm())
    if not error <= ALLOWED_ERROR:
        raise SystemExit(f"{what}: error {error:.2e} exceeds {ALLOWED_ERROR}")
    return error
