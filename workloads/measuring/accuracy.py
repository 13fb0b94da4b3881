"""Whether a kernel may be timed: its error against float64, judged by that of the plain computation in the same precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.reference.attention import sparse_attention

MASK_ROUNDING = 1e-3  # share of the kept pairs that may be others, where scores are added up in another order
_FEW_PAIRS = 8  # or so many


@dataclass(frozen=True, slots=True, eq=False)
class AttentionProblem:
    """What a kernel was asked to compute; the tensors as it was given them, in its own precision."""

    q: Any  # tensor [heads, queries, d]
    k: Any  # tensor [kv_heads, keys, d]
    v: Any  # tensor [kv_heads, keys, d]
    keep: np.ndarray  # bool, broadcastable to [heads, queries, keys]
    scale: float
    bias: np.ndarray | None  # float32, broadcastable likewise
    rounding: float | None = None  # of the kernel's own functions, relative; None: that of q's number format
    more_q: Any = None  # tensor [heads, more queries, d]: the plain computation is judged on these where q gives too few numbers for that


@dataclass(frozen=True, slots=True)
class CheckedError:
    """Largest absolute errors of one output."""

    max_error: float  # |result − float64 reference|
    allowed_error: float  # 2 × that of the plain computation + one rounding of the largest output


def check_attention(result: Any, problem: AttentionProblem, kernel: str) -> CheckedError:
    """Compare a kernel's output, tensor [heads, queries, d], with the float64 reference on the same operands.

    Raises:
        XmsimError: the error exceeds what the precision explains.
    """
    import torch

    reference = _reference(problem)
    rounding = (problem.rounding or torch.finfo(problem.q.dtype).eps) * float(np.abs(reference).max())
    plain = problem if problem.more_q is None else replace(problem, q=problem.more_q)
    allowed = 2 * _distance(plain_attention(plain), reference if plain is problem else _reference(plain)) + rounding
    found = _distance(result, reference)
    if not found <= allowed:  # NaN fails too
        raise XmsimError(
            f"{kernel}: off the float64 reference by {found:.2e}, {allowed:.2e} is allowed; "
            "its result is wrong on this host, so it is not timed: please report this with the output of `xmsim doctor`"
        )
    return CheckedError(found, allowed)


def check_mask(found: np.ndarray, keep: np.ndarray, kernel: str, *, rounding: float = 0.0) -> None:
    """Compare a kernel's mask with the reference's, bool [heads, queries, keys]; `rounding` is a share of the kept pairs.

    Raises:
        XmsimError: more pairs differ than that.
    """
    differing = np.count_nonzero(found != keep)
    if differing > (_FEW_PAIRS + rounding * np.count_nonzero(keep) if rounding else 0):
        raise XmsimError(
            f"{kernel}: {differing} pairs are not those of the reference; this kernel cannot be trusted on this host, please report it"
        )


def plain_attention(problem: AttentionProblem) -> Any:
    """Attention written out, every step in the precision of q; a tensor like q."""
    import torch

    q, k, v = problem.q, problem.k, problem.v
    pairs = (len(q), q.shape[1], k.shape[1])
    keep = np.broadcast_to(problem.keep, pairs)
    bias = np.broadcast_to(np.float32(0) if problem.bias is None else problem.bias, pairs)
    out = torch.zeros_like(q)
    for head in range(len(q)):
        kv_head = head // (len(q) // len(k))
        kept, added = (torch.from_numpy(x[head].copy()).to(q.device) for x in (keep, bias))
        scores = (q[head] @ k[kv_head].T * problem.scale + added).to(q.dtype)
        probabilities = scores.masked_fill(~kept, -torch.inf).softmax(dim=-1)
        out[head] = probabilities.nan_to_num(0.0) @ v[kv_head]  # NaN: a row that keeps nothing
    return out


def _reference(problem: AttentionProblem) -> np.ndarray:
    q, k, v = (x.double().cpu().numpy() for x in (problem.q, problem.k, problem.v))
    return sparse_attention(q, k, v, problem.keep, scale=problem.scale, bias=problem.bias)


def _distance(result: Any, reference: np.ndarray) -> float:
    return float(np.abs(result.double().cpu().numpy() - reference).max())
