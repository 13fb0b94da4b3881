"""How much of the work of a model's linear layers was left out while it decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xmsim.workloads.attachment.activation_sparsity import attach_activation_sparsity
from xmsim.workloads.measuring.generate_timing import generate_once
from xmsim.workloads.measuring.generation_record import GenerationRun
from xmsim.workloads.measuring.linear_variants import LinearVariants


def with_sparsity(
    runs: Sequence[GenerationRun], model: Any, variants: LinearVariants, prompt: Any, new_tokens: int
) -> tuple[GenerationRun, ...]:
    """The same runs with their sparsity: a generation of each kernel that skips inputs is done once more, counted and not timed.

    Args:
        model, variants, prompt, new_tokens: as in `time_generation`; the variants are left at another kernel than before.
    """
    dynamic = {kernel: _dynamic_sparsity(model, variants, kernel, prompt, new_tokens) for kernel in {run.kernel for run in runs}}
    static = variants.static_sparsity
    return tuple(
        replace(
            run,
            static_sparsity=static,
            dynamic_sparsity=dynamic[run.kernel],
            total_sparsity=1 - (1 - static) * (1 - dynamic[run.kernel]),
        )
        for run in runs
    )


def _dynamic_sparsity(model: Any, variants: LinearVariants, kernel: str, prompt: Any, new_tokens: int) -> float:
    thresholds = {name: layer.threshold for name, layer in variants.layers[kernel].items() if hasattr(layer, "threshold")}
    if not thresholds:
        return 0.0
    variants.use(kernel)
    with attach_activation_sparsity(model, thresholds, policy=_prompts_dense) as attached:
        generate_once(model, prompt, new_tokens)
    return attached.sparsity


def _prompts_dense(keep: Any, first_position: int) -> Any:
    """As these kernels do: tokens that come together stay dense."""
    return keep if keep.shape[-2] == 1 else keep | True
