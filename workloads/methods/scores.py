"""Scores of one head of a trace, as the model computes them before its softmax, or as low-bit hardware predicts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xmsim.reference.attention import predict_scores
from xmsim.reference.kernels.masks import LowBit, ScoreSource
from xmsim.traces.store import LayerTrace

Floats = npt.NDArray[np.float32]
_TILE_QUERIES = 256  # a product of other shape may round differently, so a part of the queries is cut from the same tiles


def head_bias(layer: LayerTrace, window: int, head: int, queries: range | None = None) -> Floats:
    """What the model adds to the scaled scores; float32 [queries, keys], padding cut off, -inf where a pair is not allowed.

    `queries` are consecutive ones of the window; None means all, here and below.
    """
    rows = queries or range(layer.valid_tokens[window])
    allowed = layer.bias.allowed(layer.valid_tokens[window])[rows.start : rows.stop]
    added = np.zeros(allowed.shape[1], np.float32)
    if layer.bias.slopes is not None:
        added = np.float32(layer.bias.slopes[head]) * np.arange(allowed.shape[1], dtype=np.float32)
    return np.where(allowed, added, np.float32(-np.inf))


def head_scores(layer: LayerTrace, window: int, head: int, queries: range | None = None) -> Floats:
    """Scaled and biased scores; float32 [queries, keys], padding cut off, -inf where a pair is not allowed."""
    operands = layer.head(window, head)
    rows = queries or range(len(operands.q))
    first = rows.start // _TILE_QUERIES * _TILE_QUERIES
    with np.errstate(over="ignore", invalid="ignore"):  # the method refuses infinite scores, and NaN, in a sentence
        tiles = [operands.q[at : at + _TILE_QUERIES] @ operands.k.T for at in range(first, rows.stop, _TILE_QUERIES)]
        products = np.concatenate(tiles)[rows.start - first : rows.stop - first]
        return products * np.float32(layer.scale) + head_bias(layer, window, head, rows)


def predicted_head_scores(
    layer: LayerTrace, window: int, head: int, queries: range, *, group: int, bits: int, scale_per_head: bool
) -> Floats:
    """Scores as low-bit hardware predicts them, biased; float32 [queries, keys], -inf where a pair is not allowed.

    The quantisation scale is that of the whole layer, all its windows and heads, or that of the head over all windows.
    """
    operands = layer.head(window, head)
    q_max, k_max = layer.q_max, layer.k_max
    if scale_per_head:
        kv_head = head // (layer.q.shape[1] // layer.k.shape[1])
        q_max, k_max = (float(np.abs(x).max()) for x in (layer.q[:, head], layer.k[:, kv_head]))
    predicted = predict_scores(
        operands.q[None, queries.start : queries.stop],
        operands.k[None],
        group=group,
        bits=bits,
        scale=layer.scale,
        q_max=q_max,
        k_max=k_max,
    )
    return predicted[0] + head_bias(layer, window, head, queries)


def holds_all(layer: LayerTrace, heads: Sequence[int]) -> bool:
    """Whether these are all heads of a layer, in their order."""
    return list(heads) == list(range(layer.q.shape[1]))


def score_source(layer: LayerTrace, window: int, heads: Sequence[int], queries: range, prediction: LowBit | None) -> ScoreSource:
    """What the scores of some heads and consecutive queries of a window are made from, padding cut off."""
    tokens, share = layer.valid_tokens[window], layer.q.shape[1] // layer.k.shape[1]
    q, k = layer.q[window, :, queries.start : queries.stop], layer.k[window, :, :tokens]
    slopes = None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32)
    if not holds_all(layer, heads):  # each with a copy of the keys it reads
        q, k = q[list(heads)], k[[head // share for head in heads]]
        slopes = None if slopes is None else slopes[list(heads)]
    return ScoreSource(
        q=q,
        k=k,
        scale=layer.scale,
        prediction=prediction,
        causal=layer.bias.kind != "none",
        window=layer.bias.window,
        slopes=slopes,
        query_offset=queries.start,
    )
