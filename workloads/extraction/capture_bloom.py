"""Capture of BLOOM, which keeps its own attention, through hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from xmsim.traces.manifest import Bias
from xmsim.workloads.extraction.captured import CapturedLayer, Sink


@contextmanager
def bloom_capture(model: Any, sink: Sink) -> Iterator[None]:
    """Hand what every BloomAttention works on to the sink, in the order in which the layers run."""
    from transformers.models.bloom.modeling_bloom import BloomAttention

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, BloomAttention):
                watch = _Watch(module, sink)
                hooks.callback(module.register_forward_pre_hook(watch.see_bias, with_kwargs=True).remove)
                hooks.callback(module.query_key_value.register_forward_hook(watch.see_projection).remove)
        yield


class _Watch:
    """One attention module: its bias is known when it starts, its Q, K and V once they are projected."""

    def __init__(self, attention: Any, sink: Sink) -> None:
        self._attention = attention
        self._sink = sink

    def see_bias(self, attention: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        self._alibi, self._mask = keywords["alibi"], keywords["attention_mask"]

    def see_projection(self, projection: Any, arguments: Any, fused: Any) -> None:
        q, k, v = self._attention._reshape(fused)
        alibi = self._alibi.view(len(q), q.shape[1], 1, -1)  # slope × key position; padding holds zeros
        longest = max(range(len(q)), key=self._sink.valid_tokens.__getitem__)
        self._sink.add(
            CapturedLayer(
                layer=self._sink.layers,
                q=q,
                k=k,
                v=v,
                scale=self._attention.inv_norm_factor,
                bias=Bias("alibi", slopes=tuple(alibi[longest, :, 0, 1].tolist())),
                mask=self._mask,
                alibi=alibi,
            )
        )
