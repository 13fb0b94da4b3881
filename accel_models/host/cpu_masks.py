"""Masks on a core: a pair of query and key takes what it took in the calibration's small shape.

How long a selection searches depends on the scores, so its steps are not modelled one by one; top-k, whose search is over whole rows, has
no model at all.
"""

from __future__ import annotations

from xmsim.accel_models.host.constants import HostConstants
from xmsim.accel_models.host.prediction import HostPrediction
from xmsim.workloads.attention import AttentionWorkload

MEASURED_DIMS = (64, 128)


def mask(host: HostConstants, workload: AttentionWorkload, *, rule: str, bits: int, threads: int) -> HostPrediction:
    """Scores of all allowed pairs and the mask of them, on all threads together.

    Args:
        rule: xm, nm, sanger or salo.
        bits: of the scores; 0: exact.
    Raises:
        MissingConstantError: the host does not say what this rule takes.
    """
    low, high = (host.ns("mask", rule=rule, bits=bits, head_dim=dim, threads=threads) for dim in MEASURED_DIMS)
    pair = low + (high - low) * (workload.head_dim - MEASURED_DIMS[0]) / (MEASURED_DIMS[1] - MEASURED_DIMS[0])
    pairs = workload.heads * workload.allowed_pairs() * pair
    return HostPrediction(pairs, {"pairs": pairs})
