"""How many of a model's weights are zero."""

from __future__ import annotations

from typing import Any

from xmsim.workloads.models.linear_exchange import all_layers


def weight_sparsity(model: Any) -> float:
    """Share of zeros among the weights of a model's linear layers, plain or of our kernels; that of the logits is left out."""
    zeros = everything = 0
    for layer in all_layers(model).values():
        weight = layer.to_dense() if hasattr(layer, "to_dense") else layer.weight
        zeros += int((weight == 0).sum())
        everything += weight.numel()
    return zeros / everything
