"""What was measured, on what, and how well it is known; and the measurement file.

Standard library only: the record is also written on GPU hosts that have nothing else of ours.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.record import read_record, write_record

MEASUREMENT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Host:
    """The hardware and software that a number belongs to."""

    cpu: str
    cores: int
    cpu_features: tuple[str, ...]  # of those that matter to kernels: avx2, avx512f, avx512_bf16, avx512_vnni, amx_bf16 ...
    memory_bytes: int
    gpu: str  # "" when there is none
    system: str
    python: str
    packages: dict[str, str]  # {name: version}


@dataclass(frozen=True, slots=True)
class Timing:
    """Repeated runs of one operation, after warm-up."""

    n: int
    median_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    min_ms: float
    max_ms: float

    @classmethod
    def of(cls, samples_ms: list[float]) -> Timing:
        """Summarise at least two samples."""
        first, median, third = statistics.quantiles(samples_ms, n=4, method="inclusive")
        return cls(len(samples_ms), median, first, third, min(samples_ms), max(samples_ms))


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One operation on the tensors of one layer of one window, or of one decoded token of it, all heads."""

    layer: int
    window: int
    device: str  # "cpu" or "cuda"
    operation: str  # "dense attention", "sparse attention" or "mask"
    method: str  # the sparsity method, "dense" for dense attention
    backend: str  # e.g. "torch sdpa, flash" or "numba gather"
    dtype: str
    threads: int
    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    density: float
    timing: Timing
    max_error: float | None  # largest |result − float64 reference|; None where there is nothing to compare (a mask)
    allowed_error: float | None  # the bound that max_error met before the run was timed


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """The file that `xmsim measure` writes."""

    host: Host
    trace: dict[str, Any]  # {path, sha256, model, text}
    method: dict[str, Any]  # {name, ...parameters}
    conditions: dict[str, Any]  # {phase, ...}: what was done besides; {} where an earlier version wrote none
    runs: tuple[MeasuredRun, ...]


def write_measurement(path: Path, record: MeasurementRecord) -> None:
    """Write a measurement file, whole or not at all."""
    write_record(path, "measurement", MEASUREMENT_VERSION, encode(record))


def read_measurement(path: Path) -> MeasurementRecord:
    """Read a measurement file of this version or an earlier one.

    Raises:
        RecordError: not a measurement file, a later version, or a value is missing or of the wrong type.
    """
    body = read_record(path, "measurement", MEASUREMENT_VERSION)
    return decode(MeasurementRecord, {"conditions": {}} | body if body["version"] == 1 else body, str(path))
