"""Patterns such as 2:4: how they are written, and whether weights obey one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.errors import XmsimError
from xmsim.workloads.models.linear_exchange import linear_layers
from xmsim.workloads.pruning.record import PRUNING_NAME, read_pruning


@dataclass(frozen=True, slots=True)
class Pattern:
    """At most `kept` of every `block` consecutive inputs of an output have a weight."""

    kept: int
    block: int

    @property
    def sparsity(self) -> float:
        """The share of weights that it takes away."""
        return 1 - self.kept / self.block

    def __str__(self) -> str:
        return f"{self.kept}:{self.block}"


def parse_pattern(text: str) -> Pattern:
    """A pattern as it is written, e.g. 2:4.

    Raises:
        XmsimError: not two numbers, of which the first is smaller and at least 1.
    """
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise XmsimError(f"pattern {text}: write how many of how many consecutive weights stay, e.g. 2:4")
    return Pattern(int(match[1]), int(match[2]))


def expected_patterns(model: str, given: str | None) -> Pattern | dict[str, Pattern] | None:
    """The pattern that a model is to obey, or those of its layers.

    Args:
        model: as `load_model` is told.
        given: a pattern for all linear layers but the one that makes logits; None: those of the record beside a pruned model's weights.
    Returns: None where none is given, and none was pruned to; {layer: pattern} of a record, where a budget may have given each its own.
    Raises:
        XmsimError: not a pattern, or a record that cannot be read.
    """
    if given is not None:
        return parse_pattern(given)
    folder = Path(model).expanduser()
    if not (folder / PRUNING_NAME).is_file():
        return None
    record = read_pruning(folder)
    if record.pattern is None:
        return None
    block = parse_pattern(record.pattern).block
    return {layer.name: Pattern(round((1 - layer.target_sparsity) * block), block) for layer in record.layers}


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """How many groups of a linear layer obey a pattern."""

    name: str
    groups: int
    obeying: int

    @property
    def share(self) -> float:
        """Of its groups, those that obey."""
        return self.obeying / self.groups


def pattern_groups(model: Any, patterns: Pattern | Mapping[str, Pattern]) -> Iterator[LayerGroups]:
    """Count the groups that obey a pattern, layer by layer.

    Args:
        model: a transformers model.
        patterns: one for all linear layers but that which makes logits, or {name of a linear layer: its pattern}.
    Raises:
        XmsimError: the model has no such layer, or blocks of the pattern do not divide its inputs.
    """
    layers = linear_layers(model)
    for name, pattern in (dict.fromkeys(layers, patterns) if isinstance(patterns, Pattern) else patterns).items():
        if name not in layers:
            raise XmsimError(f"{name}: this model has no such linear layer; is the record beside it that of another model?")
        weight = weight_matrix(layers[name])
        if weight.shape[1] % pattern.block:
            raise XmsimError(f"{name}: {weight.shape[1]} inputs are not divided by pattern {pattern}; give another --pattern")
        counts = (weight.reshape(-1, pattern.block) != 0).sum(1)
        yield LayerGroups(name, len(counts), int((counts <= pattern.kept).sum()))


def weight_matrix(layer: Any) -> Any:
    """The weights of an nn.Linear or of GPT-2's Conv1D, [out, in]; a view, so that what is written into it is written into the layer."""
    from torch import nn

    weight = layer.weight.detach()
    return weight if isinstance(layer, nn.Linear) else weight.t()
