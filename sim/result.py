"""What a simulation says: cycles, where they went, bytes and actions; and the result file.

Standard library only, so that reports need nothing else to read a result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode, encode, json_key
from xmsim.configs.densities import Densities
from xmsim.configs.record import read_record, write_record

RESULT_VERSION = 1

StageCycles = dict[str, int]  # {stage: cycles}
CauseCycles = dict[str, dict[str, int]]  # {stage: {cause: cycles}}


@dataclass(frozen=True, slots=True)
class HeadResult:
    """One query head: the share of the layer that its jobs account for.

    `cycles` is the latest finish up to this head minus that up to the head before, so heads add up to the layer. Idle
    time belongs to a stage and not to a head, so it is kept for the layer alone.
    """

    head: int
    cycles: int = field(metadata=json_key("total_cycles"))
    latency_ms: float
    busy: StageCycles = field(metadata=json_key("busy_cycles"))
    stalls: CauseCycles = field(metadata=json_key("stall_cycles"))
    traffic: dict[str, dict[str, int]]
    actions: dict[str, dict[str, int]]
    densities: Densities
    useful_macs: int


@dataclass(frozen=True, slots=True)
class SimResult:
    """One workload (one layer of one window) on one machine.

    For every stage busy + stalls + idle = servers × cycles, exactly.
    """

    cycles: int = field(metadata=json_key("total_cycles"))
    latency_ms: float  # at the machine's clock
    servers: dict[str, int]  # {stage: servers}
    busy: StageCycles = field(metadata=json_key("busy_cycles"))
    stalls: CauseCycles = field(metadata=json_key("stall_cycles"))
    idle: CauseCycles = field(metadata=json_key("idle_cycles"))  # {stage: {fill, starved, drain}}
    traffic: dict[str, dict[str, int]]  # {channel: {read_bytes, write_bytes}}
    actions: dict[str, dict[str, int]]  # {component: {action: count}}
    heads: tuple[HeadResult, ...]
    densities: Densities
    useful_macs: int  # multiply-accumulates the mask asks for: 2 × kept pairs × head_dim
    roofline_cycles: int  # no schedule of these jobs is shorter
    serial_cycles: int  # every visit alone, one after the other
    metrics: dict[str, float]  # what the machine's own scheduler reports, e.g. packing_efficiency

    def utilisation(self, stage: str) -> float:
        """Share of the server-cycles of a stage in which it works."""
        return self.busy[stage] / (self.servers[stage] * self.cycles) if self.cycles else 0.0


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a report needs to know about a simulated machine."""

    name: str
    model: str
    clock_mhz: float
    peak_macs_per_cycle: int  # full-precision multiply-accumulates; the prediction array is not counted
    dram_bytes_per_cycle: float
    area_mm2: float | None  # None: not known
    area_source: str
    config: dict[str, Any]  # the effective configuration


@dataclass(frozen=True, slots=True)
class LayerRun:
    """One layer of one window of the trace, simulated."""

    layer: int
    window: int
    query_tokens: int
    key_tokens: int
    head_dim: int
    kv_heads: int
    result: SimResult


@dataclass(frozen=True, slots=True)
class SimulationRecord:
    """One machine, one method, one trace: the file that `xmsim simulate` writes."""

    machine: MachineFacts
    method: dict[str, Any]  # {name, ...parameters}
    view: str  # "native": the machine's own method; "same mask": one method given to every machine
    trace: dict[str, Any]  # {path, sha256, model, text}
    engine: str
    runs: tuple[LayerRun, ...]

    @property
    def cycles(self) -> int:
        """Cycles of all layers and windows, one after the other."""
        return sum(run.result.cycles for run in self.runs)

    def milliseconds(self, cycles: int) -> float:
        """Time of so many cycles at this machine's clock."""
        return cycles / (self.machine.clock_mhz * 1e3)


def write_result(path: Path, record: SimulationRecord) -> None:
    """Write a result file, whole or not at all; the totals in it are for people, readers add up the runs."""
    totals = {"total_cycles": record.cycles, "total_ms": record.milliseconds(record.cycles)}
    write_record(path, "result", RESULT_VERSION, totals | encode(record))


def read_result(path: Path) -> SimulationRecord:
    """Read a result file.

    Raises:
        RecordError: not a result file, a later version, or a value is missing or of the wrong type.
    """
    return decode(SimulationRecord, read_record(path, "result", RESULT_VERSION), str(path))
