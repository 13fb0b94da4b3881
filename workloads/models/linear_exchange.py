"""Exchanging the linear layers of a model for those of our kernels, and saying what that did to its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from xmsim.workloads.models.loading import LoadedModel, ModelError

# sparse; sparse with int8 weights; dense, in our kernels' order; sparse by columns, which are skipped where an input is zero; SpInfer's
# tiles; two of four; dense by columns, which are skipped where an input is zero
Format = Literal["bitmap", "bitmap_int8", "packed", "spdp", "tcabme", "2:4", "teal"]


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
        model: any nn.Module, or a LoadedModel, on the CPU or on a GPU, whose layers are then packed and run there; changed in place.
        include, exclude: patterns of module names (`*` stands for anything), e.g. "*.mlp.*"; None includes all and excludes none.
        format: bitmap (zeros are not stored), bitmap_int8 (the rest in int8 with a scale per output), packed (dense), spdp (zeros are
            not stored, and decoding reads no column whose input is zero; `set_thresholds` makes more of them count as zero), tcabme
            (SpInfer's tiles), 2:4 (weights that are pruned so) or teal (dense; decoding reads no column whose input is small). On a GPU
            there are bitmap (which is tcabme), tcabme, spdp, teal and 2:4 (torch's own), on the CPU all but teal.
        dtype: torch dtype of the weights from now on; None: as they are.
    Returns: the same model; `exchanged_layers` lists what was done.
    Raises:
        ModelError: no layer matches, a pattern matches nothing, no such format, or weights that it does not hold.
    """
    network = model.model if isinstance(model, LoadedModel) else model
    exchange_layers(network, linear_layers(network, include=include, exclude=exclude), format, dtype)
    return model


def linear_layers(model: Any, *, include: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None) -> dict[str, Any]:
    """The linear layers of a model that patterns choose, as `sparsify` does: {module name: module}; raises as it."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    kinds = (Linear, Conv1D)
    all_layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds) and not _is_router(module)}
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


def all_layers(model: Any) -> dict[str, Any]:
    """The linear layers of a model, exchanged or not, without the one that makes logits: {module name: module}.

    Raises:
        ModelError: it has none.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    kinds = (Linear, Conv1D, *kernel_kinds().values(), *gpu_kinds().values())
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module is not head and not _is_router(module)
    }
    if not found:
        raise ModelError("the model has no linear layers besides that of its logits")
    return found


def _is_router(module: Any) -> bool:
    """Whether a layer chooses experts: some families make it a kind of nn.Linear, which then puts out more than a product."""
    return type(module).__name__.endswith("Router")


def share_of_experts(model: Any) -> float:
    """The share of a model's weights in matrices of experts that are stacked in one tensor: no linear layers, and never exchanged."""
    linear = all_layers(model)
    stacked = [weight.numel() for name, weight in model.named_parameters() if ".experts." in name and name.rpartition(".")[0] not in linear]
    return sum(stacked) / sum(weight.numel() for weight in model.parameters())


def exchange_layers(model: Any, layers: dict[str, Any], format: Format, dtype: Any = None) -> None:
    """Put a layer of our kernels in the place of each of these, one after the other, so that no more than one is held twice."""
    for name in list(layers):
        try:
            put_layer(model, name, kernel_layer(layers.pop(name), format, dtype))
        except (TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{name} cannot be stored as {format}: {error}") from error


def set_thresholds(layers: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    """Tell layers of format spdp or teal from which magnitude on an input counts when they decode.

    Args:
        layers: {module name: layer}, all of them of such a format.
        thresholds: {module name: magnitude}, as `activation_thresholds` makes them.
    Raises:
        ModelError: a layer without a threshold.
    """
    for name, layer in layers.items():
        if name not in thresholds:
            raise ModelError(f"{name}: no histogram of what this layer reads; extract them with --activations from this model")
        layer.threshold = thresholds[name]


def kernel_layer(layer: Any, format: Format, dtype: Any = None) -> Any:
    """The layer of our kernels that computes what an nn.Linear or a Conv1D computes; raises as `sparsify`."""
    from torch import nn

    if format not in get_args(Format):
        raise ModelError(f"no format {format}; linear layers are stored as {', '.join(get_args(Format))}")
    place, kinds = ("a GPU", gpu_kinds()) if lies_on_gpu(layer) else ("the CPU", kernel_kinds())
    if format not in kinds:
        raise ModelError(f"format {format} does not run on {place}, where the model lies; there are {', '.join(kinds)}")
    if not isinstance(layer, nn.Linear):  # a Conv1D holds its matrix [in, out]
        layer = plain_layer(layer.weight.detach().t().contiguous(), layer.bias)
    return kinds[format].from_linear(layer if dtype is None else layer.to(dtype))


def kernel_kinds() -> dict[str, Any]:
    """The module of each format."""
    from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear, SpdpLinear, TcaBmeLinear, TwoFourLinear

    return {
        "bitmap": SparseLinear,
        "bitmap_int8": Int8SparseLinear,
        "packed": DenseLinear,
        "spdp": SpdpLinear,
        "tcabme": TcaBmeLinear,
        "2:4": TwoFourLinear,
    }


def gpu_kinds() -> dict[str, Any]:
    """The module of each format on a GPU."""
    from xmsim.reference.kernels.cuda.modules import GpuSpdpLinear, GpuTcaBmeLinear, GpuTealLinear, GpuTwoFourLinear

    return {
        "bitmap": GpuTcaBmeLinear,
        "tcabme": GpuTcaBmeLinear,
        "spdp": GpuSpdpLinear,
        "teal": GpuTealLinear,
        "2:4": GpuTwoFourLinear,
    }


def lies_on_gpu(layer: Any) -> bool:
    """Whether a linear layer's weights do."""
    return bool(layer.weight.is_cuda)


def plain_layer(weight: Any, bias: Any) -> Any:
    """An nn.Linear with this matrix [out_features, in_features], in the same memory."""
    from torch import nn

    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = bias
    return plain


def put_layer(model: Any, name: str, layer: Any) -> None:
    """Make this the module of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def restore_layers(model: Any) -> None:
    """Put an nn.Linear with the same weights, in the model's number format, in the place of each layer of ours."""
    for layer in exchanged_layers(model):
        ours = model.get_submodule(layer.name)
        put_layer(model, layer.name, plain_layer(ours.to_dense().to(model.dtype), ours.bias))


def exchanged_layers(model: Any) -> tuple[ExchangedLayer, ...]:
    """The layers of a model that run on our kernels, in the model's order."""
    formats = {kind: name for kinds in (kernel_kinds(), gpu_kinds()) for name, kind in kinds.items()}
    network = model.model if isinstance(model, LoadedModel) else model
    return tuple(
        ExchangedLayer(
            name,
            module.in_features,
            module.out_features,
            formats[type(module)],
            float((module.to_dense() != 0).float().mean()),
            module.nbytes,
            module.in_features * module.out_features * element_bytes(module),
        )
        for name, module in network.named_modules()
        if type(module) in formats
    )


def element_bytes(layer: Any) -> int:
    """Bytes of one stored weight of a layer of ours."""
    if type(layer) in gpu_kinds().values():
        return int(layer.dtype.itemsize)
    packed = layer.packed()
    return int(packed.order.element_bytes if hasattr(packed, "order") else packed.values.itemsize)


def _patterns(patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if patterns is None else (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "none at all"
