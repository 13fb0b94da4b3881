"""What every machine has in common: a configuration, a Schedule for a workload, and the run of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from xmsim.configs.schema import Config, PositiveFloat
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.event_engine import run_events
from xmsim.sim.log import head_accounts, idle_cycles, layer_account
from xmsim.sim.result import HeadResult, MachineFacts, SimResult
from xmsim.sim.schedule import Channel, Schedule, bounds
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods import MethodReference

ENGINES = {"compiled": run_compiled, "event": run_events}  # equal logs: fast, and readable
Engine = Literal["compiled", "event"]


class DramConfig(Config):
    """One DRAM channel: a line with a bandwidth, and a latency for reads."""

    gigabytes_per_second: Annotated[float, Field(ge=1e-3, le=1e6)]  # 1e9 bytes
    latency_ns: Annotated[float, Field(ge=0, le=1e6)]


class AreaConfig(Config):
    """Area as published, or why there is none."""

    published_mm2: PositiveFloat | None = None
    source: str


class MachineConfig(Config):
    """Keys that every machine's YAML has."""

    model: str
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)]
    method: MethodReference  # the sparsity method this machine is built for
    dram: DramConfig
    area: AreaConfig
    sources: dict[str, str]  # {key: where its value comes from}


class Accelerator(ABC):
    """A machine: writes Schedules, and runs them."""

    Config: ClassVar[type[MachineConfig]]

    def __init__(self, name: str, config: MachineConfig) -> None:
        self.name = name
        self.config = config

    @abstractmethod
    def schedule(self, workload: AttentionWorkload) -> Schedule:
        """Every choice this machine makes for one layer.

        Raises:
            WorkloadError: the workload does not fit the machine; the text says what to change.
        """

    @abstractmethod
    def peak_macs_per_cycle(self) -> int:
        """Full-precision multiply-accumulates in a cycle when every unit works."""

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """What the machine's own scheduler reports besides cycles."""
        return {}

    def dram_channel(self) -> Channel:
        """The DRAM of the configuration at this machine's clock."""
        dram = self.config.dram
        clock_hz = Fraction(str(self.config.clock_mhz)) * 10**6
        latency_cycles = Fraction(str(dram.latency_ns)) * clock_hz / 10**9
        bytes_per_cycle = Fraction(str(dram.gigabytes_per_second)) * 10**9 / clock_hz
        return Channel("dram", bytes_per_cycle, math.ceil(latency_cycles))

    def facts(self) -> MachineFacts:
        """What a report needs to know about this machine."""
        return MachineFacts(
            name=self.name,
            model=self.config.model,
            clock_mhz=self.config.clock_mhz,
            peak_macs_per_cycle=self.peak_macs_per_cycle(),
            dram_bytes_per_cycle=float(self.dram_channel().bytes_per_cycle),
            area_mm2=self.config.area.published_mm2,
            area_source=self.config.area.source,
            config=self.config.model_dump(mode="json"),
        )

    def simulate(self, workload: AttentionWorkload, engine: Engine = "compiled") -> SimResult:
        """Run one layer.

        Raises:
            WorkloadError: the workload does not fit the machine.
            ValueError: no such engine.
        """
        if engine not in ENGINES:
            raise ValueError(f"no engine {engine}; there is {', '.join(ENGINES)}")
        schedule = self.schedule(workload)
        log = ENGINES[engine](schedule)
        account = layer_account(schedule, log)
        roofline_cycles, serial_cycles = bounds(schedule)
        densities = workload.head_densities()
        useful_macs = [2 * int(kept) * workload.head_dim for kept in workload.kept_pairs()]
        ms_per_cycle = 1 / (self.config.clock_mhz * 1e3)
        heads = tuple(
            HeadResult(
                head=head,
                cycles=cycles,
                latency_ms=cycles * ms_per_cycle,
                busy=own.busy,
                stalls=own.stalls,
                traffic=own.traffic,
                actions=own.actions,
                densities=densities[head],
                useful_macs=useful_macs[head],
            )
            for head, (cycles, own) in head_accounts(schedule, log).items()
        )
        return SimResult(
            cycles=log.cycles,
            latency_ms=log.cycles * ms_per_cycle,
            servers={stage.name: stage.servers for stage in schedule.stages},
            busy=account.busy,
            stalls=account.stalls,
            idle=idle_cycles(schedule, log),
            traffic=account.traffic,
            actions=account.actions,
            heads=heads,
            densities=workload.densities(),
            useful_macs=sum(useful_macs),
            roofline_cycles=roofline_cycles,
            serial_cycles=serial_cycles,
            metrics=self.metrics(workload),
        )
