"""Named ranges that NVIDIA's profilers show, and that `nsys_export` reads: warm-up, repeat and token."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

WARM_UP = "warm-up"
TOKEN = "token"


def round_range(done: int, warmup: int, kernel: str) -> AbstractContextManager[Any]:
    """Around one round of a kernel; the first `warmup` of them are not counted."""
    return _marked(f"{WARM_UP}: {kernel}" if done < warmup else f"repeat {done - warmup}: {kernel}")


def token_range(number: int) -> AbstractContextManager[Any]:
    """Around one token."""
    return _marked(f"{TOKEN} {number}")


def _marked(name: str) -> AbstractContextManager[Any]:
    """Costs well under a microsecond where nobody profiles, and nothing where there is no GPU."""
    import torch

    return torch.cuda.nvtx.range(name) if torch.cuda.is_available() else nullcontext()
