"""Kernels that are timed: linear layers and sparse attention on this machine's processor."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "dense_linear": "linear",
    "sparse_linear": "linear",
    "DenseLinear": "linear_modules",
    "SparseLinear": "linear_modules",
    "Int8SparseLinear": "linear_modules",
    "format_linear": "format_kernels",
    "sparse_vector_linear": "format_kernels",
    "SpdpLinear": "format_modules",
    "TcaBmeLinear": "format_modules",
    "TwoFourLinear": "format_modules",
    "sparse_attention": "attention",
    "KvCache": "kv_cache",
    "decode_attention": "kv_cache",
    "PrunedKvCache": "pruned_kv_cache",
    "pruned_decode_attention": "pruned_kv_cache",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name's module when it is asked for: the modules with layers need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
