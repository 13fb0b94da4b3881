"""Runs that a host model has to predict, and what it predicted. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host, Timing
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, check_calibration

HOST_CHECK_VERSION = 1
CROSS_CHECK_VERSION = 1
LEAST_MS, MOST_MS = 1e-9, 1e9  # of a kernel, measured or predicted

LINEAR, PREFILL, DECODE, PREDICTION, MASK = "linear", "prefill", "decode", "prediction", "mask"


@dataclass(frozen=True, slots=True)
class Minute:
    """What the host did at the time of a run, beside its calibration."""

    read_line_ns: float | None  # a 64-byte line from memory, for one thread of the run's; None: not known
    core_drift: float | None  # steps of the core took so many times as long as when it was calibrated; None: not known


@dataclass(frozen=True, slots=True)
class HostRun:
    """One timed call of a kernel."""

    operation: str  # LINEAR, PREFILL, DECODE, PREDICTION or MASK
    kernel: str  # torch, dense, sparse; of a mask its rule
    element: str  # of weights, or of keys and values
    threads: int
    shape: dict[str, Any]  # what its time depends on: see accel_models/host/host_run.py
    timing: Timing
    minute: Minute


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """Errors of a prediction over all its runs, relative to what was measured."""

    mean: float  # of the absolute errors
    p95: float


@dataclass(frozen=True, slots=True)
class HostCheckRecord:
    """A calibration and runs of the same half hour, none of which the calibration saw."""

    calibration: CalibrationRecord
    runs: tuple[HostRun, ...]
    bounds: dict[str, ErrorBound]  # by constants, errors when this was written, rounded up to whole per cent: a later model keeps them


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run, and what the model says."""

    source: str  # the file
    operation: str
    kernel: str
    element: str
    threads: int
    shape: dict[str, Any]
    constants: str  # CALIBRATED or GIVEN_MINUTE
    measured_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    predicted_ms: float
    bound_by: str

    @property
    def error(self) -> float:
        """Signed, relative to what was measured."""
        return self.predicted_ms / self.measured_ms - 1


CALIBRATED = "as calibrated"
GIVEN_MINUTE = "given the bandwidth and clock of that minute"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A measured series that the model does not predict."""

    source: str
    series: str
    reason: str


@dataclass(frozen=True, slots=True)
class CrossCheckRecord:
    """Predictions beside measurements."""

    model: str  # whose constants
    validated: bool  # they were measured on a host, not stated
    host: Host  # that was measured
    runs: tuple[CheckedRun, ...]
    left_out: tuple[LeftOut, ...]


def write_host_check(path: Path, record: HostCheckRecord) -> None:
    """Write a host check, whole or not at all."""
    write_record(path, "host_check", HOST_CHECK_VERSION, encode(record))


def read_host_check(path: Path) -> HostCheckRecord:
    """Read a host check.

    Raises:
        RecordError: not such a file, a later version, or a value is missing or of the wrong type.
    """
    record = decode(HostCheckRecord, read_record(path, "host_check", HOST_CHECK_VERSION), str(path))
    check_calibration(record.calibration, f"{path}: calibration")
    return record


def write_cross_check(path: Path, record: CrossCheckRecord) -> None:
    """Write predictions beside measurements, whole or not at all."""
    write_record(path, "cross_check", CROSS_CHECK_VERSION, encode(record))


def read_cross_check(path: Path) -> CrossCheckRecord:
    """Read them; raises as `read_host_check`, and where a time is none."""
    record = decode(CrossCheckRecord, read_record(path, "cross_check", CROSS_CHECK_VERSION), str(path))
    for number, run in enumerate(record.runs):
        if not all(LEAST_MS <= ms <= MOST_MS for ms in (run.measured_ms, run.first_quartile_ms, run.third_quartile_ms, run.predicted_ms)):
            raise RecordError(f"{path}: runs[{number}]: {LEAST_MS:g} to {MOST_MS:g} ms are needed; was the file edited? predict again")
    return record
