"""Which tokens of a sequence keep their activations dense, whatever the thresholds say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xmsim.configs.errors import nearest
from xmsim.reference.activations import keep_first_half, keep_first_tokens
from xmsim.workloads.models.loading import ModelError

SINK_TOKENS = 4  # tokens at the start of a sequence that much attention goes to, whatever they say (StreamingLLM, arXiv 2309.17453)

Policy = Callable[[Any, int], Any]  # (keep [..., tokens, channels], place in the sequence of its first token) -> keep with dense tokens


def first_half_dense(keep: Any, first_position: int) -> Any:
    """As published: of tokens that come together the first half stays dense, wherever they lie; a single one is sparsified."""
    return keep_first_half(keep)


def sinks_dense(keep: Any, first_position: int) -> Any:
    """Corrected: the first four tokens of a sequence stay dense and no others, whether tokens come together or one by one. Ours."""
    return keep_first_tokens(keep, dense_tokens=SINK_TOKENS, first_position=first_position)


POLICIES: dict[str, Policy] = {"first_half_dense": first_half_dense, "sinks_dense": sinks_dense}


def find_policy(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in POLICIES:
        raise ModelError(f"no policy {name}; {nearest(name, tuple(POLICIES))}")
    return POLICIES[name]
