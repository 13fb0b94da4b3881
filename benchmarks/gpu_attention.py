"""Attention on the GPU in the shape of a Llama-3-8B layer, beside torch's fastest: checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu_timing import Contender, copies_wanted, fastest, speedup, summary, timed_by_turns
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from xmsim.reference.kernels.cuda.attention import live_tiles, sparse_attention
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention
from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words
from xmsim.reference.kernels.kv_cache import KvCache
from xmsim.reference.kernels.kv_cache import predicted_xm_words as judged_words

HEADS, KV_HEADS, DIM = 32, 8, 128
PREFILL_TOKENS = (4096, 16384, 32768)
DECODE_TOKENS = (4096, 16384, 32768, 131072)
LIVE_SHARES = (0.1, 0.2, 0.35, 1.0)  # of the tiles at or below the diagonal
DECODE_DENSITY = 0.1
DTYPE = torch.bfloat16
ALLOWED_ERROR = 8e-3  # relative
ALLOWED_SHARE = 2.0**-6  # of the largest number, of any one
TILE = 64
PREDICTION_BITS, PREDICTION_GROUP = 4, 2

Run = Callable[[], torch.Tensor]


class Checked(NamedTuple):
    """How far a kernel is from float64."""

    error: float  # relative, of all numbers
    largest_error: float
    allowed_error: float  # the bound of the latter


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


def decode_operands(heads: int, kv_heads: int, tokens: int, device: str) -> tuple[torch.Tensor, ...]:
    """q, k and v of one token: keys are noise with a direction that some blocks have more of, so that X:M keeps about a tenth of them."""
    direction = torch.nn.functional.normalize(torch.randn(kv_heads, 1, DIM, device=device), dim=-1) * DIM**0.5
    share = torch.randn(kv_heads, tokens // TILE, 1, device=device).repeat_interleave(TILE, 1)
    k = torch.randn(kv_heads, tokens, DIM, device=device) + 0.25 * share * direction
    v = torch.randn(kv_heads, tokens, DIM, device=device)
    q = 0.7 * torch.randn(heads, 1, DIM, device=device) + 0.7 * direction.repeat_interleave(heads // kv_heads, 0)
    return q.to(DTYPE), k.to(DTYPE), v.to(DTYPE)


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


def check_prefill(heads: int, kv_heads: int, tokens: int, live: float, device: str) -> Checked:
    """The errors of the tile-skipping kernel; raises where one is too large."""
    q, k, v = operands(heads, kv_heads, tokens, tokens, device)
    words = tile_words(heads, tokens, live, device)
    return _checked("prefill", sparse_attention(q, k, v, words), judged(q, k, v, words))


def check_decode(heads: int, kv_heads: int, tokens: int, density: float, device: str) -> Checked:
    """The errors of the gathering kernel; raises where one is too large."""
    q, k, v = operands(heads, kv_heads, 1, tokens, device)
    cache, words = _cache(k, v), decode_words(kv_heads, tokens, density, device)
    return _checked("decode", decode_attention(q[:, 0].contiguous(), cache, words), judged(q, k, v, words[:, None])[:, 0])


def check_prediction(heads: int, kv_heads: int, tokens: int, device: str) -> float:
    """The share of the keys that prediction keeps; raises where it keeps others than the CPU's does."""
    q, k, v = decode_operands(heads, kv_heads, tokens, device)
    cache, judge = _cache(k, v), KvCache(kv_heads, DIM, tokens=tokens)
    judge.append(k.cpu(), v.cpu())
    for one in (cache, judge):
        one.predict_with(PREDICTION_BITS)
    ours = predicted_xm_words(q[:, 0].contiguous(), cache, group=PREDICTION_GROUP)
    wanted = judged_words(q.cpu(), judge, group=PREDICTION_GROUP)[:, 0]
    different = (ours.words.cpu().numpy().view(np.uint64) != wanted).any(axis=1) & (ours.doubtful.cpu().numpy() == 0)
    if different.any():
        raise SystemExit(f"prediction, {tokens} tokens: {int(different.sum())} of {kv_heads} lists are not those of the CPU")
    return kept_share(ours.words, tokens)


def kept_share(words: torch.Tensor, tokens: int) -> float:
    """Set bits over keys."""
    bits = words[..., None] >> torch.arange(TILE, device=words.device) & 1
    return float(bits.sum()) / (len(words) * tokens)


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
                if name.startswith("own"):
                    row |= {"live_tiles": live, "live_tflops": flop / row["median_ms"] / 1e9}
                yield row


def measure_decode(rounds: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a record: X:M with its prediction, its two parts alone, and own dense on all keys as a control of the code path."""
    error = check_decode(8, 2, 4096, DECODE_DENSITY, "cuda")
    check_prediction(8, 2, 4096, "cuda")
    for tokens in DECODE_TOKENS[:2] if quick else DECODE_TOKENS:
        copies, densities = [], []
        for _ in range(min(copies_wanted(4 * KV_HEADS * tokens * DIM), 16)):
            q, k, v = decode_operands(HEADS, KV_HEADS, tokens, "cuda")
            cache, row = _cache(k, v), q[:, 0].contiguous()
            cache.predict_with(PREDICTION_BITS)
            # the queries' largest magnitude is given, as in a model with recorded ones: to ask for it would wait for the GPU
            predict = partial(predicted_xm_words, row, cache, group=PREDICTION_GROUP, q_max=float(row.abs().max()))
            words = predict().words
            densities.append(kept_share(words, tokens))
            runs = torch_attentions(q, k, v, causal=False)
            runs["own dense"] = partial(decode_attention, row, cache)
            runs["own xm"] = lambda row=row, cache=cache, predict=predict: decode_attention(row, cache, predict().words)
            runs["own xm, prediction alone"] = lambda predict=predict: predict().words
            runs["own xm, keys given"] = partial(decode_attention, row, cache, words)
            copies.append(runs)
        names = list(copies[0])
        samples = timed_by_turns([Contender(name, tuple(runs[name] for runs in copies)) for name in names], rounds)
        base = fastest({name: samples[name] for name in names if not name.startswith("own xm")})
        for name in names:
            row_of = _row("decode", name, tokens, base, samples[name], samples[base], error)
            yield row_of | {"kv_density": sum(densities) / len(densities) if name.startswith("own xm") else 1.0}


def _cache(k: torch.Tensor, v: torch.Tensor) -> GpuKvCache:
    cache = GpuKvCache(len(k), DIM, DTYPE, tokens=k.shape[1], device=str(k.device))
    cache.append(k, v)
    return cache


def _row(phase: str, name: str, tokens: int, base: str, samples: list[float], baseline: list[float], checked: Checked) -> dict[str, Any]:
    ours = checked._asdict() if name.startswith("own") and not name.endswith("prediction alone") else {}
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
        **ours,
        **summary(samples),
        **speedup(baseline, samples),
    }


def _checked(what: str, out: torch.Tensor, wanted: torch.Tensor) -> Checked:
    difference = out.double() - wanted
    checked = Checked(float(difference.norm() / wanted.norm()), float(difference.abs().max()), ALLOWED_SHARE * float(wanted.abs().max()))
    if not checked.error <= ALLOWED_ERROR:
        raise SystemExit(f"{what}: error {checked.error:.2e} exceeds {ALLOWED_ERROR}")
    if not checked.largest_error <= checked.allowed_error:
        raise SystemExit(f"{what}: an error of {checked.largest_error:.2e} exceeds {checked.allowed_error:.2e}")
    return checked
