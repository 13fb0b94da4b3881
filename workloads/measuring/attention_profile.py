"""Where the heads of a model look: how spread their attention is, how much falls on sinks and on neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xmsim.traces.store import LayerTrace
from xmsim.workloads.methods.scores import head_scores

FEWEST_KEYS = 16  # rows that may see fewer keys say nothing about spread
SINK_KEYS = 4  # the first keys of a text, onto which models unload attention they have no use for
LOCAL_KEYS = 64  # the last keys a row may see, its own included
FEWEST_TOKENS = 2 * (SINK_KEYS + LOCAL_KEYS)  # of a text, for sinks and neighbours to be apart
SINK_SHARE = 0.3  # of a sink head's attention falls at least so much on the sinks,
LOCAL_SHARE = 0.7  # of a local head's on its neighbours


@dataclass(frozen=True, slots=True)
class HeadProfile:
    """One head of one window; means over its rows, as fractions."""

    layer: int
    head: int
    entropy_ratio: float  # entropy / log of the keys the row may see: 1 is uniform attention
    sink_share: float  # attention on the first SINK_KEYS keys; rows that see more than sinks and neighbours
    local_share: float  # attention on the last LOCAL_KEYS keys; the same rows

    @property
    def kind(self) -> str:
        """sink, local or mixed."""
        if self.sink_share >= SINK_SHARE:
            return "sink"
        return "local" if self.local_share >= LOCAL_SHARE else "mixed"


def attention_profile(layer: LayerTrace, window: int) -> tuple[HeadProfile, ...]:
    """Profiles of the stored heads of a layer.

    Raises:
        ValueError: the window is too short to tell sinks from neighbours.
    """
    tokens = layer.valid_tokens[window]
    if tokens < FEWEST_TOKENS:
        raise ValueError(f"{tokens} tokens are too few for a profile; extract at least {FEWEST_TOKENS}")
    allowed = layer.bias.allowed(tokens)
    return tuple(_head_profile(layer, window, head, allowed) for head in range(len(layer.head_ids)))


def _head_profile(layer: LayerTrace, window: int, head: int, allowed: npt.NDArray[np.bool_]) -> HeadProfile:
    scores = head_scores(layer, window, head).astype(np.float64)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    seen = allowed.sum(axis=1)
    surprise = -np.log(np.where(probabilities > 0, probabilities, 1.0))
    entropy = (probabilities * surprise).sum(axis=1)[seen >= FEWEST_KEYS] / np.log(seen[seen >= FEWEST_KEYS])
    far = seen >= FEWEST_TOKENS
    from_end = seen[:, None] - np.cumsum(allowed, axis=1)  # 0 at the last key a row may see
    return HeadProfile(
        layer=layer.layer,
        head=layer.head_ids[head],
        entropy_ratio=float(entropy.mean()),
        sink_share=float(probabilities[far, :SINK_KEYS].sum(axis=1).mean()),
        local_share=float((probabilities * (allowed & (from_end < LOCAL_KEYS)))[far].sum(axis=1).mean()),
    )
