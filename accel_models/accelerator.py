"""What every machine has in common: a configuration, a Schedule for a workload, and the run of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, model_validator

from xmsim.accel_models.projections import INPUT_PHASE_HEAD, DenseArray, output_phase_head, projections_of, with_projections
from xmsim.configs.costs import Costs
from xmsim.configs.errors import ConfigError
from xmsim.configs.schema import Config, PositiveFloat, PositiveInt
from xmsim.configs.technology_tables import TechnologyConfig
from xmsim.sim.channel import rounded_rate
from xmsim.sim.compiled_engine import run_compiled
from xmsim.sim.costs import Actions, NominalCosts, estimate_costs, nominal_costs
from xmsim.sim.dram_energy import DramWork, kind_of_line
from xmsim.sim.dram_preset import DramPreset, bank_model, load_preset
from xmsim.sim.event_engine import run_events
from xmsim.sim.inventory import ComponentCounts
from xmsim.sim.log import Account, EngineLog, head_accounts, idle_cycles, layer_account
from xmsim.sim.result import HeadResult, MachineFacts, PhaseResult, ProjectionResult, SimResult
from xmsim.sim.schedule import Channel, Schedule, bounds
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import MethodReference

ENGINES = {"compiled": run_compiled, "event": run_events}  # equal logs: fast, and readable
Engine = Literal["compiled", "event"]
Traffic = Mapping[str, Mapping[str, float]]  # {channel: {read_bytes, write_bytes}}
MOST_DRAM_BANKS = 2**20  # of a DRAM; each has a place in the state of a run
CostsType = TypeVar("CostsType", Costs, NominalCosts)


def execute(schedule: Schedule, engine: Engine) -> EngineLog:
    """Run a Schedule on the engine of this name.

    Raises:
        ValueError: no such engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine}; there is {', '.join(ENGINES)}")
    return ENGINES[engine](schedule)


class DramConfig(Config):
    """DRAM as a line with a bandwidth, or with the banks and rows of a kind of `configs/dram`; exactly one of the two."""

    gigabytes_per_second: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None  # 1e9 bytes
    kind: str | None = None  # a shipped one, or a YAML file
    channels: PositiveInt | None = None  # physical ones, of a kind; None: as it is sold
    latency_ns: Annotated[float, Field(ge=0, le=1e6)]  # added to reads: of a line all of it, of a kind controller and wires
    _preset: DramPreset | None = PrivateAttr(None)  # what `kind` names

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.gigabytes_per_second is None) == (self.kind is None):
            raise ValueError("give either gigabytes_per_second or kind")
        if self.kind is None:
            if self.channels is not None:
                raise ValueError("channels are those of a kind; name one, or leave them out")
            return self
        try:
            self._preset = load_preset(self.kind)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        channels, banks = self.channels or self._preset.channels, self._preset.organisation.banks
        if channels * banks > MOST_DRAM_BANKS:
            raise ValueError(
                f"{channels} channels of {banks} banks are more than are simulated; the most channels that are: {MOST_DRAM_BANKS // banks}"
            )
        return self

    @property
    def preset(self) -> DramPreset | None:
        """What `kind` names; None: a line."""
        return self._preset

    def channel(self, clock_mhz: float) -> Channel:
        """What a machine of this clock sees of it."""
        machine_mhz = Fraction(str(clock_mhz))
        latency_cycles = math.ceil(Fraction(str(self.latency_ns)) * machine_mhz / 1000)
        if self._preset:
            banks = bank_model(self._preset, self.channels or self._preset.channels, machine_mhz)
            return Channel("dram", banks.bytes_per_cycle, latency_cycles, banks)
        return Channel("dram", rounded_rate(Fraction(str(self.gigabytes_per_second)) * 1000 / machine_mhz), latency_cycles)

    def work(self, kind_of_a_line: str, actions: Actions, traffic: Traffic, time_ms: float) -> DramWork:
        """What it had to do for these bytes in this time: as counted by a kind with banks, or as a line has it on that kind.

        Raises:
            ConfigError: no such kind.
        """
        if self._preset:
            return DramWork(self._preset, actions.get("dram", {}))
        read_bytes, write_bytes = (sum(channel[name] for channel in traffic.values()) for name in ("read_bytes", "write_bytes"))
        assert self.gigabytes_per_second is not None  # what is no kind is a line
        return DramWork.of_line(kind_of_line(kind_of_a_line), self.gigabytes_per_second, read_bytes, write_bytes, time_ms)

    def effective(self) -> dict[str, Any]:
        """What a record says of it: of a kind all its numbers."""
        stated = self.model_dump(mode="json", exclude_none=True)
        return stated | {"preset": self._preset.model_dump(mode="json")} if self._preset else stated


class AreaConfig(Config):
    """Area as published, or why there is none."""

    published_mm2: PositiveFloat | None = None
    source: str


class MachineConfig(Config):
    """Keys that every machine's YAML has."""

    model: str
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)]
    method: MethodReference  # the sparsity method this machine is built for
    projections: Literal["simulated", "none"]  # Q, K, V and output projections around attention, as phases of their own
    dram: DramConfig
    area: AreaConfig
    technology: TechnologyConfig | None = None  # None: area and energy are not estimated
    sources: dict[str, str]  # {key: where its value comes from}


ENGINE_SIDE = frozenset({"clock_mhz", "dram", "area", "technology", "sources"})  # `unscheduled` of all shipped machines


class Accelerator(ABC):
    """A machine: writes Schedules, and runs them."""

    Config: ClassVar[type[MachineConfig]]
    # keys of Config that `layer_schedule` reads nowhere but in `dram_channel`: where these alone differ, Schedules do in their channel
    unscheduled: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, config: MachineConfig) -> None:
        self.name = name
        self.config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def schedule(self, workload: AttentionWorkload) -> Schedule:
        """Every choice this machine makes for the attention of one layer.

        Raises:
            WorkloadError: the workload does not fit the machine; the text says what to change.
        """

    def dense_array(self) -> DenseArray:
        """How this machine multiplies dense matrices, for the projections around attention.

        Raises:
            ConfigError: it does not say.
        """
        raise ConfigError(f"{self.name}: projections: model {self.config.model} has no dense_array to run them on; set projections to none")

    def layer_schedule(self, workload: AttentionWorkload) -> Schedule:
        """What `simulate` runs: the attention, and the projections around it if `projections` says so; raises as both."""
        attention = self.schedule(workload)
        if self.config.projections == "none":
            return attention
        return with_projections(attention, workload, self.dense_array())

    @abstractmethod
    def peak_macs_per_cycle(self) -> int:
        """Full-precision multiply-accumulates in a cycle when every unit works."""

    def area(self) -> ComponentCounts:
        """Parts and memories of the machine, from which area and energy are estimated.

        Raises:
            ConfigError: it does not say.
        """
        raise ConfigError(f"{self.name}: technology: model {self.config.model} has no inventory (`area`); leave technology out")

    def metrics(self, workload: AttentionWorkload) -> dict[str, float]:
        """What the machine's own scheduler reports besides cycles."""
        return {}

    def refuse_foreign_mask(self, workload: AttentionWorkload) -> None:  # noqa: B027, to most machines every mask is native
        """Refuse a mask that this machine is not built for, though it can simulate it.

        Raises:
            WorkloadError: names the field, its rule, and the nearest value with which the mask is the machine's own.
        """

    def dram_channel(self) -> Channel:
        """The DRAM of the configuration at this machine's clock."""
        return self.config.dram.channel(self.config.clock_mhz)

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
            config=self.config.model_dump(mode="json") | {"dram": self.config.dram.effective()},
        )

    def costs(self, actions: Actions, traffic: Traffic, time_ms: float) -> Costs | None:
        """Area, and energy of these actions and bytes over this time; None if the YAML says no technology.

        Raises:
            ConfigError: the tables do not have what the machine is made of, or a memory is slower than the clock.
        """
        return self._costs(estimate_costs, actions, traffic, time_ms)

    def nominal_costs(self, actions: Actions, traffic: Traffic, time_ms: float) -> NominalCosts | None:
        """The nominal values of `costs` alone, in a fraction of the time; raises as it does."""
        return self._costs(nominal_costs, actions, traffic, time_ms)

    def _costs(self, estimate: Callable[..., CostsType], actions: Actions, traffic: Traffic, time_ms: float) -> CostsType | None:
        technology = self.config.technology
        if technology is None:
            return None
        try:
            dram = self.config.dram.work(technology.dram, actions, traffic, time_ms)
            return estimate(self.area(), technology, self.config.clock_mhz, actions, dram, time_ms)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from error

    def simulate(self, workload: AttentionWorkload, engine: Engine = "compiled") -> SimResult:
        """Run one layer.

        Raises:
            WorkloadError: the workload does not fit the machine.
            ValueError: no such engine.
        """
        schedule = self.layer_schedule(workload)
        return self.result(workload, schedule, execute(schedule, engine))

    def result(self, workload: AttentionWorkload, schedule: Schedule, log: EngineLog) -> SimResult:
        """What the log of this workload's Schedule says."""
        account = layer_account(schedule, log)
        shares = head_accounts(schedule, log)
        roofline_cycles, serial_cycles = bounds(schedule)
        densities = workload.head_densities()
        useful_macs = [2 * int(kept) * workload.head_dim for kept in workload.kept_pairs()]
        ms_per_cycle = 1 / (self.config.clock_mhz * 1e3)
        projections = _projection_result(workload, shares, ms_per_cycle)
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
            for head, (cycles, own) in shares.items()
            if head in range(workload.heads)
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
            useful_macs=sum(useful_macs) + (projections.input.useful_macs + projections.output.useful_macs if projections else 0),
            roofline_cycles=roofline_cycles,
            serial_cycles=serial_cycles,
            metrics=self.metrics(workload),
            projections=projections,
        )


def _projection_result(workload: AttentionWorkload, shares: dict[int, tuple[int, Account]], ms_per_cycle: float) -> ProjectionResult | None:
    """The phases around attention; None if the Schedule has none."""
    if INPUT_PHASE_HEAD not in shares:
        return None
    products = projections_of(workload)
    phases = []
    for label, product in ((INPUT_PHASE_HEAD, products.input), (output_phase_head(workload), products.output)):
        cycles, own = shares[label]
        phases.append(PhaseResult(cycles, cycles * ms_per_cycle, own.busy, own.stalls, own.traffic, own.actions, product.macs))
    return ProjectionResult(*phases)
