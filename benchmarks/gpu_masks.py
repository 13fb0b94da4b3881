"""X:M masks of low-bit scores on the GPU: checked against the CPU's bit by bit, then timed beside dense attention of the same layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from gpu_attention import DIM, operands, torch_attentions
from gpu_rows import Row, WrongResult
from gpu_shapes import Shapes
from gpu_timing import Contender, fastest, speedup, summary, timed_by_turns

from xmsim.reference.attention.torch_integers import largest_magnitude
from xmsim.reference.kernels.cuda import masks
from xmsim.reference.kernels.masks import Factors, LowBit, Rule, ScoreSource, xm_mask

PREDICTIONS = (LowBit(2, 4), LowBit(4, 6))  # channels of which a query keeps one, and bits
PARAMETERS = {"block": 64, "kept_high": 16, "kept_low": 8, "threshold_high": 1.0, "threshold_low": 0.1}


def check(heads: int, kv_heads: int, tokens: int) -> int:
    """Rows of masks that equal the CPU's in every bit; raises where one does not."""
    rows = 0
    for prediction in PREDICTIONS:
        q, k, _ = (x.float().cpu().numpy() for x in operands(heads, kv_heads, tokens, tokens, "cpu"))
        source = ScoreSource(q, k, DIM**-0.5, prediction)
        ours, wanted = xm_mask(source, device="cuda", **PARAMETERS), xm_mask(source, **PARAMETERS)
        if ours.kernel != "cuda" or (ours.words != wanted.words).any():
            raise WrongResult(
                f"xm mask, 1:{prediction.group} {prediction.bits} bits, {tokens} tokens: made by {ours.kernel}, not the CPU's bits"
            )
        rows += heads * tokens
    return rows


def measure(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """From codes that are there to words and counts."""
    if "masks" in left_out:
        yield "masks are not timed, as their check failed"
        return
    rows_checked = check(4, 1, shapes.checked_mask_tokens)
    for tokens in shapes.mask_tokens:
        q, k, v = operands(shapes.heads, shapes.kv_heads, tokens, tokens, device)
        runs, refusals = torch_attentions(q, k, v, causal=True)
        yield from refusals
        kept: dict[str, Any] = {}
        for prediction in PREDICTIONS:
            name = f"own xm mask, 1:{prediction.group} {prediction.bits} bits"
            source = ScoreSource(q.float().cpu().numpy(), k.float().cpu().numpy(), DIM**-0.5, prediction)
            tops = (largest_magnitude(x.float()) for x in (q, k))
            codes = masks.make_codes(q.float(), k.float(), source, Factors.of(source, *tops))
            rule = Rule.of_xm(0, tokens, **PARAMETERS)
            runs[name] = lambda codes=codes, rule=rule: masks.rule_mask(codes, rule).words
            kept[name] = int(masks.rule_mask(codes, rule).kept.sum())
        samples, failures = timed_by_turns([Contender(name, (run,)) for name, run in runs.items()], shapes)
        yield from failures
        base = fastest({name: each for name, each in samples.items() if name.startswith("torch")})
        for name in kept:
            if name in samples:
                yield {
                    "name": f"mask, {tokens} tokens: {name}",
                    "kernel": name,
                    "phase": "mask",
                    "tokens": tokens,
                    "heads": shapes.heads,
                    "kv_heads": shapes.kv_heads,
                    "head_dim": DIM,
                    "dtype": "int8",
                    "baseline": base,
                    "rows_checked": rows_checked,
                    "density": kept[name] / (shapes.heads * tokens * (tokens + 1) / 2),
                    **summary(samples[name]),
                    **speedup(samples[base], samples[name]),
                }
