"""What the machine of a GPU benchmark is: its host, the tools that are there, and what its processor gives."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Collection, Iterator

import torch
from gpu_rows import Row
from gpu_shapes import Shapes
from gpu_timing import summary

from xmsim.configs.codec import encode
from xmsim.reference.kernels.cuda import build
from xmsim.workloads.measuring.host import describe_host

TOOLS = {
    "nvidia-smi": ("--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"),
    "ncu": ("--version",),
    "nsys": ("--version",),
    "compute-sanitizer": ("--version",),
    "cuobjdump": ("--version",),
}
PROCESSOR_FACTS = ("Model name", "CPU(s)", "Thread(s) per core", "Core(s) per socket", "Socket(s)", "NUMA node(s)", "L2 cache", "L3 cache")


def host(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """The host as a record has it, tools, and memory and attention of the processor."""
    yield {"host": encode(describe_host())}
    properties = torch.cuda.get_device_properties(0)
    yield f"{properties.multi_processor_count} multiprocessors, {properties.L2_cache_size} bytes of second-level cache"
    yield f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    yield said("nvcc", str(build.find_nvcc() or "nvcc"), "--version")
    for tool, arguments in TOOLS.items():
        yield said(tool, tool, *arguments)
    facts = [line.split(":", 1) for line in output_of("lscpu").splitlines() if ":" in line]
    yield "lscpu: " + ", ".join(f"{name.strip()} {value.strip()}" for name, value in facts if name.strip() in PROCESSOR_FACTS)
    source = torch.ones(shapes.host_bytes // 4)
    target = torch.empty_like(source)
    yield timed("copy of the host's memory", lambda: target.copy_(source), 2 * source.nbytes / 1e9, "GB/s")
    q, k, v = (torch.randn(1, heads, shapes.host_tokens, 128).bfloat16() for heads in (shapes.heads, shapes.kv_heads, shapes.kv_heads))
    flop = 2 * shapes.host_tokens**2 * 128 * shapes.heads

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    yield timed(f"torch attention of the host, {shapes.host_tokens} tokens", attend, flop / 1e12, "TFLOP/s")


def timed(name: str, call: object, work: float, unit: str) -> Row:
    """A row of a call on the host, five times after a first."""
    samples = []
    for _ in range(6):
        begin = time.perf_counter()
        call()  # type: ignore[operator]
        samples.append(1e3 * (time.perf_counter() - begin))
    timing = summary(samples[1:])
    return {"name": name, "threads": torch.get_num_threads(), **timing, "rate": 1e3 * work / timing["median_ms"], "unit": unit}


def said(name: str, *command: str) -> str:
    """The last line that a tool says of itself."""
    lines = output_of(*command).strip().splitlines()
    return f"{name}: {lines[-1]}" if lines else f"{name}: not to be had here"


def output_of(*command: str) -> str:
    """What a command writes; nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
