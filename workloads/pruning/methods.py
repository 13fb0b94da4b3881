"""The pruning methods that go through a model layer by layer: what each needs to know of a layer's inputs, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xmsim.configs.errors import XmsimError, nearest
from xmsim.reference.weights import (
    InputProducts,
    InputSquares,
    Pruned,
    admm,
    apply_keep,
    magnitude_keep,
    sparsegpt,
    wanda_alpha_keep,
    wanda_keep,
)
from xmsim.workloads.pruning.pattern import Pattern

Sums = InputSquares | InputProducts


@dataclass(frozen=True, slots=True)
class Target:
    """How much of a layer goes: a share of its weights or, with a pattern, what the pattern says."""

    sparsity: float
    pattern: Pattern | None = None
    layer: str | None = None  # as transformers calls the module; None: all layers

    def with_share(self, sparsity: float, layer: str) -> Target:
        """The target of one layer, with the sparsity that a budget gives it; of a pattern, as many weights of each group."""
        pattern = None if self.pattern is None else Pattern(round((1 - sparsity) * self.pattern.block), self.pattern.block)
        return Target(sparsity, pattern, layer)

    @property
    def arguments(self) -> dict[str, Any]:
        """As the methods of `reference.weights` are asked."""
        return {"sparsity": self.sparsity} if self.pattern is None else {"kept": self.pattern.kept, "block": self.pattern.block}


@dataclass(frozen=True, slots=True)
class LayerMethod:
    """A method that prunes one linear layer at a time.

    `prune(weight, sums, target, **parameters)` gets a torch matrix [out, in] and what was gathered of the layer's inputs.
    """

    name: str
    gathers: type[Sums] | None  # None: inputs do not matter
    prune: Callable[..., Pruned]
    parameters: dict[str, Any] = field(default_factory=dict)
    takes_pattern: bool = True


def _magnitude(weight: Any, sums: Sums | None, target: Target) -> Pruned:
    keep = magnitude_keep(weight, **target.arguments)
    return Pruned(apply_keep(weight, keep), keep)


def _wanda(weight: Any, sums: Sums | None, target: Target) -> Pruned:
    keep = wanda_keep(weight, sums, **target.arguments)
    return Pruned(apply_keep(weight, keep), keep)


def _wanda_alpha(weight: Any, sums: Sums | None, target: Target) -> Pruned:
    keep = wanda_alpha_keep(weight, sums, sparsity=target.sparsity)
    return Pruned(apply_keep(weight, keep), keep)


def _sparsegpt(weight: Any, sums: Sums | None, target: Target, **parameters: Any) -> Pruned:
    return sparsegpt(weight, sums, **target.arguments, **parameters)


def _admm(weight: Any, sums: Sums | None, target: Target, **parameters: Any) -> Pruned:
    return admm(weight, sums, **target.arguments, **parameters)


METHODS = {
    method.name: method
    for method in (
        LayerMethod("magnitude", None, _magnitude),
        LayerMethod("wanda", InputSquares, _wanda),
        LayerMethod("wanda_alpha", InputSquares, _wanda_alpha, takes_pattern=False),
        LayerMethod("sparsegpt", InputProducts, _sparsegpt, {"columns": 128, "damping": 0.01}),
        LayerMethod("admm", InputProducts, _admm, {"iterations": 20, "mask_iterations": 15}),
    )
}
TRAINED = "proxsparse"  # the method that is no LayerMethod: it trains the whole model


def layer_method(name: str) -> LayerMethod:
    """A method by its name.

    Raises:
        XmsimError: no such method.
    """
    if name not in METHODS:
        raise XmsimError(f"no pruning method {name}; {nearest(name, [*METHODS, TRAINED])}")
    return METHODS[name]
