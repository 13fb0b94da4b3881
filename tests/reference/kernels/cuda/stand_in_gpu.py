"""torch's GPU where there is none: events, streams and graphs that do nothing, so that a benchmark runs on the emulator of the kernels.

As a program it is benchmarks/gpu_section.py with these in place. What a graph cannot hold is refused while one is captured.
"""

import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "_unique2")


class Refusing(TorchDispatchMode):
    """Raises where a number is read back or a tensor is made of one on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(func.name() == f"aten::{name}" for name in WAITS):
            raise AssertionError(f"{func.name()} cannot be captured")
        return func(*args, **(kwargs or {}))


class Event:
    def __init__(self, enable_timing=False):
        self.seconds = None

    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        assert self.seconds is not None

    def elapsed_time(self, later):
        return max(1e3 * (later.seconds - self.seconds), 1e-6)


class Stream:
    def wait_stream(self, other):
        assert isinstance(other, Stream)


class Graph:
    captured = False

    def replay(self):
        assert self.captured


@contextmanager
def capture(graph):
    with Refusing():
        yield
    graph.captured = True


def put_in_place(cuda):
    cuda.Event, cuda.Stream, cuda.CUDAGraph, cuda.graph = Event, Stream, Graph, capture
    cuda.current_stream, cuda.stream, cuda.synchronize = Stream, lambda stream: nullcontext(), lambda: None
    cuda.get_device_properties = lambda device: SimpleNamespace(L2_cache_size=1 << 12, multi_processor_count=2)
    cuda._sleep = lambda clocks: None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "benchmarks"))
    import gpu_section

    put_in_place(torch.cuda)
    gpu_section.main()
