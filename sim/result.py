"""What a simulation says: cycles, where they went, bytes and actions; and the result file.

Standard library only, so that reports need nothing else to read a result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.densities import Densities
from xmsim.configs.errors import RecordError
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
    cycles: int
    busy: StageCycles
    stalls: CauseCycles
    traffic_bytes: dict[str, dict[str, int]]
    actions: dict[str, dict[str, int]]
    densities: Densities
    useful_macs: int


@dataclass(frozen=True, slots=True)
class SimResult:
    """One workload (one layer of one window) on one machine.

    For every stage busy + stalls + idle = servers × cycles, exactly.
    """

    cycles: int
    servers: StageCycles  # {stage: servers}
    busy: StageCycles
    stalls: CauseCycles
    idle: CauseCycles  # {stage: {fill, starved, drain}}
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
    """Write a result file, whole or not at all."""
    write_record(path, "result", RESULT_VERSION, result_body(record))


def result_body(record: SimulationRecord) -> dict[str, Any]:
    """The JSON body of a record; every number has its unit in its key."""
    body: dict[str, Any] = {
        "machine": asdict(record.machine),
        "method": record.method,
        "view": record.view,
        "trace": record.trace,
        "engine": record.engine,
        "total_cycles": record.cycles,
        "total_ms": record.milliseconds(record.cycles),
        "runs": [_run_body(record, run) for run in record.runs],
    }
    return body


def _run_body(record: SimulationRecord, run: LayerRun) -> dict[str, Any]:
    result = run.result
    return {
        "layer": run.layer,
        "window": run.window,
        "query_tokens": run.query_tokens,
        "key_tokens": run.key_tokens,
        "head_dim": run.head_dim,
        "kv_heads": run.kv_heads,
        "latency_ms": record.milliseconds(result.cycles),
        "total_cycles": result.cycles,
        "servers": result.servers,
        "busy_cycles": result.busy,
        "stall_cycles": result.stalls,
        "idle_cycles": result.idle,
        "traffic": result.traffic,
        "actions": result.actions,
        "densities": asdict(result.densities),
        "useful_macs": result.useful_macs,
        "roofline_cycles": result.roofline_cycles,
        "serial_cycles": result.serial_cycles,
        "metrics": result.metrics,
        "heads": [_head_body(record, head) for head in result.heads],
    }


def _head_body(record: SimulationRecord, head: HeadResult) -> dict[str, Any]:
    return {
        "head": head.head,
        "latency_ms": record.milliseconds(head.cycles),
        "total_cycles": head.cycles,
        "busy_cycles": head.busy,
        "stall_cycles": head.stalls,
        "traffic": head.traffic_bytes,
        "actions": head.actions,
        "densities": asdict(head.densities),
        "useful_macs": head.useful_macs,
    }


def read_result(path: Path) -> SimulationRecord:
    """Read a result file.

    Raises:
        RecordError: not a result file, a later version, or a field is missing or edited away.
    """
    body = read_record(path, "result", RESULT_VERSION)
    try:
        return SimulationRecord(
            machine=MachineFacts(**body["machine"]),
            method=body["method"],
            view=body["view"],
            trace=body["trace"],
            engine=body["engine"],
            runs=tuple(_run(run) for run in body["runs"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: the result is incomplete or was edited ({error}); simulate again") from error


def _run(body: dict[str, Any]) -> LayerRun:
    result = SimResult(
        cycles=body["total_cycles"],
        servers=body["servers"],
        busy=body["busy_cycles"],
        stalls=body["stall_cycles"],
        idle=body["idle_cycles"],
        traffic=body["traffic"],
        actions=body["actions"],
        heads=tuple(_head(head) for head in body["heads"]),
        densities=Densities(**body["densities"]),
        useful_macs=body["useful_macs"],
        roofline_cycles=body["roofline_cycles"],
        serial_cycles=body["serial_cycles"],
        metrics=body["metrics"],
    )
    return LayerRun(
        layer=body["layer"],
        window=body["window"],
        query_tokens=body["query_tokens"],
        key_tokens=body["key_tokens"],
        head_dim=body["head_dim"],
        kv_heads=body["kv_heads"],
        result=result,
    )


def _head(body: dict[str, Any]) -> HeadResult:
    return HeadResult(
        head=body["head"],
        cycles=body["total_cycles"],
        busy=body["busy_cycles"],
        stalls=body["stall_cycles"],
        traffic_bytes=body["traffic"],
        actions=body["actions"],
        densities=Densities(**body["densities"]),
        useful_macs=body["useful_macs"],
    )
