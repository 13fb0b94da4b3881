"""How many threads torch, numba and our kernels use, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xmsim.configs.errors import XmsimError
from xmsim.workloads.measuring.host import available_cores


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let torch and numba, and our kernels with torch, use so many threads, and put back what was set before.

    Raises:
        XmsimError: fewer than one, or more than this process has cores for.
    """
    import numba
    import torch

    most = min(available_cores(), numba.config.NUMBA_NUM_THREADS)
    if not 1 <= threads <= most:
        raise XmsimError(f"threads: {threads} is not possible here; choose 1 to {most}")
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
