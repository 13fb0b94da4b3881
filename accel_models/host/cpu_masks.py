"""Masks on a core: a pair of query and key takes what lies on a line through two lengths of the calibration.

How long a selection searches depends on the scores, so its steps are not modelled one by one; top-k, whose search is over whole rows, has
no model at all.
"""

from __future__ import annotations

from xmsim.accel_models.host.black_box import pair_ns
from xmsim.accel_models.host.constants import HostConstants
from xmsim.accel_models.host.prediction import HostPrediction
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.measuring.calibration.whole_calls import MASK_TOKENS


def mask(host: HostConstants, workload: AttentionWorkload, *, rule: str, bits: int, threads: int) -> HostPrediction:
    """Scores of all allowed pairs and the mask of them, on all threads together.

    Args:
        rule: xm, nm, sanger or salo.
        bits: of the scores; 0: exact.
    Raises:
        MissingConstantError: the host does not say what this rule takes.
    """
    pair = pair_ns(host, "mask", MASK_TOKENS, workload, rule=rule, bits=bits, threads=threads)
    pairs = workload.heads * workload.allowed_pairs() * pair
    return HostPrediction(pairs, {"pairs": pairs})
