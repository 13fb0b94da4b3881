"""Emptying the processor's caches between calls: in a model, the weights of a whole token pass through them."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int, c_int64, c_uint64, c_void_p

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels.native import address, huge_empty, kernel
from xmsim.workloads.measuring.calibration.core_rates import cache_bytes


def swept_bytes(device: str) -> int:
    """Twice the last cache of the device."""
    if device == "cpu":
        return 2 * cache_bytes()["l3"]
    import torch

    return 2 * int(torch.cuda.get_device_properties(device).L2_cache_size)


def cache_sweeper(device: str, threads: int) -> Callable[[], object]:
    """What reads `swept_bytes` of other data, so that nothing of an earlier call is in the last cache; returns when it is done.

    Raises:
        XmsimError: of the CPU, no compiled kernels.
    """
    if device == "cpu":
        read = kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
        if read is None:
            raise XmsimError("decoding is timed with the compiled kernels, which are not here: xmsim doctor says what is missing")
        words = huge_empty((swept_bytes(device) // 8,), np.uint64)
        words[:] = 1
        return lambda: read(address(words), len(words), threads)
    import torch

    numbers = torch.ones(swept_bytes(device) // 4, device=device)
    return lambda: numbers.sum().item()
