"""ADMM pruning: alternate between choosing a mask and the best weights for it, on inputs scaled to equal norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xmsim.reference.attention.arrays import plain_arithmetic
from xmsim.reference.weights.calibration import InputProducts, beside, gathered, working_copy
from xmsim.reference.weights.checks import check_pattern, check_sparsity, check_weight
from xmsim.reference.weights.pruned import Pruned, pruned_like
from xmsim.reference.weights.selection import keep_of_all, keep_of_blocks, keep_of_rows
from xmsim.reference.weights.square_matrices import inverse, plus_diagonal

_DAMPING = 0.1  # of the mean of the scaled products' diagonal
_PENALTY = 1.0  # rho: what a weight's distance from its mask costs
_SMALLEST_NORM = 1e-8  # keeps the norm of an input that is always zero from dividing by zero


def admm(
    weight: Any,
    inputs: Any,
    *,
    sparsity: float | None = None,
    kept: int | None = None,
    block: int | None = None,
    iterations: int = 20,
    mask_iterations: int = 15,
) -> Pruned:
    """Prune the smallest norm-scaled weights of the whole matrix, or all but the largest of each block, and solve for the rest.

    Without a pattern each of the first `mask_iterations` iterations chooses the mask anew, at the full sparsity. With one, the
    largest `kept` of each block always stay and the others go little by little, smallest of the matrix first, by `1 - (1 - t/n)³`.
    0 mask iterations take the mask of the given weights, which is Wanda's score over the whole matrix.

    Args:
        weight: float [out, in]; NumPy array (the judge, in float64) or torch tensor (float32, on its device).
        inputs: calibration inputs [tokens, in], a list of such, one for each sequence, or an InputProducts that has gathered them.
        sparsity: share of the matrix that is pruned, at least 0 and below 1.
        kept, block: instead of sparsity: how many of every `block` consecutive inputs stay in each row; published for 2 of 4.
        iterations: at least mask_iterations, and at least 1.
    Raises: ValueError naming the argument: those of `wanda_keep`; iterations below mask_iterations.
    Source: ADMM pruning (arXiv 2401.02938), lib/admm.py of fmfi-compbio/admm-pruning; the paper's gradual schedule is not what
        its code does without a pattern, and we follow the code. `admm_by_row` has it.
    """
    check_weight(weight)
    check_pattern(sparsity, kept, block, weight.shape[1])

    size = weight.shape[0] * weight.shape[1]

    def choose(scores: Any, done: float) -> Any:
        if kept is None or block is None:
            return keep_of_all(scores, int(size * (sparsity or 0)))
        safe = keep_of_blocks(scores, kept, block)
        return keep_of_all(scores + safe * scores.max() * 2, int(size * (block - kept) / block * done))  # the safe ones out of reach

    return _alternate(weight, inputs, choose, iterations, mask_iterations)


def admm_by_row(weight: Any, inputs: Any, *, sparsity: float, iterations: int = 20, mask_iterations: int = 15) -> Pruned:
    """ADMM pruning that compares within each row and reaches its sparsity little by little, by `1 - (1 - t/n)³`.

    Args, result and errors: those of `admm`.
    Source: fmfi-compbio/admm-pruning, lib/admm.py, per_out.
    """
    check_weight(weight)
    check_sparsity(sparsity)
    return _alternate(weight, inputs, lambda scores, done: keep_of_rows(scores, sparsity * done), iterations, mask_iterations)


def _alternate(weight: Any, inputs: Any, choose: Callable[[Any, float], Any], iterations: int, mask_iterations: int) -> Pruned:
    """`choose(scores, done)` gives the mask at `done`, the share of the final sparsity that is due."""
    if not 0 <= mask_iterations <= iterations or iterations < 1:
        raise ValueError(f"iterations: {iterations} must be at least 1 and at least mask_iterations, {mask_iterations}")
    with plain_arithmetic(weight):
        products = beside(gathered(inputs, InputProducts).products, weight)
        norms = products.diagonal() ** 0.5 + _SMALLEST_NORM
        products = products / norms / norms[:, None]
        solution = working_copy(weight) * norms
        products = plus_diagonal(products, _DAMPING * products.diagonal().mean())
        target = solution @ products
        solve = inverse(plus_diagonal(products, _PENALTY))
        keep = choose(abs(solution), 1.0)
        dual = solution * 0
        for iteration in range(iterations):
            if iteration < mask_iterations:
                keep = choose(abs(solution + dual), 1 - (1 - (iteration + 1) / mask_iterations) ** 3)
            sparse = (solution + dual) * keep
            dual = dual + solution - sparse
            solution = (target + _PENALTY * (sparse - dual)) @ solve
        return pruned_like(weight, (solution + dual) / norms, keep)
