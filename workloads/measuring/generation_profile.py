"""Where the time of a generated token goes, operator by operator."""

from __future__ import annotations

from typing import Any

from xmsim.workloads.measuring.generate_timing import generate_once
from xmsim.workloads.measuring.generation_record import ProfileRow
from xmsim.workloads.measuring.linear_variants import LinearVariants

ROWS = 12  # the rest is added up


def profile_generation(model: Any, variants: LinearVariants, prompt: Any, new_tokens: int) -> dict[str, tuple[ProfileRow, ...]]:
    """Profile one generation on each kernel with torch.profiler: {kernel: rows, the longest first}, prefill included."""
    from torch.profiler import ProfilerActivity, profile

    profiles = {}
    for kernel in variants.layers:
        variants.use(kernel)
        generate_once(model, prompt, 2)  # what is set up once is not the generation's
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            generate_once(model, prompt, new_tokens)
        events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total_us = sum(event.self_cpu_time_total for event in events) or 1.0
        rows = [_row(event.key, event.count, event.self_cpu_time_total, total_us) for event in events[:ROWS]]
        rest = events[ROWS:]
        rows.append(_row("all others", sum(e.count for e in rest), sum(e.self_cpu_time_total for e in rest), total_us))
        profiles[kernel] = tuple(rows)
    return profiles


def _row(operator: str, calls: int, self_us: float, total_us: float) -> ProfileRow:
    return ProfileRow(operator, calls, self_us / 1e3, self_us / total_us)
