"""What is made of a trace's layers and its model once and stored with them: masks of methods, and the nonzero elements of weights."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.reference.kernels.masks import NATIVE, NUMPY
from xmsim.reference.kernels.nonzeros import nonzero_words
from xmsim.traces.bits import pack
from xmsim.traces.store import LayerTrace, Trace
from xmsim.traces.writer import Maker, TraceWriter
from xmsim.workloads.methods.library import Method
from xmsim.workloads.models.linear_exchange import kernel_kinds


def check_storable(methods: Sequence[Method]) -> None:
    """Refuse two methods of one meaning.

    Raises:
        XmsimError: naming them.
    """
    for number, method in enumerate(methods):
        if twin := next((other for other in methods[:number] if other.parameters == method.parameters), None):
            raise XmsimError(f"--masks: {method.name} and {twin.name} keep the same pairs; name one of them")


def store_masks(writer: TraceWriter, trace: Trace, layer: int, methods: Sequence[Method], device: str) -> None:
    """Make and write the masks that a layer of a complete trace lacks, by the kernels of this device.

    Raises:
        XmsimError: a method does not fit the layer.
    """
    missing = [method for method in methods if writer.lacks_mask(layer, method.parameters)]
    if missing:
        captured = trace.read_layer(layer)
        for method in missing:
            words, maker = layer_mask(method, captured, device)
            writer.write_mask(layer, method.name, method.parameters, words, maker)


def layer_mask(method: Method, layer: LayerTrace, device: str = "cpu") -> tuple[npt.NDArray[np.uint64], Maker]:
    """Words of all windows, [windows, heads, queries, ceil(keys / 64)] with zeros where there is padding, and who made them."""
    windows, heads, tokens, _ = layer.q.shape
    words = np.zeros((windows, heads, tokens, -(-tokens // 64)), np.uint64)
    kernel, isa = NUMPY, None
    start = time.perf_counter()
    for window, valid in enumerate(layer.valid_tokens):
        mask = method.mask(layer, window, device=device)
        part = pack(method.keep(layer, window)) if mask is None else mask.words
        words[window, :, :valid, : part.shape[2]] = part
        if mask is not None:
            kernel, isa = mask.kernel, mask.isa
    return words, Maker(kernel, isa, time.perf_counter() - start)


def store_weights(writer: TraceWriter, weights: Mapping[int, Mapping[str, Any]], layer: int) -> None:
    """Write which elements of the weights of a layer are not zero, if the trace lacks it.

    Args:
        weights: those of the model's linear layers, as `linear_weights` gives them.
    Raises:
        XmsimError: there are none of this layer.
    """
    if not writer.lacks_weights(layer):
        return
    if layer not in weights:
        raise XmsimError(f"--weights: layer {layer} of this model holds no linear layers; leave --weights out")
    start = time.perf_counter()
    words = {name: nonzero_words(_as_numpy(weight)) for name, weight in weights[layer].items()}
    in_features = {name: weight.shape[1] for name, weight in weights[layer].items()}
    isa = native.offered_isa()
    writer.write_weights(layer, words, in_features, Maker(NATIVE if isa else NUMPY, isa, time.perf_counter() - start))


def _as_numpy(weight: Any) -> np.ndarray:
    """A matrix of torch's in memory of its own order: float32, or the bits of a 16-bit float."""
    import torch

    own = weight.cpu().contiguous()
    array: np.ndarray = own.numpy() if own.dtype == torch.float32 else own.view(torch.uint16).numpy()
    return array


def linear_weights(model: Any) -> Mapping[int, Mapping[str, Any]]:
    """Weights [out_features, in_features] of the linear layers (GPT-2's Conv1D and ours among them) of each numbered layer, by name."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    packed = tuple(kernel_kinds().values())
    kinds: tuple[Any, ...] = (Linear, Conv1D, *packed)
    found: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules():
        number = re.search(r"\.(\d+)\.", name)
        if number is None or not isinstance(module, kinds):
            continue
        weight: Any = module.to_dense() if isinstance(module, packed) else module.weight.detach()
        found.setdefault(int(number[1]), {})[name] = weight.T if isinstance(module, Conv1D) else weight  # Conv1D holds it [in, out]
    return found
