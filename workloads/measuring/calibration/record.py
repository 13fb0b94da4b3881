"""The file that `xmsim calibrate` writes: a host's constants, each with how well it is known. Standard library only."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record, write_record
from xmsim.workloads.measurement import Host

CALIBRATION_VERSION = 1
LEAST_NS, MOST_NS = 1e-6, 1e11  # of a step; a whole call may take a second


@dataclass(frozen=True, slots=True)
class Constant:
    """Nanoseconds that one thread takes for one step, while `threads` threads do the same."""

    name: str  # the step: see docs/host_models.md
    of: dict[str, Any]  # what the step is done on, threads among it
    per: str  # one of what
    n: int
    median_ns: float
    first_quartile_ns: float
    third_quartile_ns: float

    @classmethod
    def of_samples(cls, name: str, of: dict[str, Any], per: str, samples_ns: list[float]) -> Constant:
        """Summarise at least two samples."""
        first, median, third = statistics.quantiles(samples_ns, n=4, method="inclusive")
        return cls(name, of, per, len(samples_ns), median, first, third)


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A host and its constants."""

    host: Host
    cache_bytes: dict[str, int]  # {l1, l2, l3}: of one core, as far as it sees them
    threads: tuple[int, ...]  # numbers of threads that constants are known for
    constants: tuple[Constant, ...]


def write_calibration(path: Path, record: CalibrationRecord) -> None:
    """Write a calibration file, whole or not at all."""
    write_record(path, "calibration", CALIBRATION_VERSION, encode(record))


def read_calibration(path: Path) -> CalibrationRecord:
    """Read a calibration file.

    Raises:
        RecordError: not a calibration file, a later version, or a value is missing or of the wrong type.
    """
    record = decode(CalibrationRecord, read_record(path, "calibration", CALIBRATION_VERSION), str(path))
    check_calibration(record, str(path))
    return record


def check_calibration(record: CalibrationRecord, place: str) -> None:
    """Refuse constants that no processor has.

    Raises:
        RecordError: a size of a cache is missing, or a step takes no time, or minutes.
    """
    for level in ("l1", "l2", "l3"):
        if not 0 < record.cache_bytes.get(level, 0) < 2**40:
            raise RecordError(f"{place}: cache_bytes.{level} is no size of a cache; calibrate again")
    for number, one in enumerate(record.constants):
        if not all(isinstance(value, str | int) for value in one.of.values()):
            raise RecordError(f"{place}: constants[{number}].of: a name or a whole number is needed; calibrate again")
        if not all(LEAST_NS <= value <= MOST_NS for value in (one.first_quartile_ns, one.median_ns, one.third_quartile_ns)):
            raise RecordError(f"{place}: constants[{number}]: {LEAST_NS:g} to {MOST_NS:g} ns are needed; calibrate again")
