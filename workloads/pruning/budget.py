"""How the sparsity of a model is shared out over its blocks, from a look at all of them before anything is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from xmsim.configs.errors import XmsimError, nearest
from xmsim.reference.weights import InputSquares, alphapruning, outlier_percent, owl, peak_exponent, uniform, wanda_scores
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.pruning.decoder import StreamedDecoder
from xmsim.workloads.pruning.pattern import weight_matrix
from xmsim.workloads.pruning.stored import StoredModel


@dataclass(frozen=True, slots=True)
class Budget:
    """A rule for the sparsity of each block.

    `share(stored, decoder, sparsity, **parameters)` gives one sparsity a block; the decoder's windows stand before the first block if
    the rule reads inputs.
    """

    name: str
    reads_inputs: bool
    share: Callable[..., list[float]]
    parameters: dict[str, Any] = field(default_factory=dict)


def _uniform(stored: StoredModel, decoder: StreamedDecoder, sparsity: float) -> list[float]:
    return uniform(len(stored.blocks), sparsity=sparsity).tolist()


def _owl(stored: StoredModel, decoder: StreamedDecoder, sparsity: float, *, spread: float, multiple: float) -> list[float]:
    percents = []
    for number, block in _dense_blocks(stored, decoder):
        layers = linear_layers(block)
        sums = decoder.gather(number, InputSquares)
        percents.append(outlier_percent([wanda_scores(weight_matrix(layers[name]), sums[name]) for name in layers], multiple=multiple))
        decoder.advance(number)
    return owl(percents, sparsity=sparsity, spread=spread).tolist()


def _alphapruning(stored: StoredModel, decoder: StreamedDecoder, sparsity: float, *, spread: float) -> list[float]:
    exponents, weights = [], []
    for _, block in _dense_blocks(stored, decoder):
        matrices = [weight_matrix(layer) for layer in linear_layers(block).values()]
        exponents.append(fmean(peak_exponent(matrix) for matrix in matrices))
        weights.append(sum(matrix.numel() for matrix in matrices))
    return alphapruning(exponents, sparsity=sparsity, spread=spread, parameters=weights).tolist()


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


def layer_budget(name: str) -> Budget:
    """A budget by its name.

    Raises:
        XmsimError: no such budget.
    """
    if name not in BUDGETS:
        raise XmsimError(f"no budget {name}; {nearest(name, list(BUDGETS))}")
    return BUDGETS[name]
