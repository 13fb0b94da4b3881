"""Walking over the rows of scores with bounded memory: arrays go to a method's judge, tensors to its fast path.

The judge is plain NumPy with float64 sums. The fast path is torch on the tensor's device and must give the same mask; rows
of which it is not sure it hands back to the judge, so that both agree by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xmsim.reference.attention.arrays import Array, dtype_name, is_tensor, plain_arithmetic

Judge = Callable[[np.ndarray], np.ndarray]  # float32 or float64 [rows, keys] -> bool [rows, keys]
FastPath = Callable[[Any], Any]  # the same on tensors

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_JUDGED_ENTRIES = 1 << 18  # scores that the judge looks at together: their float64 copies stay in a second-level cache
_CPU_ENTRIES = 1 << 22  # and the fast path: few enough that all fit in memory, enough to keep all threads busy
_DEVICE_ENTRIES = 1 << 25  # likewise, on any other device


def keep_row_by_row(scores: Array, judge: Judge, fast: FastPath) -> Array:
    """Apply `judge` to the rows of an array, or `fast` to those of a tensor, a few at a time; bool like `scores`.

    Every row is decided on its own, so a part of the scores gives that part of the mask. Half precision becomes float32,
    which holds it exactly.

    Raises:
        ValueError: scores with fewer than two dimensions, that are not floating-point, with NaN or with +inf.
    """
    check_scores(scores)
    if is_tensor(scores):
        return _fast_row_by_row(scores, fast)
    return judge_row_by_row(scores, judge)  # type: ignore[arg-type, return-value]


def judge_row_by_row(scores: np.ndarray, judge: Judge) -> np.ndarray:
    """The mask of an array, by `judge`."""
    keep = np.zeros(scores.shape, dtype=bool)
    if not scores.size:
        return keep
    dtype = np.float64 if scores.dtype == np.float64 else np.float32
    rows, keep_rows = (array.reshape(-1, scores.shape[-1]) for array in (scores, keep))
    step = max(1, _JUDGED_ENTRIES // rows.shape[-1])
    for first in range(0, len(rows), step):
        chunk = np.ascontiguousarray(rows[first : first + step], dtype)
        check_largest(chunk.max(axis=-1))
        keep_rows[first : first + step] = judge(chunk)
    return keep


def _fast_row_by_row(scores: Any, fast: FastPath) -> Any:
    import torch

    keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if not scores.numel():
        return keep
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    step = max(1, (_CPU_ENTRIES if scores.device.type == "cpu" else _DEVICE_ENTRIES) // scores.shape[-1])
    with plain_arithmetic(scores):
        rows, keep_rows = (tensor.reshape(-1, scores.shape[-1]) for tensor in (scores, keep))
        for first in range(0, len(rows), step):
            chunk = rows[first : first + step].to(dtype).contiguous()
            check_largest(chunk.amax(dim=-1))
            keep_rows[first : first + step] = fast(chunk)
    return keep


def recheck(keep: Any, doubtful: Any, rows: Any, judge: Judge) -> Any:
    """`keep` with the rows marked in `doubtful`, bool [rows], decided by `judge`; all tensors, changed in place."""
    import torch

    if doubtful.any():
        judged = judge_row_by_row(rows[doubtful].cpu().numpy(), judge)
        keep[doubtful] = torch.from_numpy(judged).to(keep.device)
    return keep


def check_scores(scores: Any) -> None:
    """Refuse scores of the wrong rank or number format.

    Raises:
        ValueError: naming what is wrong.
    """
    if scores.ndim < 2:
        raise ValueError(f"scores: [..., queries, keys] is needed, got shape {list(scores.shape)}")
    if dtype_name(scores) not in _DTYPES:
        raise ValueError(f"scores: {', '.join(_DTYPES)} are the number formats that are ranked, got {dtype_name(scores)}")


def check_largest(largest: Any) -> None:
    """Refuse scores, or rows by their maxima: what is given must be below +inf, and NaN is not.

    Raises:
        ValueError: NaN or +inf.
    """
    if not (largest < math.inf).all():  # NaN fails every comparison
        raise ValueError("scores: NaN or +inf; a pair that is not allowed is -inf, every other score is finite")
