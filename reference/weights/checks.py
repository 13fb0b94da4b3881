"""What every pruning method asks of its arguments; each error names the argument and the way out."""

from __future__ import annotations

from typing import Any


def check_weight(weight: Any) -> None:
    """Raises: ValueError unless weight is a finite float [out, in] with something in it."""
    if len(weight.shape) != 2:
        raise ValueError(f"weight: [out, in] is needed, got shape {list(weight.shape)}")
    if "float" not in str(weight.dtype):
        raise ValueError(f"weight: numbers of a float format are needed, got {weight.dtype}")
    if 0 in weight.shape:
        raise ValueError(f"weight: {tuple(weight.shape)} has no elements")
    largest = abs(weight).max()  # carries NaN and infinity
    if not largest < float("inf"):
        raise ValueError("weight: contains NaN or infinity")
    if largest == 0:
        raise ValueError("weight: all zero, so that nothing in it is smaller than the rest; leave this layer out")


def check_sparsity(sparsity: float) -> None:
    """Raises: ValueError unless 0 <= sparsity < 1."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: {sparsity} is not a share; choose at least 0 and less than 1")


def check_pattern(sparsity: float | None, kept: int | None, block: int | None, inputs: int) -> None:
    """Raises: ValueError unless exactly one of sparsity and (kept, block) is given, in its range, and blocks divide the inputs."""
    if (sparsity is None) == (kept is None) or (kept is None) != (block is None):
        raise ValueError("sparsity: give either sparsity, or kept and block")
    if sparsity is not None:
        check_sparsity(sparsity)
    if kept is not None and block is not None:
        if not 0 < kept <= block:
            raise ValueError(f"kept: {kept} must be between 1 and block, {block}")
        if inputs % block:
            raise ValueError(f"block: {block} does not divide the {inputs} inputs of the layer; choose a divisor or leave this layer out")
