"""A GPU as a machine: floors of each unit for our workloads, and what of them kernels reach. Not validated: no run of ours measured one.

Formulas are those of the GPU note: of units that work side by side the longest time counts, and every kernel starts with a launch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic

from xmsim.accel_models.host.constants import FOLDER, host_document
from xmsim.accel_models.host.cpu_linear import ELEMENT_BYTES, LinearShape, weight_bytes
from xmsim.accel_models.host.prediction import HostPrediction
from xmsim.configs.schema import Config, PositiveInt, Share, check_config
from xmsim.configs.shipped import find_config
from xmsim.workloads.attention import AttentionWorkload

BLOCK = 64  # keys and query rows of a tile
Efficiency = Annotated[Share, pydantic.Field(ge=1e-3)]
Rate = Annotated[float, pydantic.Field(ge=1e-3, le=1e12)]


class GpuConfig(Config):
    """Rates of the whole chip at the stated clock, and the shares of them that kernels reach."""

    kind: str = pydantic.Field(pattern="^gpu$")
    validated: Literal[False]  # until a record of measurements stands beside it
    multiprocessors: PositiveInt
    clock_mhz: PositiveInt
    tensor_bf16_tflops: Rate
    tensor_int8_tops: Rate
    exponentials_per_clock: PositiveInt  # of a multiprocessor, as the next three
    integers_per_clock: PositiveInt
    popcounts_per_clock: PositiveInt
    warp_instructions_per_clock: PositiveInt
    shared_bytes_per_clock: PositiveInt
    l2_gb_s: Rate
    memory_gb_s: Rate  # usable, not nominal
    l2_bytes: PositiveInt
    launch_us: Rate
    dense_efficiency: Efficiency  # of the tensor rate: fused attention, large products
    skip_efficiency: Efficiency  # of the dense kernel's rate: attention that skips tiles
    gather_efficiency: Efficiency  # of streaming: rows of 256 bytes in ascending order
    bitmap_instructions_per_tile: Rate  # warp instructions to decode 8 x 8 weights
    bitmap_popcount_clocks_per_tile: Rate
    selection_instructions_per_score: Rate
    sources: dict[str, str]

    @pydantic.model_validator(mode="after")
    def _every_number_has_a_source(self) -> GpuConfig:
        unsourced = set(type(self).model_fields) - {"kind", "validated", "sources"} - set(self.sources)
        if unsourced:
            raise ValueError(f"sources: {', '.join(sorted(unsourced))} has none")
        return self

    def chip_per_ns(self, per_clock: float) -> float:
        """A rate of every multiprocessor as one of the chip."""
        return per_clock * self.multiprocessors * self.clock_mhz / 1e3


def load_gpu(name_or_path: str | Path) -> GpuConfig:
    """A GPU from its YAML file, or a shipped one by name."""
    return check_config(host_document(find_config(FOLDER, name_or_path, "host"), "gpu"), GpuConfig)


def prefill_dense(gpu: GpuConfig, workload: AttentionWorkload) -> HostPrediction:
    """Fused dense attention: two products, and an exponential for every pair."""
    return _attention(gpu, workload.heads * workload.allowed_pairs(), workload.head_dim, gpu.dense_efficiency, mask_bytes=0.0)


def prefill_skipping(gpu: GpuConfig, workload: AttentionWorkload) -> HostPrediction:
    """Attention that leaves out tiles of 64 x 64 pairs in which nothing is kept: what is kept in the others costs nothing less.

    Source: design P1 of the GPU note, section 2.3.
    """
    live = live_tiles(workload)
    return _attention(
        gpu, live * BLOCK * BLOCK, workload.head_dim, gpu.dense_efficiency * gpu.skip_efficiency, mask_bytes=live * BLOCK * BLOCK / 8
    )


def prefill_gathering(gpu: GpuConfig, workload: AttentionWorkload, *, shared: bool) -> HostPrediction:
    """Attention over each row's own keys: both rows of every kept pair pass the shared memory once for all heads that share a list.

    A floor: rows that are read together are taken to lie in different banks, which those of real lists do not (docs/kernels/cuda.md).

    Args:
        shared: the heads of a KV head keep the same keys.
    Source: section 2.3, one floating-point operation a byte.
    """
    rows = float(workload.kept_pairs().sum()) / (workload.group if shared else 1) * 2
    nbytes = rows * workload.head_dim * ELEMENT_BYTES["bfloat16"]
    launch = gpu.launch_us * 1e3
    parts = {"launch": launch, "shared memory": nbytes / gpu.chip_per_ns(gpu.shared_bytes_per_clock)}
    parts |= {"exponentials": float(workload.kept_pairs().sum()) / gpu.chip_per_ns(gpu.exponentials_per_clock)}
    return _longest(parts)


def xm_mask(gpu: GpuConfig, workload: AttentionWorkload, *, overlapped: bool = True) -> HostPrediction:
    """The exact X:M rule at full resolution: low-bit scores as int8, an exponential and a selection for every allowed pair.

    Args:
        overlapped: units work side by side (the floor); else one after the other, as a first version does.
    Source: section 2.4.
    """
    pairs = float(workload.heads * workload.allowed_pairs())
    parts = {
        "launch": gpu.launch_us * 1e3,
        "scores": 2 * workload.head_dim * pairs / (gpu.tensor_int8_tops * 1e3 * gpu.dense_efficiency),
        "exponentials": pairs / gpu.chip_per_ns(gpu.exponentials_per_clock),
        "selection": gpu.selection_instructions_per_score * pairs / gpu.chip_per_ns(gpu.integers_per_clock),
        "memory": pairs / 8 / gpu.memory_gb_s,
    }
    return _longest(parts) if overlapped else HostPrediction(sum(parts.values()), parts)


def decode(gpu: GpuConfig, workload: AttentionWorkload, *, predictor_bits: float = 0.0) -> HostPrediction:
    """One token: what is predicted from is streamed, kept rows are gathered, or all of them streamed; nothing is in a cache.

    Args:
        predictor_bits: of every channel of every key, read to predict; 0: the mask is given.
    Source: section 2.5, t = p + rho / eta, and a launch for each kernel.
    """
    row_bytes = workload.head_dim * ELEMENT_BYTES["bfloat16"]
    kept = workload.words.reshape(workload.kv_heads, workload.group, -1)
    rows = 2 * float(np.bitwise_count(np.bitwise_or.reduce(kept, axis=1)).sum())
    dense_rows = 2 * workload.kv_heads * workload.allowed_pairs()
    streamed = rows if rows == dense_rows else rows / gpu.gather_efficiency
    predicted = workload.kv_heads * workload.keys * workload.head_dim * predictor_bits / 8
    memory = (min(streamed, dense_rows) * row_bytes + predicted) / gpu.memory_gb_s
    launch = gpu.launch_us * 1e3 * (2 if predictor_bits else 1)
    return HostPrediction(launch + memory, {"launch": launch, "memory": memory})


def linear(
    gpu: GpuConfig, shape: LinearShape, *, stored: Literal["dense", "sparse"], element: Literal["bfloat16", "int8"]
) -> HostPrediction:
    """A linear layer, its weights in memory: all, or a bitmap and what is not zero, at so many instructions for each tile of 8 x 8.

    Source: section 2.6, the instruction budget.
    """
    tensor = gpu.tensor_bf16_tflops if element == "bfloat16" else gpu.tensor_int8_tops
    tokens = -(-shape.tokens // 8) * 8
    parts = {
        "launch": gpu.launch_us * 1e3,
        "memory": weight_bytes(shape, element, stored) / gpu.memory_gb_s,
        "tensor": 2 * shape.weights * tokens / (tensor * 1e3 * gpu.dense_efficiency),
    }
    if stored == "sparse":
        tiles = shape.weights / 64
        parts["instructions"] = tiles * gpu.bitmap_instructions_per_tile / gpu.chip_per_ns(gpu.warp_instructions_per_clock)
        parts["popcounts"] = tiles * gpu.bitmap_popcount_clocks_per_tile / gpu.chip_per_ns(1)
    return _longest(parts)


def live_tiles(workload: AttentionWorkload) -> int:
    """Tiles of 64 queries and 64 keys of every head in which some pair is kept."""
    live = 0
    for head in range(workload.heads):
        rows = np.pad(workload.words[head], ((0, -workload.queries % BLOCK), (0, 0)))
        live += int((np.bitwise_or.reduce(rows.reshape(-1, BLOCK, rows.shape[1]), axis=1) != 0).sum())
    return live


def _attention(gpu: GpuConfig, pairs: float, head_dim: int, efficiency: float, *, mask_bytes: float) -> HostPrediction:
    parts = {
        "launch": gpu.launch_us * 1e3,
        "tensor": 4 * head_dim * pairs / (gpu.tensor_bf16_tflops * 1e3 * efficiency),
        "exponentials": pairs / gpu.chip_per_ns(gpu.exponentials_per_clock),
        "mask": mask_bytes / gpu.memory_gb_s,
    }
    return _longest(parts)


def _longest(parts: dict[str, float]) -> HostPrediction:
    return HostPrediction(parts["launch"] + max(ns for part, ns in parts.items() if part != "launch"), parts)
