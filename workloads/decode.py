"""Decoding: the last tokens of a trace as workloads of one query each, on a cache that grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import AttentionWorkload, workload_of
from xmsim.workloads.methods.library import Method


def with_prefill_scale(layer: LayerTrace, tokens: int) -> LayerTrace:
    """The layer with the quantisation maxima of its prefill: those of all but the last `tokens` tokens of each window.

    A decoder has fixed its scales by then, so later values beyond them clamp. Of a trace that holds some of the model's heads, the
    maxima are those of the heads it holds.

    Raises:
        XmsimError: the model is an encoder, or a window has no token left for the prefill.
    """
    refuse_undecodable(layer.layer, layer.bias, layer.valid_tokens, tokens)
    q_max, k_max = (
        max(float(np.abs(operand[window, :, : valid - tokens]).max()) for window, valid in enumerate(layer.valid_tokens))
        for operand in (layer.q, layer.k)
    )
    return replace(layer, q_max=q_max, k_max=k_max)


def refuse_undecodable(layer: int, bias: Bias, valid_tokens: Sequence[int], tokens: int) -> None:
    """Raises as `with_prefill_scale`, from what a manifest says of the layer."""
    if bias.kind == "none":
        raise XmsimError(f"layer {layer}: every token sees every other, so the model does not decode; simulate its prefill alone")
    for window, valid in enumerate(valid_tokens):
        if tokens >= valid:
            raise XmsimError(
                f"--decode {tokens}: window {window} has {valid} tokens and the prefill needs one of them; decode at most {valid - 1}"
            )


def decode_workloads(layer: LayerTrace, window: int, method: Method, tokens: int) -> Iterator[AttentionWorkload]:
    """A workload of one query for each of the last `tokens` tokens of a window; the first sees the keys of the prefill and its own.

    The mask of a token is what the method gives when that query alone exists, on the keys so far. `layer` holds the maxima of its
    prefill (`with_prefill_scale`).

    Raises:
        XmsimError: the method does not fit the layer, or wants more of the prefill than its maxima.
    """
    valid = layer.valid_tokens[window]
    for keys in range(valid - tokens + 1, valid + 1):
        so_far = replace(layer, valid_tokens=(*layer.valid_tokens[:window], keys, *layer.valid_tokens[window + 1 :]))
        yield workload_of(so_far, window, method.keep_last(so_far, window))
