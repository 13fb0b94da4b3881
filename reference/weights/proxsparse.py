"""ProxSparse: train towards 2:4 with a regulariser, take the mask from the trained weights, put it on the original ones.

One training step is: loss + lambda2 × `frozen_weight_penalty` of every linear layer, backward, the optimizer's step, then
`prox_two_four(weight, lambda1)` in the place of every linear layer's weight, then the learning rate's schedule. Lambda 1 is
neither scheduled nor multiplied by the learning rate. `proxsparse_step` is that step for one matrix.

Source: ProxSparse (arXiv 2502.00258), main.py, prox_linear.py, patch_transformers_trainer.py and mask_op.py of amazon-science/ProxSparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor, plain_arithmetic
from xmsim.reference.weights.magnitude import magnitude_keep
from xmsim.reference.weights.prox_operator import prox_two_four
from xmsim.reference.weights.pruned import apply_keep


def frozen_weight_penalty(weight: Any, original: Any, *, epsilon: float) -> Any:
    """Q = ‖ weight / (original + epsilon × sign(original)) × (weight − original) ‖², with sign(0) = 1.

    It holds weights that survive near where they were, and costs little for those that go to zero.

    Args:
        weight, original: float [out, in], the weight in training and before it; NumPy arrays or torch tensors.
        epsilon: keeps originals near zero from dividing by zero; above 0.
    Returns: a scalar, float64 for NumPy arrays and at least float32 for tensors; a gradient reaches weight.
    Raises: ValueError naming the argument: epsilon not above 0; original of another shape than weight.
    """
    wide, frozen = _wide(weight), _wide(original)
    return ((wide / _steadied(frozen, wide, epsilon) * (wide - frozen)) ** 2).sum()


def frozen_weight_gradient(weight: Any, original: Any, *, epsilon: float) -> Any:
    """The gradient of `frozen_weight_penalty` in weight: 2 w (w − w0) (2w − w0) / (w0 + epsilon × sign(w0))².

    What adding the penalty to the loss would give, without a graph over every weight; add lambda2 times it to a weight's gradient
    before gradients are clipped.

    Args and errors: those of `frozen_weight_penalty`.
    Returns: float [out, in], float64 for NumPy arrays and at least float32 for tensors.
    """
    with plain_arithmetic(weight):
        wide, frozen = _wide(weight), _wide(original)
        scale = 2 / _steadied(frozen, wide, epsilon) ** 2
        return scale * wide * (wide - frozen) * (2 * wide - frozen)


def proxsparse_step(
    weight: Any,
    gradient: Any,
    original: Any,
    *,
    lambda1: float,
    lambda2: float,
    epsilon: float,
    update: Callable[[Any, Any], Any],
) -> Any:
    """One step of training for one matrix: the frozen-weight gradient added, the optimizer's update, then the proximal operator.

    Args:
        weight, gradient, original: float [out, in]; gradient is that of the model's loss.
        lambda1: strength of the proximal operator, as it is.
        lambda2: weight of the frozen-weight penalty; 0 leaves it out.
        update: (weight, gradient) -> weight, the optimizer.
    Raises: ValueError: those of `prox_two_four` and, with lambda2, `frozen_weight_penalty`.
    """
    if lambda2:
        gradient = gradient + lambda2 * frozen_weight_gradient(weight, original, epsilon=epsilon)
    return prox_two_four(update(weight, gradient), lambda1)


def two_four_keep(trained: Any) -> Any:
    """The mask of a trained matrix: the two largest magnitudes of each four consecutive inputs, of equal ones the highest indices.

    Args and errors: those of `magnitude_keep`.
    """
    return magnitude_keep(trained, kept=2, block=4)


def project_two_four(weight: Any) -> Any:
    """The nearest 2:4 matrix: weight with everything but the two largest magnitudes of each four zero. Errors: as `two_four_keep`."""
    return apply_keep(weight, two_four_keep(weight))


def masked_original(original: Any, trained: Any) -> Any:
    """The pruned matrix that ProxSparse ships: the original weights under the trained ones' mask; what was trained is let go.

    Args:
        original, trained: float [out, in], of one kind and on one device.
    Returns: like original.
    Raises: ValueError naming the argument: original of another shape than trained; trained as in `two_four_keep`.
    """
    _check_alike(original, trained)
    return apply_keep(original, two_four_keep(trained))


def _wide(array: Any) -> Any:
    if not is_tensor(array):
        return np.asarray(array, np.float64)
    return array if str(array.dtype) == "torch.float64" else array.float()


def _check_alike(original: Any, weight: Any) -> None:
    if original.shape != weight.shape:
        raise ValueError(f"original: shape {list(original.shape)}, the trained weight's is {list(weight.shape)}")


def _steadied(original: Any, weight: Any, epsilon: float) -> Any:
    """original + epsilon × sign(original), with sign(0) = 1."""
    _check_alike(original, weight)
    if not epsilon > 0:
        raise ValueError(f"epsilon: {epsilon} must be above 0")
    return original + epsilon * (1.0 - 2.0 * (original < 0))
