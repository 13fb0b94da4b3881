"""What a phase needs of a layer of a trace, and the workloads of a window in it: the prefill is one, decoding is one for each token."""

from __future__ import annotations

from collections.abc import Iterable

from xmsim.traces.store import LayerTrace, Trace
from xmsim.workloads.attention import AttentionWorkload, workload_of
from xmsim.workloads.decode import decode_workloads, with_prefill_scale
from xmsim.workloads.methods.library import Method, StoredMask, stored_mask


def read_for_phase(trace: Trace, layer: int, method: Method, decode_tokens: int | None) -> tuple[LayerTrace, StoredMask | None]:
    """A layer with the scales of the phase, and its mask where the trace holds it.

    Args:
        decode_tokens: the last ones of each window are decoded; None: the prefill, which is all tokens.
    Raises:
        XmsimError: the trace is damaged, or cannot be decoded so far.
    """
    captured = trace.read_layer(layer)
    if decode_tokens is None:
        return captured, stored_mask(trace, method, layer)
    return with_prefill_scale(captured, decode_tokens), None


def phase_workloads(
    layer: LayerTrace, window: int, method: Method, decode_tokens: int | None, stored: StoredMask | None
) -> Iterable[AttentionWorkload]:
    """The workloads of a window, in order; `layer` and `stored` are those of `read_for_phase`, or some KV groups of them.

    Raises:
        XmsimError: the method does not fit the layer.
    """
    if decode_tokens is not None:
        return decode_workloads(layer, window, method, decode_tokens)
    return (workload_of(layer, window, stored.keep(window, layer) if stored else method.keep(layer, window)),)
