"""Attaching activation sparsity (TEAL, WINA) to a model: small inputs of its linear layers become zero while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xmsim.reference.activations import sparsified, threshold_keep
from xmsim.reference.activations.keep import has_nan
from xmsim.workloads.attachment.activation_policies import Policy, first_half_dense
from xmsim.workloads.models.loading import LoadedModel, ModelError

Thresholds = Mapping[str, Any]  # {module name: a magnitude (TEAL), or a tensor with one for each input channel (WINA)}


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """Inputs that a layer read from tokens that are sparsified; those of dense tokens are left out."""

    name: str
    weights: int  # in_features × out_features: what a dropped share of the inputs is a share of
    inputs: int
    kept: int

    @property
    def density(self) -> float:
        """Kept inputs / inputs; 1 where no token was sparsified yet."""
        return self.kept / self.inputs if self.inputs else 1.0


@dataclass(slots=True, eq=False)
class AttachedActivations:
    """What became of the inputs of each layer so far."""

    position: int = 0  # in the sequence, of the first token of the running forward pass
    _weights: dict[str, int] = field(default_factory=dict)
    _inputs: dict[str, int] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)  # counted on the model's device, so that it need not be waited for

    @property
    def layers(self) -> tuple[LayerInputs, ...]:
        """One for each layer that thresholds were given for."""
        return tuple(LayerInputs(name, self._weights[name], self._inputs[name], int(self._kept[name])) for name in self._weights)

    @property
    def sparsity(self) -> float:
        """Share of the products of these layers that is left out, on tokens that are sparsified."""
        layers = self.layers
        return sum((1 - layer.density) * layer.weights for layer in layers) / sum(layer.weights for layer in layers)


@contextmanager
def attach_activation_sparsity(model: Any, thresholds: Thresholds, *, policy: Policy = first_half_dense) -> Iterator[AttachedActivations]:
    """Inside this block the linear layers of a model read zeros where their inputs are at or below a threshold.

    Attention methods and layers of our kernels may be in the model at the same time; afterwards it is what it was.

    Args:
        model: any nn.Module, or a LoadedModel.
        thresholds: as `activation_thresholds` and `wina_channel_thresholds` make them; layers without one stay dense.
        policy: which tokens stay dense all the same.
    Raises:
        ModelError: no thresholds, one that is NaN, or a name that is no module with in_features and out_features (or a Conv1D).
    """
    network = model.model if isinstance(model, LoadedModel) else model
    attached = AttachedActivations()
    layers = {name: _layer(network, name, threshold) for name, threshold in thresholds.items()}
    if not layers:
        raise ModelError("no activation threshold was given; take them from the histograms of this model")
    handles = [getattr(network, "base_model", network).register_forward_pre_hook(_position_taker(attached), with_kwargs=True)]
    for name, layer in layers.items():
        attached._weights[name] = weights_of(layer)
        attached._inputs[name], attached._kept[name] = 0, 0
        handles.append(layer.register_forward_pre_hook(_sparsifier(attached, name, thresholds[name], policy)))
    try:
        yield attached
    finally:
        for handle in handles:
            handle.remove()


def _layer(network: Any, name: str, threshold: Any) -> Any:
    if has_nan(threshold):
        raise ModelError(f"{name}: its activation threshold is NaN; take it from a histogram")
    try:
        layer = network.get_submodule(name)
        weights_of(layer)
    except AttributeError as error:
        raise ModelError(f"{name}: the model has no linear layer of this name; the thresholds are of another model") from error
    return layer


def weights_of(layer: Any) -> int:
    """in_features × out_features, of a Conv1D too, which has neither name."""
    return int(layer.in_features * layer.out_features if hasattr(layer, "in_features") else layer.weight.shape[0] * layer.nf)


def _position_taker(attached: AttachedActivations) -> Callable[..., None]:
    def take(_: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        attached.position = 0 if cache is None else cache.get_seq_length()

    return take


def _sparsifier(attached: AttachedActivations, name: str, threshold: Any, policy: Policy) -> Callable[..., tuple[Any, ...]]:
    def sparsify_inputs(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        keep = threshold_keep(x, threshold=threshold)
        dense = policy(keep.new_zeros((x.shape[-2], 1)), attached.position)  # [tokens, 1]: policies know tokens, not channels
        attached._inputs[name] += x.numel() // x.shape[-2] * int((~dense).sum())
        attached._kept[name] += (keep & ~dense).sum()
        return (sparsified(x, keep | dense), *args[1:])

    return sparsify_inputs
