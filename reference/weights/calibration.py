"""What pruning needs to know of a layer's inputs, gathered batch by batch, so that no activation has to be kept.

An accumulator's `add` is what a forward hook calls with the input of a linear layer:

    squares = InputSquares()
    handle = linear.register_forward_pre_hook(lambda _, args: squares.add(args[0]))
    ...                                       # run the calibration text through the block
    keep = wanda_keep(linear.weight, squares, sparsity=0.5)

Sums are made on the device of the inputs, in float32 for tensors and float64 for NumPy arrays, whatever autocast is in force.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import as_numpy, is_tensor, plain_arithmetic


class _InputSums(ABC):
    """Sequences counted and a sum over all tokens of something made of a token's inputs."""

    def __init__(self) -> None:
        self.sequences = 0
        self._sum: Any = None

    def add(self, inputs: Any) -> None:
        """Add the inputs of some tokens, float [tokens, in] or [sequences, tokens, in]; padding must have been cut off.

        Raises: ValueError naming inputs: of another rank, or of another width than those before.
        """
        if len(inputs.shape) not in (2, 3):
            raise ValueError(f"inputs: [tokens, in] or [sequences, tokens, in] is needed, got shape {list(inputs.shape)}")
        if self._sum is not None and inputs.shape[-1] != self._sum.shape[-1]:
            raise ValueError(f"inputs: {inputs.shape[-1]} wide after others of width {self._sum.shape[-1]}; gather each layer by itself")
        with plain_arithmetic(inputs):
            tokens = inputs.reshape(-1, inputs.shape[-1])
            total = self._of(tokens.float() if is_tensor(tokens) else np.asarray(tokens, np.float64))
            self._sum = total if self._sum is None else self._sum + total
        self.sequences += inputs.shape[0] if len(inputs.shape) == 3 else 1

    @abstractmethod
    def _of(self, tokens: Any) -> Any:
        """What the inputs of some tokens, [tokens, in], add to the sum."""

    def _finite_sum(self) -> Any:
        if self._sum is None:
            raise ValueError("inputs: none were given; run calibration text through the layer first")
        if not abs(self._sum).max() < float("inf"):
            raise ValueError("inputs: contain NaN or infinity; look at the layers before this one, or calibrate in a wider number format")
        return self._sum


class InputSquares(_InputSums):
    """Sum of squares of each input, [in]: what Wanda and OWL need."""

    def _of(self, tokens: Any) -> Any:
        return (tokens * tokens).sum(0)

    @property
    def squares(self) -> Any:
        """float [in], summed over all tokens. Raises: ValueError naming inputs: none given, or not finite."""
        return self._finite_sum()


class InputProducts(_InputSums):
    """Sum over tokens of the products of all pairs of inputs, [in, in]: what SparseGPT and ADMM need; its diagonal serves Wanda."""

    def _of(self, tokens: Any) -> Any:
        return tokens.T @ tokens

    @property
    def products(self) -> Any:
        """float [in, in], summed over all tokens. Raises: ValueError naming inputs: none given, or not finite."""
        return self._finite_sum()

    @property
    def squares(self) -> Any:
        """float [in], summed over all tokens. Raises: as products."""
        return self.products.diagonal()


Squares = InputSquares | InputProducts


def gathered(inputs: Any, kind: type[InputSquares] | type[InputProducts]) -> Any:
    """`inputs` if they have been gathered already, else gathered now: one array [tokens, in], or a sequence of such, one for each text.

    Raises: ValueError naming inputs: none given, of unlike widths, or only squares where products are needed.
    """
    if isinstance(inputs, _InputSums):
        if kind is InputProducts and not isinstance(inputs, InputProducts):
            raise ValueError("inputs: this method needs products of inputs; gather them with InputProducts")
        return inputs
    sums = kind()
    for sequence in inputs if isinstance(inputs, Sequence) else [inputs]:
        sums.add(sequence)
    return sums


def beside(values: Any, weight: Any) -> Any:
    """`values` in the kind and working precision of a weight: float64 for a NumPy array, float32 on its device for a tensor.

    Raises: ValueError naming inputs: of another width than the weight's.
    """
    if values.shape[-1] != weight.shape[1]:
        raise ValueError(f"inputs: {values.shape[-1]} wide, the weight has {weight.shape[1]} inputs")
    if not is_tensor(weight):
        return as_numpy(values).astype(np.float64)
    import torch

    return torch.as_tensor(values, dtype=torch.float32, device=weight.device)


def working_copy(weight: Any) -> Any:
    """A copy of the weight to compute on: float64 of a NumPy array, float32 of a tensor."""
    return weight.detach().float().clone() if is_tensor(weight) else np.array(weight, np.float64)
