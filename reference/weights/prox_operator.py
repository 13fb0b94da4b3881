"""The proximal operator of ProxSparse's regulariser: pull every four consecutive weights of a row towards two non-zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import is_tensor, plain_arithmetic

_SETTLED = 1e-8  # summed change of a sweep at which the published descent ends
_SWEEPS = 100
_DESCENTS = ((2, 1, 0), (3, 2, 1, 0))  # places of the candidates found by descent, in the order of their updates; place 0 is the largest


def prox_two_four(weight: Any, strength: float) -> Any:
    """argmin over w of ½‖w − weight‖² + strength × Σ R(w), R = |w1w2w3| + |w2w3w4| + |w3w4w1| + |w4w1w2| of each four weights of a row.

    Three candidates are compared in every block, sorted by magnitude: the two largest as they are; three, and four, found by
    coordinate descent from zero, each update exact. The lowest objective wins, of equal ones the sparser. Signs stay; of equal magnitudes
    the lowest index is kept first. As published, a descent ends for the whole tensor at once, when all weights together change by less
    than 1e-8 in a sweep, or after 100 sweeps: what a block gets depends, below 1e-4, on the blocks beside it, which it does not in
    `prox_two_four_by_block`.

    Args:
        weight: float [..., in], in a multiple of 4; NumPy array (the judge) or torch tensor, on its device. Computed in float64 if it is
            float64, else in float32. A parameter gets no gradient from it. Zeros stay zero.
        strength: lambda as it is, never times a learning rate; at least 0. prox(c × weight, λ) = c × prox(weight, c × λ).
    Returns: like weight in kind, shape and number format.
    Raises: ValueError naming the argument: weight with NaN or infinity, of no float format, or in not a multiple of 4; strength negative
        or not finite.
    Source: ProxSparse (arXiv 2502.00258), prox_op.py of amazon-science/ProxSparse.
    """
    return _prox(weight, strength, _judge, _end_together)


def prox_two_four_by_block(weight: Any, strength: float) -> Any:
    """`prox_two_four` with each block's descent run until it stands still, or for 100 sweeps, so that its result depends on nothing else.

    Args, result and errors: those of `prox_two_four`.
    """

    def judge(blocks: np.ndarray, strength: float) -> np.ndarray:
        return np.concatenate([blocks[:0], *(_judge(block[None], strength, settled=0.0) for block in blocks)])

    return _prox(weight, strength, judge, lambda solve: solve((_SWEEPS, _SWEEPS))[0])


def _prox(weight: Any, strength: float, judge: Callable[..., np.ndarray], end: Callable[..., Any]) -> Any:
    if "float" not in str(weight.dtype):
        raise ValueError(f"weight: numbers of a float format are needed, got {weight.dtype}")
    if not weight.shape or weight.shape[-1] % 4:
        raise ValueError(f"weight: [..., in] with in a multiple of 4 is needed, got shape {list(weight.shape)}")
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength: {strength} must be at least 0 and finite")
    with plain_arithmetic(weight):
        if not (abs(weight) < float("inf")).all():
            raise ValueError("weight: contains NaN or infinity")
        if not is_tensor(weight):
            blocks = weight.reshape(-1, 4).astype(np.float64 if weight.dtype == np.float64 else np.float32)
            return judge(blocks, strength).reshape(weight.shape).astype(weight.dtype)
        import torch

        blocks = weight.detach().reshape(-1, 4).to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
        solve = _solve_compiled if blocks.device.type == "cpu" else _solve_in_torch
        return end(lambda sweeps: solve(blocks, strength, sweeps)).reshape(weight.shape).to(weight.dtype)


def _end_together(solve: Callable[[tuple[int, ...]], tuple[Any, np.ndarray]]) -> Any:
    """The published end, without keeping the blocks in step.

    A first pass runs each block until it stands still and notes how much all of them moved in each sweep. Where that says that the
    published descent had ended while blocks were still moving, a second pass stops them there.
    """
    result, changes = solve((_SWEEPS, _SWEEPS))
    ends = tuple(int(np.append(change[:-1] < _SETTLED, True).argmax()) + 1 for change in changes)
    if all(not change[end:].any() for change, end in zip(changes, ends, strict=True)):
        return result
    return solve(ends)[0]


def _triples(a: Any, b: Any, c: Any, d: Any) -> Any:
    """R of non-negative weights."""
    return a * b * (c + d) + c * d * (a + b)


def _judge(blocks: np.ndarray, strength: float, settled: float = _SETTLED) -> np.ndarray:
    """The published steps, one by one, on [blocks, 4]; `settled` is the change at which a descent over all of them ends."""
    order = np.argsort(-np.abs(blocks), axis=1, kind="stable")
    u = np.take_along_axis(np.abs(blocks), order, axis=1)
    candidates = [u * np.array([1, 1, 0, 0], u.dtype), *(_judge_descent(u, strength, places, settled) for places in _DESCENTS)]
    objectives = [((u - w) ** 2).sum(axis=1) / 2 + strength * _triples(*w.T) for w in candidates]
    best = np.choose(np.argmin(objectives, axis=0)[:, None], candidates)
    unsorted = np.empty_like(blocks)
    np.put_along_axis(unsorted, order, best, axis=1)
    return np.sign(blocks) * unsorted


def _judge_descent(u: np.ndarray, strength: float, places: tuple[int, ...], settled: float) -> np.ndarray:
    """Coordinate descent from zero over `places`, in this order; the others stay zero."""
    w = np.zeros_like(u)
    for _ in range(_SWEEPS):
        before = w.copy()
        for place in places:
            a, b, c = (w[:, other] for other in range(4) if other != place)
            w[:, place] = np.maximum(u[:, place] - u.dtype.type(strength) * (a * b + b * c + a * c), 0)
        if np.abs(w - before).sum() <= settled:
            break
    return w


def _solve_compiled(blocks: Any, strength: float, sweeps: tuple[int, ...]) -> tuple[Any, np.ndarray]:
    """As `_solve_in_torch`, for a tensor on the CPU."""
    import torch

    from xmsim.reference.weights.prox_compiled import solve

    values = blocks.contiguous().numpy()
    result, changes = solve(values, values.dtype.type(strength), *sweeps, _SWEEPS)
    return torch.from_numpy(result), changes


def _solve_in_torch(blocks: Any, strength: float, sweeps: tuple[int, ...]) -> tuple[Any, np.ndarray]:
    """The operator on [blocks, 4] with at most so many sweeps for each descent; every operation runs over all blocks at once.

    Returns: the result, like blocks, and what each sweep of each descent changed in all blocks, float64 [descents, _SWEEPS].
    """
    import torch

    signed = blocks.t()
    u = signed.abs().contiguous()  # [4, blocks]
    swaps = _sort_descending(u)
    best = u.clone()
    best[2:] = 0
    lowest = (u[2] ** 2 + u[3] ** 2) / 2
    changes = []
    for places, limit in zip(_DESCENTS, sweeps, strict=True):
        w, change = _descend(u, strength, places, limit)
        changes.append(change)
        objective = (u - w).square_().sum(0) / 2 + strength * _triples(*w)
        better = objective < lowest
        torch.where(better, w, best, out=best)
        torch.where(better, objective, lowest, out=lowest)
    _unsort(best, swaps)
    return (best * signed.sign()).t(), np.array(changes)


_NEIGHBOURS = ((0, 1), (1, 2), (2, 3), (0, 1), (1, 2), (0, 1))  # swapping neighbours only keeps equal magnitudes in order


def _sort_descending(u: Any) -> list[Any]:
    """Sort [4, blocks] along its first axis, in place; returns which blocks were swapped at each step."""
    import torch

    swaps = []
    for high, low in _NEIGHBOURS:
        swaps.append(u[high] < u[low])
        larger = torch.maximum(u[high], u[low])
        torch.minimum(u[high], u[low], out=u[low])
        u[high] = larger
    return swaps


def _unsort(w: Any, swaps: list[Any]) -> None:
    """Undo `_sort_descending` on `w`, in place."""
    import torch

    for (high, low), swapped in zip(reversed(_NEIGHBOURS), reversed(swaps), strict=True):
        first = torch.where(swapped, w[low], w[high])
        torch.where(swapped, w[high], w[low], out=w[low])
        w[high] = first


def _descend(u: Any, strength: float, places: tuple[int, ...], limit: int) -> tuple[Any, list[float]]:
    """Coordinate descent from zero on [4, blocks] over `places`, until nothing moves; also what each sweep changed, [_SWEEPS]."""
    import torch

    w = torch.zeros_like(u)
    changes = [0.0] * _SWEEPS
    for sweep in range(limit):
        before = w.clone()
        for place in places:
            a, b, *c = (w[other] for other in places if other != place)
            pairs = (a * b).addcmul_(a + b, c[0]) if c else a * b
            torch.sub(u[place], pairs, alpha=strength, out=w[place]).clamp_(min=0)
        changes[sweep] = float(before.sub_(w).abs_().sum(dtype=torch.float64))
        if changes[sweep] == 0:
            break
    return w, changes
