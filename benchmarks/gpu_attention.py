"""Attention on the GPU in the shape of a Llama-3-8B layer, beside torch's fastest: checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import gpu_flex
import numpy as np
import torch
from gpu_rows import Row, WrongResult, one_line
from gpu_shapes import Shapes
from gpu_timing import Contender, copies_wanted, fastest, speedup, summary, timed_by_turns
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from xmsim.reference.kernels.cuda.attention import live_tiles, sparse_attention
from xmsim.reference.kernels.cuda.decode import GpuKvCache, decode_attention
from xmsim.reference.kernels.cuda.decode_batch import GpuKvBatch
from xmsim.reference.kernels.cuda.key_codes import predicted_xm_words
from xmsim.reference.kernels.kv_cache import KvCache
from xmsim.reference.kernels.kv_cache import predicted_xm_words as judged_words

DIM = 128  # channels of a head
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


def torch_attentions(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> tuple[dict[str, Run], list[str]]:
    """torch's attention by each of its backends that takes these operands, and what the others said."""
    found, refusals = {}, []
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):

        def run(backend: SDPBackend = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return sdpa(q[None], k[None], v[None], is_causal=causal, enable_gqa=True)[0]

        name = f"torch {backend.name.lower()}"
        try:
            run()
        except RuntimeError as error:
            refusals.append(f"{name} does not serve {q.shape[1]} queries of {k.shape[1]} keys: {one_line(error)}")
            continue
        found[name] = run
    mask = gpu_flex.causal_mask(q.shape[1], str(q.device)) if causal else None
    return found | {"torch flex_attention": partial(gpu_flex.attend, q, k, v, mask)}, refusals


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


def key_words(masks: int, tokens: int, density: float, device: str) -> torch.Tensor:
    """A causal mask of single keys at random, which neighbouring queries, 64 of them, share; int64 [masks, tokens, ceil(tokens / 64)]."""
    rows, words = -(-tokens // TILE), -(-tokens // TILE)
    shared = torch.rand(masks, rows, words, TILE, device=device) < density
    packed = (shared.long() << torch.arange(TILE, device=device)).sum(3).repeat_interleave(TILE, dim=1)[:, :tokens]
    seen = (torch.arange(tokens, device=device)[:, None] - TILE * torch.arange(words, device=device)).clamp(-1, TILE - 1)
    return packed & torch.where(seen == TILE - 1, -1, (1 << (seen + 1)) - 1)


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
    """The errors of the tile-skipping kernel, each head with a mask of its own; raises where one is too large."""
    q, k, v = operands(heads, kv_heads, tokens, tokens, device)
    words = tile_words(heads, tokens, live, device)
    return _checked("prefill", sparse_attention(q, k, v, words), judged(q, k, v, words))


def check_shared(heads: int, kv_heads: int, tokens: int, density: float, device: str) -> Checked:
    """The errors where heads of a group share a mask of single keys, which another kernel may serve; raises where one is too large."""
    q, k, v = operands(heads, kv_heads, tokens, tokens, device)
    words = key_words(kv_heads, tokens, density, device)
    return _checked("shared masks", sparse_attention(q, k, v, words), judged(q, k, v, words))


def check_decode(heads: int, kv_heads: int, tokens: int, density: float, device: str) -> Checked:
    """The errors of the gathering kernel, for a sequence, and for one of each KV head beside each other; raises where one is too large."""
    q, k, v = operands(heads, kv_heads, 1, tokens, device)
    words, rows = decode_words(kv_heads, tokens, density, device), q[:, 0].contiguous()
    wanted = judged(q, k, v, words[:, None])[:, 0]
    alone = _checked("decode", decode_attention(rows, _cache(k, v), words), wanted)
    beside = decode_attention(rows.unflatten(0, (kv_heads, -1)), _cache(k, v, kv_heads), words[:, None])
    return max(alone, _checked("decode, a batch", beside.flatten(0, 1), wanted))


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
        raise WrongResult(f"prediction, {tokens} tokens: {int(different.sum())} of {kv_heads} lists are not those of the CPU")
    return kept_share(ours.words, tokens)


def kept_share(words: torch.Tensor, tokens: int) -> float:
    """Set bits over keys."""
    bits = words[..., None] >> torch.arange(TILE, device=words.device) & 1
    return float(bits.sum()) / (len(words) * tokens)


def decode_words(kv_heads: int, tokens: int, density: float, device: str) -> torch.Tensor:
    """Keys that a group keeps, at random; int64 [kv_heads, tokens / 64]."""
    keep = torch.rand(kv_heads, tokens // TILE, TILE, device=device) < density
    return (keep.long() << torch.arange(TILE, device=device)).sum(2)


def measure_prefill(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Masks of whole tiles, and of single keys that neighbouring queries share; torch on all of them."""
    errors: dict[str, Checked] = {}
    for name, check, share in (("prefill", check_prefill, 0.3), ("shared masks", check_shared, 0.2)):
        try:
            if name not in left_out:
                errors[name] = check(8, 2, shapes.checked_prefill_tokens, share, device)
        except WrongResult as wrong:
            yield str(wrong)
    for tokens in shapes.prefill_tokens:
        torch.compiler.reset()  # FlexAttention is compiled for each mask, and torch keeps no more than a few of them
        wanted = copies_wanted(2 * DIM * tokens * (shapes.heads + 2 * shapes.kv_heads), shapes.most_copies)
        copies = [operands(shapes.heads, shapes.kv_heads, tokens, tokens, device) for _ in range(wanted)]
        refusals = torch_attentions(*copies[0], causal=True)[1]
        yield from refusals
        dense = [torch_attentions(*each, causal=True)[0] for each in copies]
        for live in shapes.live_shares:
            # one mask for the heads of a group, as its words would fill the memory otherwise
            words = tile_words(shapes.kv_heads, tokens, live, device)
            for row in _prefill_rows(shapes, tokens, f"{live:.0%} of tiles", words, copies, dense, errors):
                yield row | {"live_tiles": live} if isinstance(row, dict) and not row["kernel"].startswith("torch") else row
        for kept in shapes.kept_shares:
            words = key_words(shapes.kv_heads, tokens, kept, device)
            for row in _prefill_rows(shapes, tokens, f"{kept:.0%} of keys", words, copies, dense, errors):
                yield row | {"density": kept} if isinstance(row, dict) and not row["kernel"].startswith("torch") else row


def _prefill_rows(
    shapes: Shapes,
    tokens: int,
    what: str,
    words: torch.Tensor,
    copies: list[tuple[torch.Tensor, ...]],
    dense: list[dict[str, Run]],
    errors: dict[str, Checked],
) -> Iterator[Row]:
    """torch beside our kernels on one mask: its tiles listed before, or in the call, or whatever serves the mask best."""
    runs, flop, checks = [dict(each) for each in dense], 0.0, {}
    if tokens in shapes.flex_tokens:
        mask = gpu_flex.mask_of(words, shapes.heads)
        for run, (q, k, v) in zip(runs, copies, strict=True):
            run["flex_attention, tiles skipped"] = partial(gpu_flex.attend, q, k, v, mask, gpu_flex.MASK_OPTIONS)
    if "prefill" in errors:
        tiles = live_tiles(words)
        flop = 4 * DIM * TILE**2 * float(tiles.counts.sum()) * shapes.heads / shapes.kv_heads
        checks |= dict.fromkeys(("own, list given", "own, list made"), errors["prefill"])
        for run, (q, k, v) in zip(runs, copies, strict=True):
            run["own, list given"] = partial(sparse_attention, q, k, v, words, tiles=tiles)
            run["own, list made"] = lambda q=q, k=k, v=v: sparse_attention(q, k, v, words, tiles=live_tiles(words))
    if "shared masks" in errors:
        checks["own, mask given"] = errors["shared masks"]
        for run, (q, k, v) in zip(runs, copies, strict=True):
            run["own, mask given"] = partial(sparse_attention, q, k, v, words)
    samples, failures = timed_by_turns(_contenders(runs), shapes)
    yield from failures
    base = fastest({name: each for name, each in samples.items() if name.startswith("torch")})
    for name, each in samples.items():
        row = _row("prefill", f"prefill, {tokens} tokens, {what}", name, tokens, shapes, base, each, samples[base], checks.get(name))
        yield row | {"live_tflops": flop / row["median_ms"] / 1e9} if name.startswith("own, list") else row


def measure_decode(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """X:M with its prediction, its two parts alone, and own dense on all keys as a control of the code path; then the same of batches."""
    error, predicts = None, "prediction" not in left_out
    try:
        error = check_decode(8, 2, shapes.checked_decode_tokens, shapes.decode_density, device) if "decode" not in left_out else None
    except WrongResult as wrong:
        yield str(wrong)
    try:
        if predicts:
            check_prediction(8, 2, shapes.checked_decode_tokens, device)
    except WrongResult as wrong:
        yield str(wrong)
        predicts = False
    for sequences, tokens in (*((1, tokens) for tokens in shapes.decode_tokens), *shapes.decode_batches):
        heads, kv_heads = sequences * shapes.heads, sequences * shapes.kv_heads
        copies, densities, refusals = [], [], []
        for _ in range(copies_wanted(4 * kv_heads * tokens * DIM, shapes.most_copies)):
            q, k, v = decode_operands(heads, kv_heads, tokens, device)
            runs, refusals = torch_attentions(q, k, v, causal=False)  # to torch, sequences of one length are more heads
            cache, row = _cache(k, v, sequences), q[:, 0].contiguous()
            words, predict = decode_words(kv_heads, tokens, shapes.decode_density, device), None
            if sequences > 1:
                row, words = row.unflatten(0, (sequences, -1)), words.unflatten(0, (sequences, -1))
            if predicts:
                cache.predict_with(PREDICTION_BITS, k_max=float(k.abs().max()))
                # the queries' largest magnitude is given, as in a model with recorded ones: to ask for it would wait for the GPU
                predict = partial(predicted_xm_words, row, cache, group=PREDICTION_GROUP, q_max=float(row.abs().max()))
                words = predict().words
                runs["own xm, prediction alone"] = lambda predict=predict: predict().words
            if error is not None:
                runs["own dense"] = partial(decode_attention, row, cache)
                runs["own xm, keys given"] = partial(decode_attention, row, cache, words)
                if predict:
                    runs["own xm"] = lambda row=row, cache=cache, predict=predict: decode_attention(row, cache, predict().words)
            densities.append(kept_share(words.flatten(0, -2), tokens))
            copies.append(runs)
        yield from refusals
        samples, failures = timed_by_turns(_contenders(copies), shapes)
        yield from failures
        base = fastest({name: each for name, each in samples.items() if not name.startswith("own xm")})
        for name, each in samples.items():
            what = f"decode, {tokens} tokens" if sequences == 1 else f"decode, {sequences} sequences of {tokens} tokens"
            row_of = _row("decode", what, name, tokens, shapes, base, each, samples[base], error) | {"sequences": sequences}
            yield row_of | {"kv_density": sum(densities) / len(densities) if name.startswith("own xm") else 1.0}


def _contenders(copies: list[dict[str, Run]]) -> list[Contender]:
    return [Contender(name, tuple(runs[name] for runs in copies)) for name in copies[0]]


def _cache(k: torch.Tensor, v: torch.Tensor, sequences: int = 1) -> GpuKvCache | GpuKvBatch:
    """Keys and values [KV heads of all sequences, tokens, DIM] as a cache holds them."""
    if sequences == 1:
        cache = GpuKvCache(len(k), DIM, DTYPE, tokens=k.shape[1], device=str(k.device))
        cache.append(k, v)
        return cache
    batch = GpuKvBatch(sequences, len(k) // sequences, DIM, DTYPE, tokens=k.shape[1], device=str(k.device))
    for i, (keys, values) in enumerate(zip(*(x.unflatten(0, (sequences, -1)) for x in (k, v)), strict=True)):
        batch.begin(i, keys, values)
    return batch


def _row(
    phase: str,
    what: str,
    name: str,
    tokens: int,
    shapes: Shapes,
    base: str,
    samples: list[float],
    baseline: list[float],
    checked: Checked | None,
) -> dict[str, Any]:
    ours = checked._asdict() if checked and name.startswith("own") and not name.endswith("prediction alone") else {}
    return {
        "name": f"{what}: {name}",
        "kernel": name,
        "phase": phase,
        "tokens": tokens,
        "heads": shapes.heads,
        "kv_heads": shapes.kv_heads,
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
        raise WrongResult(f"{what}: error {checked.error:.2e} exceeds {ALLOWED_ERROR}")
    if not checked.largest_error <= checked.allowed_error:
        raise WrongResult(f"{what}: an error of {checked.largest_error:.2e} exceeds {checked.allowed_error:.2e}")
    return checked
