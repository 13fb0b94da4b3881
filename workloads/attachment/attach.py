"""Attaching a sparsity method to a running model, and taking it off again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xmsim.configs.densities import Densities
from xmsim.workloads.attachment.bloom import attach_to_bloom
from xmsim.workloads.attachment.interface import NAME, attach_through_interface
from xmsim.workloads.attachment.layers import AttachedLayers
from xmsim.workloads.methods.library import Method, load_method
from xmsim.workloads.methods.pair_counts import PairCounts
from xmsim.workloads.models.loading import LoadedModel, ModelError

_ADAPTERS = {"bloom": attach_to_bloom}  # families that keep their own attention


class AttachedMethod:
    """A method that decides which pairs a model's attention computes, until it is detached; made by `attach`."""

    def __init__(self, layers: AttachedLayers, method: Method, undo: ExitStack) -> None:
        self.method = method
        self._layers = layers
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Make the model compute what it computed before; the counts stay. Nothing happens the second time."""
        self._undo.close()

    @property
    def layers(self) -> tuple[PairCounts, ...]:
        """Pairs counted in each layer since the last reset, in the order in which the layers run; none before the first run."""
        return tuple(layer.counts for layer in self._layers.seen)

    def densities(self) -> Densities:
        """Densities over all layers since the last reset; those of one layer are `layers[number].densities()`.

        Raises:
            XmsimError: nothing was run since.
        """
        return sum(self.layers, PairCounts()).densities()

    def reset_counts(self) -> None:
        """Count pairs from zero again."""
        for layer in self._layers.seen:
            layer.reset_counts()


def attach(model: Any, method: Method | str | Path) -> AttachedMethod:
    """Have a method decide which pairs the attention of a model computes; training and generation included.

    A mask is decided on float32 scores, or on predicted ones, and gradients flow through what it keeps. Padding is cut off
    before anything is decided: a window in a padded batch keeps what it keeps alone. New tokens behind a cache are decided
    against the cached keys; predicted scores are then quantised with the scale of the layer's last prefill. Scores are made
    a block of queries at a time, and in training a second time on the way back.

    Args:
        model: a transformers model or a LoadedModel; BLOOM, or any decoder or encoder on transformers' attention interface.
        method: a method, or what `load_method` makes one from.
    Returns: a context manager that detaches at its end; `detach` does so too.
    Raises:
        ModelError: no transformers model, a family that cannot be served (which some turn out to be in their first forward
            pass), or one with a method attached already.
    """
    network = model.model if isinstance(model, LoadedModel) else model
    chosen = method if isinstance(method, Method) else load_method(method)
    config: Any = getattr(network, "config", None)
    if not hasattr(config, "model_type"):
        raise ModelError(f"a method is attached to a transformers model, got {type(network).__name__}; load one with load_model")
    layers = AttachedLayers(config, chosen)
    if config._attn_implementation == NAME:
        raise ModelError(f"{config.model_type}: a method is attached to this model already; detach it first")
    if config.is_encoder_decoder:
        raise layers.refuse("it is an encoder and a decoder in one")
    with ExitStack() as undo:
        _ADAPTERS.get(config.model_type, attach_through_interface)(network, layers, undo)
        undo.callback(network.base_model.register_forward_hook(lambda *_: layers.check_all_seen()).remove)
        return AttachedMethod(layers, chosen, undo.pop_all())


def detach(attached: AttachedMethod) -> None:
    """Make the model compute what it computed before."""
    attached.detach()
