"""SparseGPT: prune column by column and let the columns to the right make up for what was lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor, plain_arithmetic
from xmsim.reference.weights.calibration import InputProducts, beside, gathered, working_copy
from xmsim.reference.weights.checks import check_pattern, check_weight
from xmsim.reference.weights.pruned import Pruned, pruned_like
from xmsim.reference.weights.selection import keep_of_blocks
from xmsim.reference.weights.square_matrices import inverse_factor, plus_diagonal


def sparsegpt(
    weight: Any,
    inputs: Any,
    *,
    sparsity: float | None = None,
    kept: int | None = None,
    block: int | None = None,
    columns: int = 128,
    damping: float = 0.01,
) -> Pruned:
    """Prune a layer by optimal brain surgery on its columns, from left to right.

    With U the upper Cholesky factor of the inverse Hessian, a weight's score is (w / U_jj)². Without a pattern a group of `columns` columns
    loses every score up to the one at place int(size × sparsity), one weight more than asked for, chosen when the group is reached;
    with one, each block is decided when its first column is reached, on the weights as updated by then. Columns of inputs that are always
    zero are pruned whole, whatever the pattern.

    Args:
        weight: float [out, in]; NumPy array (the judge: float64, each update made at once on all later columns) or torch tensor
            (float32, on its device; later groups are updated once for each group).
        inputs: calibration inputs [tokens, in], a list of such, one for each sequence, or an InputProducts that has gathered them.
        sparsity: share of each group of columns that is pruned, at least 0 and below 1; 0 prunes nothing.
        kept, block: instead of sparsity: how many of every `block` consecutive inputs stay in each row.
        columns: columns of a group; a multiple of block.
        damping: added to the Hessian's diagonal, as a share of its mean.
    Raises: ValueError naming the argument: those of `wanda_keep`; columns not a multiple of block; damping not positive, or too small for
        the Hessian to be inverted.
    Source: SparseGPT (arXiv 2301.00774) as in lib/sparsegpt.py of locuslab/wanda.
    """
    check_weight(weight)
    check_pattern(sparsity, kept, block, weight.shape[1])
    if columns < 1 or columns % (block or 1):
        raise ValueError(f"columns: {columns} must be a positive multiple of block, {block or 1}")
    if not damping > 0:
        raise ValueError(f"damping: {damping} must be positive")
    with plain_arithmetic(weight):
        sums = gathered(inputs, InputProducts)
        hessian = beside(sums.products, weight) * (2 / sums.sequences)
        updated = working_copy(weight)
        dead = hessian.diagonal() == 0
        hessian[dead, dead] = 1
        updated[:, dead] = 0
        factor = inverse_factor(plus_diagonal(hessian, damping * hessian.diagonal().mean()))

        def choose(scores: Any) -> Any:
            if kept is not None and block is not None:
                return keep_of_blocks(scores, kept, block)
            return _keep_of_group(scores, sparsity or 0)

        solve = _solve_by_groups if is_tensor(weight) else _solve_at_once
        updated, keep = solve(updated, factor, choose, columns, block or columns)
        return pruned_like(weight, updated, keep & ~dead)


def _keep_of_group(scores: Any, sparsity: float) -> Any:
    if sparsity == 0:
        return scores >= 0
    place = int(scores.shape[0] * scores.shape[1] * sparsity)
    if is_tensor(scores):
        return scores > scores.flatten().kthvalue(place + 1).values
    return scores > np.partition(scores.ravel(), place)[place]


def _solve_at_once(weight: np.ndarray, factor: np.ndarray, choose: Any, columns: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The judge: every column's error goes to all later columns before the next one is looked at."""
    keep = np.ones(weight.shape, bool)
    diagonal = factor.diagonal()
    for j in range(weight.shape[1]):
        if j % columns % block == 0:
            decided = slice(j, min(j + block, j - j % columns + columns, weight.shape[1]))
            keep[:, decided] = choose((weight[:, decided] / diagonal[decided]) ** 2)
        error = np.where(keep[:, j], 0, weight[:, j]) / diagonal[j]
        weight[:, j:] -= np.outer(error, factor[j, j:])
    return weight, keep


def _solve_by_groups(weight: Any, factor: Any, choose: Any, columns: int, block: int) -> tuple[Any, Any]:
    """A column's error goes to the later columns of its group at once, and to the later groups when the group is done."""
    import torch

    keep = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    for first in range(0, weight.shape[1], columns):
        group = slice(first, min(first + columns, weight.shape[1]))
        own, own_keep, own_factor = weight[:, group], keep[:, group], factor[group, group]
        diagonal = own_factor.diagonal()
        errors = torch.zeros_like(own)
        for j in range(own.shape[1]):
            if j % block == 0:
                decided = slice(j, j + block)
                own_keep[:, decided] = choose((own[:, decided] / diagonal[decided]) ** 2)
            errors[:, j] = own[:, j].masked_fill(own_keep[:, j], 0) / diagonal[j]
            own[:, j:].addr_(errors[:, j], own_factor[j, j:], alpha=-1)
        weight[:, group.stop :] -= errors @ factor[group, group.stop :]
    return weight, keep
