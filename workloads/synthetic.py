"""Synthetic attention with a seed: scores, and operands whose scores are alike.

The recipe `sink_local` is that of the golden masks (`llm` there): 1.5 × noise of standard normal law, a peak of 4 on the diagonal that
fades by e every 16 keys, and 6 on the first key, the sink. Its noise is independent from pair to pair, which a real model's is not: it
has neither heavy-hitter keys nor heads that differ, so it keeps more pairs than a language model of the same length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xmsim.workloads.attention import AttentionOperands

Floats = npt.NDArray[np.float32]

NOISE, LOCAL, REACH, SINK = 1.5, 4.0, 16, 6.0


def sink_local_scores(heads: int, tokens: int, *, seed: int, causal: bool) -> Floats:
    """Scores as a softmax takes them, float32 [heads, tokens, tokens]; -inf above the diagonal if causal."""
    position = np.arange(tokens)
    near = (LOCAL * np.exp(-np.abs(position[:, None] - position) / REACH)).astype(np.float32)
    sink = (SINK * (position == 0)).astype(np.float32)
    scores = np.random.default_rng(seed).standard_normal((heads, tokens, tokens), dtype=np.float32)
    scores *= np.float32(NOISE)
    scores += near + sink
    if causal:
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
    return scores


def sink_local_operands(heads: int, tokens: int, head_dim: int, *, seed: int, kv_heads: int | None = None) -> AttentionOperands:
    """Operands whose scores q·k/√d follow the recipe as far as their rank allows; kv_heads defaults to heads.

    One channel makes the sink, exactly. Half of the channels turn with position, as rotary embeddings do, at quantiles of the Cauchy
    law, whose cosines add up to the fading peak; with d = 64 they miss it by 0.5 (root mean square over 512 keys). The rest are noise.
    Values are standard normal.

    Raises:
        ValueError: head_dim is below 8, or the heads do not divide over the KV heads.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if head_dim < 8:
        raise ValueError(f"head_dim: {head_dim} channels are too few for sink, position and noise; at least 8")
    if heads % kv_heads:
        raise ValueError(f"kv_heads: {heads} query heads do not divide over {kv_heads}")
    random = np.random.default_rng(seed)
    frequencies = head_dim // 4
    free = head_dim - 1 - 2 * frequencies
    spread = (NOISE**2 * head_dim / free) ** 0.25
    q, k = (random.standard_normal((count, tokens, head_dim), dtype=np.float32) * np.float32(spread) for count in (heads, kv_heads))
    v = random.standard_normal((kv_heads, tokens, head_dim), dtype=np.float32)
    quantiles = (np.arange(frequencies) + 0.5) / frequencies
    angles = np.arange(tokens)[:, None] * np.tan(np.pi / 2 * quantiles) / REACH
    turning = np.sqrt(LOCAL * np.sqrt(head_dim) / frequencies) * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    level = np.sqrt(SINK * np.sqrt(head_dim))  # shared evenly, so that neither factor has an outlier
    for factor in (q, k):
        factor[..., free : head_dim - 1] = turning
    q[..., -1] = level
    k[..., -1] = level * (np.arange(tokens) == 0)
    return AttentionOperands(q, k, v, head_dim**-0.5)
