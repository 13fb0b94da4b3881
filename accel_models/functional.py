"""What a machine's arithmetic makes of an attention layer, judged by float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xmsim.accel_models.errors import WorkloadError
from xmsim.reference.attention import sparse_attention
from xmsim.workloads.attention import AttentionOperands, AttentionWorkload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far an attention output is from a reference."""

    max_absolute: float  # largest |output − reference|
    relative: float  # Frobenius norm of output − reference / that of reference

    @classmethod
    def between(cls, output: Floats, reference: Floats) -> OutputError:
        """The error of `output`; both of one shape."""
        distance = np.linalg.norm(output - reference)
        scale = np.linalg.norm(reference)
        return cls(float(np.abs(output - reference).max()), float(distance / scale) if scale else float(distance > 0))


@dataclass(frozen=True, slots=True, eq=False)
class FunctionalResult:
    """An attention output as the machine computes it, and its error."""

    output: Floats  # [heads, queries, head_dim]
    error: OutputError  # against float64 attention with the mask that the machine computed: its arithmetic alone
    error_to_dense: OutputError  # against float64 attention over all pairs that the dense model computes: mask and arithmetic


def judge_output(output: Floats, keep: npt.NDArray[np.bool_], workload: AttentionWorkload) -> FunctionalResult:
    """Compare a machine's output, float64 [heads, queries, head_dim], with float64 attention under `keep` and without a mask.

    Raises:
        WorkloadError: the workload carries no operands.
    """
    operands = operands_of(workload)
    bias = None
    if operands.slopes is not None:
        bias = operands.slopes[:, None, None].astype(np.float64) * np.arange(workload.keys)
    q, k, v = (np.asarray(x, np.float64) for x in (operands.q, operands.k, operands.v))
    same_mask: Floats = sparse_attention(q, k, v, keep, scale=operands.scale, bias=bias)
    dense: Floats = sparse_attention(q, k, v, workload.allowed(), scale=operands.scale, bias=bias)
    return FunctionalResult(output, OutputError.between(output, same_mask), OutputError.between(output, dense))


def operands_of(workload: AttentionWorkload) -> AttentionOperands:
    """The operands of a workload that has some.

    Raises:
        WorkloadError: it has none.
    """
    if workload.operands is None:
        raise WorkloadError("compute needs Q, K and V, and this workload has a mask alone; make it with operands")
    return workload.operands
