"""Scores of one head of a trace, as the model computes them before its softmax."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xmsim.traces.store import LayerTrace

Floats = npt.NDArray[np.float32]


def head_bias(layer: LayerTrace, window: int, head: int) -> Floats:
    """What the model adds to the scaled scores; float32 [queries, keys], padding cut off, -inf where a pair is not allowed."""
    allowed = layer.bias.allowed(layer.valid_tokens[window])
    added = np.zeros(len(allowed), np.float32)
    if layer.bias.slopes is not None:
        added = np.float32(layer.bias.slopes[head]) * np.arange(len(allowed), dtype=np.float32)
    return np.where(allowed, added, np.float32(-np.inf))


def head_scores(layer: LayerTrace, window: int, head: int) -> Floats:
    """Scaled and biased scores; float32 [queries, keys], padding cut off, -inf where a pair is not allowed."""
    operands = layer.head(window, head)
    return operands.q @ operands.k.T * np.float32(layer.scale) + head_bias(layer, window, head)
