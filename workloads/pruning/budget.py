"""How the sparsity of a model is shared out over its blocks, from a look at all of them before anything is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from xmsim.configs.errors import XmsimError, nearest
from xmsim.reference.weights import InputSquares, alphapruning, outlier_percent, owl, owl_kept, peak_exponent, uniform, wanda_scores
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.pruning.decoder import StreamedDecoder
from xmsim.workloads.pruning.methods import Target
from xmsim.workloads.pruning.pattern import Pattern, weight_matrix
from xmsim.workloads.pruning.stored import StoredModel


@dataclass(frozen=True, slots=True)
class Budget:
    """A rule for the sparsity of each block.

    `share(stored, decoder, target, **parameters)` gives one sparsity a block, with a pattern one that is a whole number of weights of its
    groups; the decoder's windows stand before the first block if the rule reads inputs.
    """

    name: str
    reads_inputs: bool
    share: Callable[..., list[float]]
    parameters: dict[str, Any] = field(default_factory=dict)


def _uniform(stored: StoredModel, decoder: StreamedDecoder, target: Target) -> list[float]:
    return uniform(len(stored.blocks), sparsity=target.sparsity).tolist()


def _owl(stored: StoredModel, decoder: StreamedDecoder, target: Target, *, spread: float, multiple: float) -> list[float]:
    return owl(_outlier_percents(stored, decoder, multiple), sparsity=target.sparsity, spread=spread).tolist()


def _owl_patterns(stored: StoredModel, decoder: StreamedDecoder, target: Target, *, spread: float, multiple: float) -> list[float]:
    assert target.pattern is not None  # else it is not asked
    block = target.pattern.block
    kept = owl_kept(_outlier_percents(stored, decoder, multiple), kept=target.pattern.kept, block=block, spread=spread)
    return (1 - kept / block).tolist()


def _outlier_percents(stored: StoredModel, decoder: StreamedDecoder, multiple: float) -> list[float]:
    percents = []
    for number, block in _dense_blocks(stored, decoder):
        layers = linear_layers(block)
        sums = decoder.gather(number, InputSquares)
        percents.append(outlier_percent([wanda_scores(weight_matrix(layers[name]), sums[name]) for name in layers], multiple=multiple))
        decoder.advance(number)
    return percents


def _alphapruning(stored: StoredModel, decoder: StreamedDecoder, target: Target, *, spread: float) -> list[float]:
    exponents, weights = [], []
    for _, block in _dense_blocks(stored, decoder):
        matrices = [weight_matrix(layer) for layer in linear_layers(block).values()]
        exponents.append(fmean(peak_exponent(matrix) for matrix in matrices))
        weights.append(sum(matrix.numel() for matrix in matrices))
    return alphapruning(exponents, sparsity=target.sparsity, spread=spread, parameters=weights).tolist()


def _dense_blocks(stored: StoredModel, decoder: StreamedDecoder) -> Iterator[tuple[int, Any]]:
    """Each block with its number while its weights are loaded."""
    for number in range(len(stored.blocks)):
        yield number, decoder.load(number, stored.read(stored.block_names(number)))
        decoder.release(number)


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("uniform", False, _uniform),
        Budget("owl", True, _owl, {"spread": 0.08, "multiple": 5.0}),
        Budget("alphapruning", False, _alphapruning, {"spread": 0.3}),
    )
}


PATTERN_BUDGETS = {  # those that are published for patterns
    "uniform": BUDGETS["uniform"],
    "owl": Budget("owl", True, _owl_patterns, {"spread": 2.0, "multiple": 6.0}),
}


def layer_budget(name: str, pattern: Pattern | None = None) -> Budget:
    """A budget by its name, for a share of the weights or for a pattern.

    Raises:
        XmsimError: no such budget, or it has no rule for patterns.
    """
    if name not in BUDGETS:
        raise XmsimError(f"no budget {name}; {nearest(name, list(BUDGETS))}")
    if pattern is None:
        return BUDGETS[name]
    if name not in PATTERN_BUDGETS:
        raise XmsimError(
            f"budget {name}: gives each block a share of its own, and neither its paper nor its code says how pattern {pattern} follows "
            f"from it; use budget {' or '.join(PATTERN_BUDGETS)}"
        )
    return PATTERN_BUDGETS[name]
