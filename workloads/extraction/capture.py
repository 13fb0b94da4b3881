"""Capture of each layer's Q, K and V while a model runs, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xmsim.workloads.extraction.capture_bloom import bloom_capture
from xmsim.workloads.extraction.capture_interface import interface_capture
from xmsim.workloads.extraction.captured import Sink, Take, layers_seen
from xmsim.workloads.models.loading import LoadedModel

_ADAPTERS = {"bloom": bloom_capture}  # families that keep their own attention


@contextmanager
def capture(loaded: LoadedModel, valid_tokens: Sequence[int], take: Take) -> Iterator[None]:
    """Hand every attention layer of one forward pass, run inside this context, to `take`; then the model is as before.

    Args:
        valid_tokens: of each window of the batch; the rest is padding on the right.
        take: called once a layer, in order, while the model waits.
    Raises:
        ModelError: the family cannot be captured, or not every layer was.
    """
    config = loaded.model.config
    sink = Sink(config, valid_tokens, take)
    if config.is_encoder_decoder:
        raise sink.refuse("it is an encoder and a decoder in one")
    with _ADAPTERS.get(loaded.family, interface_capture)(loaded.model, sink):
        yield
    if sink.layers != config.num_hidden_layers:
        raise sink.refuse(layers_seen(config, sink.layers))
