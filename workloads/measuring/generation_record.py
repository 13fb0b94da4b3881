"""What was measured of a model that generates text on this host: its linear layers one by one, and whole tokens; and the file of it.

Standard library only, so that reports need nothing else to read one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host, Timing

GENERATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as another kernel, over pairs of runs that followed each other."""

    n: int
    median: float
    first_quartile: float
    third_quartile: float


@dataclass(frozen=True, slots=True)
class LinearRun:
    """One shape of linear layer on one kernel."""

    in_features: int
    out_features: int
    tokens: int
    kernel: str  # torch, packed, bitmap, bitmap_int8, spdp, tcabme or 2:4
    isa: str  # of our kernels; "" for torch's
    dtype: str
    sparsity: float  # share of zeros in the weights
    threads: int
    weight_bytes: int
    timing: Timing
    speedup: dict[str, Ratio]  # {kernel: over it, in pairs}
    max_error: float  # largest |result − float64 reference|
    allowed_error: float  # the bound that max_error met before the run was timed


@dataclass(frozen=True, slots=True)
class GenerationRun:
    """Prefill and decode of a whole model on one kind of linear layer."""

    kernel: str  # torch, packed, bitmap, bitmap_int8, spdp, tcabme or 2:4
    attention: str  # sdpa, ... or the name of an attached method
    exchanged_layers: int  # 0 on torch
    weight_bytes: int  # of the linear layers
    time_to_first_token: Timing  # prefill
    time_per_output_token: Timing  # all decoded tokens of all repeats
    p50_ms: float
    p99_ms: float
    speedup: dict[str, Ratio]  # of time per output token {kernel: over it, medians of repeats in pairs}
    token_ms: tuple[Any, ...]  # of each repeat, the list of times of its tokens; empty unless asked for
    # of the exchanged layers' products with one token; None in a record of version 1
    static_sparsity: float | None = None  # share of the weights that is zero, whether the kernel skips them or not
    dynamic_sparsity: float | None = None  # share that the kernel left out for small inputs while tokens came one by one
    total_sparsity: float | None = None  # 1 − (1 − static)(1 − dynamic)


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One operator in the profile of a generation."""

    operator: str
    calls: int
    self_ms: float  # without what it called; the profiler's own cost is in it
    share: float


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """The file that `xmsim measure` writes for a model that generates."""

    host: Host
    model: dict[str, Any]  # {name, shape, weights: trained or random}
    conditions: dict[str, Any]  # {dtype, batch, input_tokens, new_tokens, sparsity, include, threads, pinned, pages, warmup, repeat}
    linears: tuple[LinearRun, ...]
    generations: tuple[GenerationRun, ...]
    profiles: dict[str, tuple[ProfileRow, ...]]  # {kernel: the longest operators first}; empty unless asked for


def write_generation(path: Path, record: GenerationRecord) -> None:
    """Write a generation file, whole or not at all."""
    write_record(path, "generation", GENERATION_VERSION, encode(record))


def read_generation(path: Path) -> GenerationRecord:
    """Read a generation file of this version or an earlier one.

    Raises:
        RecordError: not a generation file, a later version, or a value is missing or of the wrong type.
    """
    return decode(GenerationRecord, _upgraded(read_record(path, "generation", GENERATION_VERSION)), str(path))


def _upgraded(body: dict[str, Any]) -> dict[str, Any]:
    """A record of any version with the keys of this one: runs of version 1 do not say their sparsity."""
    runs = body.get("generations")
    if body["version"] == GENERATION_VERSION or not isinstance(runs, list):
        return body
    missing = dict.fromkeys(("static_sparsity", "dynamic_sparsity", "total_sparsity"))
    return body | {"generations": [missing | run if isinstance(run, dict) else run for run in runs]}
