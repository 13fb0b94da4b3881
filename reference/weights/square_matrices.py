"""The linear algebra of methods that solve for weights; NumPy arrays or torch tensors, [in, in]."""

from __future__ import annotations

from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor


def plus_diagonal(square: Any, amount: Any) -> Any:
    """`square` with `amount` added along its diagonal."""
    if is_tensor(square):
        import torch

        return square + amount * torch.eye(len(square), dtype=square.dtype, device=square.device)
    return square + amount * np.eye(len(square))


def inverse(square: Any) -> Any:
    """The inverse of a positive definite matrix."""
    if is_tensor(square):
        import torch

        return torch.linalg.inv(square)
    return np.linalg.inv(square)


def inverse_factor(square: Any) -> Any:
    """The upper triangular U with transposed(U) U = the inverse of `square`.

    Raises: ValueError naming damping: the matrix is not positive definite in its number format.
    """
    if is_tensor(square):
        import torch

        lower, failed = torch.linalg.cholesky_ex(square)
        factor, failed_again = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        definite = not failed and not failed_again
    else:
        eigenvalues, vectors = np.linalg.eigh(square)
        definite = bool(eigenvalues[0] > 0)
        if definite:
            factor = np.linalg.cholesky((vectors / eigenvalues) @ vectors.T).T
    if not definite:
        raise ValueError("damping: too small, the products of the inputs cannot be inverted; raise it tenfold")
    return factor
