"""What a simulation says: cycles, where they went, bytes and actions; and the result file.

Standard library only, so that reports need nothing else to read a result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from xmsim.configs.codec import decode, encode, json_key
from xmsim.configs.costs import Costs
from xmsim.configs.densities import Densities
from xmsim.configs.record import read_record, write_record
from xmsim.sim.head_sampling import Estimate, Stratum, estimate_total

RESULT_VERSION = 3

PREFILL = "prefill"  # all queries of a window at once
DECODE = "decode"  # one query after the other, each on the keys so far

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
class PhaseResult:
    """The projections before attention, or the one behind it: a share of the layer as that of a head."""

    cycles: int = field(metadata=json_key("total_cycles"))
    latency_ms: float
    busy: StageCycles = field(metadata=json_key("busy_cycles"))
    stalls: CauseCycles = field(metadata=json_key("stall_cycles"))
    traffic: dict[str, dict[str, int]]
    actions: dict[str, dict[str, int]]
    useful_macs: int  # tokens × channels in × channels out


@dataclass(frozen=True, slots=True)
class ProjectionResult:
    """The phases around attention; heads and both of them add up to the layer."""

    input: PhaseResult  # queries, keys and values
    output: PhaseResult


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
    heads: tuple[HeadResult, ...] = field(repr=False)  # they fill screens
    densities: Densities
    useful_macs: int  # multiply-accumulates the mask asks for, 2 × kept pairs × head_dim, and those of simulated projections
    roofline_cycles: int  # no schedule of these jobs is shorter
    serial_cycles: int  # every visit alone, one after the other
    metrics: dict[str, float]  # what the machine's own scheduler reports, e.g. packing_efficiency
    projections: ProjectionResult | None = None  # None: attention alone was simulated

    def projection_phases(self) -> tuple[tuple[str, PhaseResult], ...]:
        """The phases around attention with their names; none if attention alone was simulated."""
        if self.projections is None:
            return ()
        return (("input projections", self.projections.input), ("output projection", self.projections.output))

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
    """One layer of one window of the trace, simulated; in decode, one token of it."""

    layer: int
    window: int
    query_tokens: int
    key_tokens: int
    head_dim: int
    kv_heads: int  # of the layer, simulated or not
    result: SimResult
    sampled_kv_heads: tuple[int, ...] | None = None  # those simulated, each with the query heads that share it; None: all

    @property
    def expansion(self) -> float:
        """How many times what was simulated the layer is: 1 unless heads were sampled."""
        return 1.0 if self.sampled_kv_heads is None else self.kv_heads / len(self.sampled_kv_heads)

    @property
    def heads(self) -> int:
        """Query heads of the layer, simulated or not."""
        return round(len(self.result.heads) * self.expansion)

    @property
    def cycles(self) -> int:
        """Cycles of the whole layer; an estimate where heads were sampled."""
        return round(self.result.cycles * self.expansion)


@dataclass(frozen=True, slots=True)
class HeadSampling:
    """How the heads that were simulated were drawn: in every layer of every window, at random."""

    kv_heads: int  # each with the query heads that share it; all, where a layer has no more
    seed: int


@dataclass(frozen=True, slots=True)
class SimulationRecord:
    """One machine, one method, one trace: the file that `xmsim simulate` writes."""

    machine: MachineFacts
    method: dict[str, Any]  # {name, ...parameters}
    view: str  # "native": the machine's own method; "same mask": one method given to every machine
    phase: str  # "prefill" or "decode"
    trace: dict[str, Any]  # {path, sha256, model, text}
    engine: str
    sampling: HeadSampling | None  # None: every head was simulated
    runs: tuple[LayerRun, ...] = field(repr=False)  # they fill screens
    costs: Costs | None = None  # None: the machine does not say what it is made of

    @property
    def cycles(self) -> int:
        """Cycles of all layers and windows, one after the other; an estimate where heads were sampled."""
        return round(self.estimate.total)

    @property
    def estimate(self) -> Estimate:
        """The cycles of all layers and windows with their 95 % confidence interval, of width 0 where every head was simulated.

        A layer of a window is a stratum, and a KV group's cycles are those that the log gives its heads, over all tokens of a decode.
        """
        strata: dict[tuple[int, int], list[list[float]]] = {}
        members: dict[tuple[int, int], int] = {}
        for run in self.runs:
            members[run.layer, run.window] = 1 if run.sampled_kv_heads is None else run.kv_heads
            strata.setdefault((run.layer, run.window), []).append(_group_cycles(run))
        return estimate_total(
            Stratum(members[place], tuple(sum(step) for step in zip(*steps, strict=True))) for place, steps in strata.items()
        )

    @property
    def median_token_cycles(self) -> float:
        """Cycles of a token through all layers that are here, the median over tokens; for a decode."""
        tokens: dict[tuple[int, int], int] = {}
        for run in self.runs:
            tokens[run.window, run.key_tokens] = tokens.get((run.window, run.key_tokens), 0) + run.cycles
        return median(tokens.values())

    def actions(self) -> dict[str, dict[str, float]]:
        """{component: {action: count}} of all layers and windows; estimates where heads were sampled."""
        total: dict[str, dict[str, float]] = {}
        for run in self.runs:
            for unit, counts in run.result.actions.items():
                of_unit = total.setdefault(unit, {})
                for action, count in counts.items():
                    of_unit[action] = of_unit.get(action, 0) + run.expansion * count
        return total

    def dram_bytes(self) -> float:
        """Bytes of all layers and windows on the DRAM channels; an estimate where heads were sampled."""
        return sum(run.expansion * sum(sum(channel.values()) for channel in run.result.traffic.values()) for run in self.runs)

    def milliseconds(self, cycles: float) -> float:
        """Time of so many cycles at this machine's clock."""
        return cycles / (self.machine.clock_mhz * 1e3)


def write_result(path: str | Path, record: SimulationRecord) -> None:
    """Write a result file, whole or not at all; the totals in it are for people, readers add up the runs."""
    totals: dict[str, Any] = {"total_cycles": record.cycles, "total_ms": record.milliseconds(record.cycles)}
    if record.sampling:
        totals |= {"total_low_cycles": record.estimate.low, "total_high_cycles": record.estimate.high}
    if record.phase == DECODE:
        totals |= {"median_token_ms": record.milliseconds(record.median_token_cycles)}
    write_record(Path(path), "result", RESULT_VERSION, totals | encode(record))


def read_result(path: str | Path) -> SimulationRecord:
    """Read a result file of this version or an earlier one.

    Raises:
        RecordError: not a result file, a later version, or a value is missing or of the wrong type.
    """
    return decode(SimulationRecord, _upgraded(read_record(Path(path), "result", RESULT_VERSION)), str(path))


def _upgraded(body: dict[str, Any]) -> dict[str, Any]:
    """A record of any version with the keys of this one."""
    if body["version"] > 2:
        return body
    body = {"costs": None} | body
    if body["version"] > 1:
        return body
    runs = body.get("runs")
    if isinstance(runs, list):
        runs = [_upgraded_run(run) if isinstance(run, dict) else run for run in runs]
    return body | {"phase": PREFILL, "sampling": None, "runs": runs}


def _upgraded_run(run: dict[str, Any]) -> dict[str, Any]:
    result = run.get("result")
    projections = {"result": {"projections": None} | result} if isinstance(result, dict) else {}
    return {"sampled_kv_heads": None} | run | projections


def _group_cycles(run: LayerRun) -> list[float]:
    """Cycles of each KV group that was simulated, with an equal part of the projections; of the layer as one where all were."""
    if run.sampled_kv_heads is None:
        return [run.result.cycles]
    cycles = [head.cycles for head in run.result.heads]
    share = len(cycles) // len(run.sampled_kv_heads)
    around = (run.result.cycles - sum(cycles)) / len(run.sampled_kv_heads)
    return [sum(cycles[first : first + share]) + around for first in range(0, len(cycles), share)]
