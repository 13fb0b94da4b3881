"""Whole calls that no step of a model explains: what was measured at two shapes says what lies on a line through them."""

from __future__ import annotations

from typing import Any

from xmsim.accel_models.host.constants import HostConstants
from xmsim.accel_models.host.prediction import between
from xmsim.workloads.attention import AttentionWorkload

MEASURED_DIMS = (64, 128)


def pair_ns(host: HostConstants, step: str, lengths: tuple[int, int], workload: AttentionWorkload, **of: Any) -> float:
    """A causal pair of query and key, of a call that was measured at two lengths and two head dimensions.

    What a call, a row of queries and a block at the causal edge cost beside their pairs falls, for each pair, with the tokens: the line is
    over 1 / tokens.

    Raises:
        MissingConstantError: the host does not say what this call takes.
    """

    def of_dim(dim: int) -> float:
        return between({1 / tokens: host.ns(step, **of, head_dim=dim, tokens=tokens) for tokens in lengths}, 1 / workload.keys)

    return between({dim: of_dim(dim) for dim in MEASURED_DIMS}, workload.head_dim)
