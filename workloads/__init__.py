"""Models, text, capture, measurement; a trace and a method become a Workload.

Public names are imported on first use, so that the measurement record can be read and written where torch, pydantic or
zstandard are missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the names below
    from xmsim.workloads.attachment.attach import attach, detach
    from xmsim.workloads.attention import AttentionWorkload
    from xmsim.workloads.extraction.extract import extract_trace
    from xmsim.workloads.linear import LinearWorkload
    from xmsim.workloads.models.linear_exchange import exchanged_layers, sparsify
    from xmsim.workloads.models.loading import load_model

_HOME = {
    "AttentionWorkload": "xmsim.workloads.attention",
    "LinearWorkload": "xmsim.workloads.linear",
    "load_model": "xmsim.workloads.models.loading",
    "extract_trace": "xmsim.workloads.extraction.extract",
    "attach": "xmsim.workloads.attachment.attach",
    "detach": "xmsim.workloads.attachment.attach",
    "sparsify": "xmsim.workloads.models.linear_exchange",
    "exchanged_layers": "xmsim.workloads.models.linear_exchange",
}
__all__ = ["AttentionWorkload", "LinearWorkload", "attach", "detach", "exchanged_layers", "extract_trace", "load_model", "sparsify"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """With the names that are not imported yet, for help() and completion."""
    return sorted({*globals(), *__all__})
