"""Capture through transformers' attention interface.

Attention is replaced by name: a function in AttentionInterface, and under the same name the mask builder of the eager path
in AttentionMaskInterface, for without one transformers builds no mask at all and causal models silently see the future. The
function repeats the eager arithmetic in the same order, so the logits are those of the eager model to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xmsim.traces.manifest import Bias
from xmsim.workloads.extraction.captured import CapturedLayer, Sink

_NAME = "xmsim_capture"
# keywords through which some families change their scores in ways that a trace does not record, and what they are
UNRECORDED = {
    "position_bias": "a position bias",
    "softcap": "a softcap",
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "a choice of keys of its own",
    "block_indices": "a choice of keys of its own",
}
_SINK: ContextVar[Sink] = ContextVar("xmsim_capture_sink")  # the function itself is global, so it holds no state


@contextmanager
def interface_capture(model: Any, sink: Sink) -> Iterator[None]:
    """Hand what every attention module works on to the sink.

    Raises:
        ModelError: the family does not use the interface, or changes its scores in ways that a trace does not record.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    if not model._can_set_attn_implementation():  # setting it would log a warning and do nothing
        raise sink.refuse("it does not use transformers' attention interface")
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    token = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(token)
        model.set_attn_implementation(before)


def _attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **keywords: Any,
) -> tuple[Any, None]:
    """Attention as transformers calls it. Probabilities are not returned: nobody asks, and they are the largest tensor."""
    sink = _SINK.get()
    for name, cause in UNRECORDED.items():
        if keywords.get(name) is not None:
            raise sink.refuse(f"layer {sink.layers} changes its scores through {cause}")
    captured = CapturedLayer(
        layer=sink.layers,
        q=query,
        k=key,
        v=value,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        bias=_bias(module, attention_mask, keywords.get("sliding_window"), sink),
        mask=attention_mask,
    )
    sink.add(captured)
    return captured.output(), None


def _bias(module: Any, mask: Any, window: Any, sink: Sink) -> Bias:
    """What the module says its mask is; the sink checks that the mask agrees."""
    if mask is None and getattr(module, "is_causal", False):
        raise sink.refuse(f"layer {sink.layers} is causal and was given no mask")
    if isinstance(window, int) and window > 0:
        return Bias("sliding_window", window=window)
    return Bias("none") if sink.allows(mask, Bias("none")) else Bias("causal")
