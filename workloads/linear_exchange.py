"""Exchanging the linear layers of a model for those of our kernels, and saying what that did to its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from xmsim.workloads.models import LoadedModel, ModelError

Format = Literal["bitmap", "bitmap_int8", "packed"]  # sparse; sparse with int8 weights; dense, in our kernels' order


@dataclass(frozen=True, slots=True)
class ExchangedLayer:
    """A linear layer that runs on our kernels."""

    name: str
    in_features: int
    out_features: int
    format: str
    density: float  # share of weights that are not zero
    weight_bytes: int  # as stored now
    dense_bytes: int  # as a plain matrix of the same number format


def sparsify(
    model: Any,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    format: Format = "bitmap",
    dtype: Any = None,
) -> Any:
    """Exchange every nn.Linear (and GPT-2's Conv1D) of a model for a layer of our kernels; its zeros are what is saved.

    Nothing is pruned here: the output stays what it was, within rounding. The layer that makes logits is exchanged only if `include`
    names it.

    Args:
        model: any nn.Module, or a LoadedModel; changed in place.
        include, exclude: patterns of module names (`*` stands for anything), e.g. "*.mlp.*"; None includes all and excludes none.
        format: bitmap (zeros are not stored), bitmap_int8 (the rest in int8 with a scale per output), or packed (dense).
        dtype: torch dtype of the weights from now on; None: as they are.
    Returns: the same model; `exchanged_layers` lists what was done.
    Raises:
        ModelError: no layer matches, a pattern matches nothing, or no such format.
    """
    network = model.model if isinstance(model, LoadedModel) else model
    exchange_layers(network, linear_layers(network, include=include, exclude=exclude), format, dtype)
    return model


def linear_layers(model: Any, *, include: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None) -> dict[str, Any]:
    """The linear layers of a model that patterns choose, as `sparsify` does: {module name: module}; raises as it."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    all_layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)}
    included, excluded = _patterns(include), _patterns(exclude)
    for pattern in (*included, *excluded):
        if not any(fnmatchcase(name, pattern) for name in all_layers):
            raise ModelError(f"pattern {pattern}: no linear layer of this model has such a name; they are {_some(list(all_layers))}")
    chosen = {
        name: module
        for name, module in all_layers.items()
        if (_matches(name, included) if included else module is not head) and not _matches(name, excluded)
    }
    if not chosen:
        raise ModelError("no linear layer of the model is left to exchange; widen include or narrow exclude")
    return chosen


def exchange_layers(model: Any, layers: dict[str, Any], format: Format, dtype: Any = None) -> None:
    """Put a layer of our kernels in the place of each of these, one after the other, so that no more than one is held twice."""
    for name in list(layers):
        put_layer(model, name, kernel_layer(layers.pop(name), format, dtype))


def kernel_layer(layer: Any, format: Format, dtype: Any = None) -> Any:
    """The layer of our kernels that computes what an nn.Linear or a Conv1D computes; raises as `sparsify`."""
    from torch import nn

    from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear

    kinds = {"bitmap": SparseLinear, "bitmap_int8": Int8SparseLinear, "packed": DenseLinear}
    if format not in kinds:
        raise ModelError(f"no format {format}; linear layers are stored as {', '.join(get_args(Format))}")
    if not isinstance(layer, nn.Linear):  # a Conv1D holds its matrix [in, out]
        plain = nn.Linear(*layer.weight.shape, bias=layer.bias is not None, device="meta", dtype=layer.weight.dtype)
        plain.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
        plain.bias = layer.bias
        layer = plain
    return kinds[format].from_linear(layer if dtype is None else layer.to(dtype))


def put_layer(model: Any, name: str, layer: Any) -> None:
    """Make this the module of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def exchanged_layers(model: Any) -> tuple[ExchangedLayer, ...]:
    """The layers of a model that run on our kernels, in the model's order."""
    from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear

    formats = {SparseLinear: "bitmap", Int8SparseLinear: "bitmap_int8", DenseLinear: "packed"}
    network = model.model if isinstance(model, LoadedModel) else model
    return tuple(
        ExchangedLayer(
            name,
            module.in_features,
            module.out_features,
            formats[type(module)],
            float((module.to_dense() != 0).float().mean()),
            module.nbytes,
            module.in_features * module.out_features * module.values.element_size(),
        )
        for name, module in network.named_modules()
        if type(module) in formats
    )


def _patterns(patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if patterns is None else (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "none at all"
