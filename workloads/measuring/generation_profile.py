"""Where the time of a generated token goes, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmsim.workloads.measuring.generate_timing import generate_once
from xmsim.workloads.measuring.generation_record import ProfileRow
from xmsim.workloads.measuring.linear_variants import LinearVariants

ROWS = 12  # the rest is added up


def profile_generation(model: Any, variants: LinearVariants, prompt: Any, new_tokens: int) -> dict[str, tuple[ProfileRow, ...]]:
    """Profile one generation on each kernel with torch.profiler: {kernel: rows, the longest first}, prefill included.

    Rows are operators on the CPU; on a GPU its own kernels, with the time that it took.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if prompt.is_cuda else [ProfilerActivity.CPU]
    profiles = {}
    for kernel in variants.layers:
        variants.use(kernel)
        generate_once(model, prompt, 2)  # what is set up once is not the generation's
        with profile(activities=activities) as profiler:
            generate_once(model, prompt, new_tokens)
        if prompt.is_cuda:
            kernels = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
            profiles[kernel] = profile_rows([(event.key, event.count, event.self_device_time_total) for event in kernels])
        else:
            profiles[kernel] = profile_rows([(event.key, event.count, event.self_cpu_time_total) for event in profiler.key_averages()])
    return profiles


def profile_rows(times: Sequence[tuple[str, int, float]]) -> tuple[ProfileRow, ...]:
    """The longest of (name, calls, microseconds), and the others together."""
    ordered = sorted(times, key=lambda row: -row[2])
    rest = ordered[ROWS:]
    total_us = sum(us for _, _, us in ordered) or 1.0
    rows = [*ordered[:ROWS], ("all others", sum(calls for _, calls, _ in rest), sum(us for _, _, us in rest))]
    return tuple(ProfileRow(name, calls, us / 1e3, us / total_us) for name, calls, us in rows)
