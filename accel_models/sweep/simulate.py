"""What a worker does with some points of one machine and one trace: their cycles, bytes, energy and area."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from xmsim.accel_models.accelerator import Accelerator, execute
from xmsim.accel_models.machine_file import load_accelerator
from xmsim.accel_models.sweep.code_version import code_sha256
from xmsim.accel_models.sweep.masks import MaskFolder
from xmsim.accel_models.sweep.points import TracePart, Values, with_values
from xmsim.configs.errors import XmsimError
from xmsim.configs.schema import check_overridden
from xmsim.sim.costs import PICOJOULES_PER_MILLIWATT
from xmsim.sim.log import layer_account
from xmsim.sim.schedule import Schedule, bounds
from xmsim.traces.store import Trace, open_trace
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import Method

Metrics = dict[str, float]  # units end the names
Counts = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a point: its numbers, or why there are none."""

    key: str
    metrics: Metrics | None
    error: str | None = None  # one sentence


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """What a worker needs to know of a point besides its machine and trace."""

    key: str
    schedule_key: str
    method: Method | None  # None: the configuration names none that exists, and cannot be read
    values: Values


@dataclass(frozen=True, slots=True)
class PointTask:
    """Points of one machine on one part of a trace; those whose Schedules are alike follow each other."""

    machine: str  # shipped name or path
    config: dict[str, Any]  # before any axis
    trace: Path
    trace_sha256: str
    part: TracePart
    masks: Path
    points: tuple[PlannedPoint, ...]
    error_bars: bool
    code_sha256: str


@dataclass(frozen=True, slots=True)
class MaskTask:
    """The masks of a layer by one method."""

    key: str  # of the method's masks on this trace
    trace: Path
    trace_sha256: str
    part: TracePart
    masks: Path
    method: Method
    layer: int
    code_sha256: str


def make_mask(task: MaskTask) -> tuple[str, str | None]:
    """Make them; gives the key of the task, and the sentence that says why there are none, or None."""
    trace = _trace(task)
    errors: dict[str, str] = {}
    with _recorded(errors, task.key):
        MaskFolder(task.masks).make(trace, task.part, task.method, task.layer)
    return task.key, errors.get(task.key)


def simulate_points(task: PointTask) -> list[Outcome]:
    """Simulate every point, workload by workload, so that the Schedule of one is in memory at a time.

    A point that cannot be simulated gives an Outcome with an error, whatever the error is, and costs no other its result.

    Raises:
        XmsimError: this worker has another xmsim or another trace than the sweep was started with.
    """
    trace, masks = _trace(task), MaskFolder(task.masks)
    runs: dict[str, _Run] = {}
    errors: dict[str, str] = {}
    for point in task.points:
        with _recorded(errors, point.key):
            runs[point.key] = _Run(_machine(task, point))
    for layer, window in product(task.part.layers, range(trace.windows)):
        for keys in task.part.cache_tokens(trace.manifest.valid_tokens[window]):
            latest: tuple[str, AttentionWorkload, Schedule] | None = None
            for point in task.points:
                if point.key in errors:
                    continue
                with _recorded(errors, point.key):
                    run = runs[point.key]
                    if latest is not None and latest[0] == point.schedule_key:
                        _, workload, schedule = latest
                        run.add(workload, replace(schedule, channels=(run.machine.dram_channel(),)))
                        continue
                    assert point.method is not None  # or it has its error
                    workload = masks.workload(trace, task.part, point.method, layer, window, keys)
                    latest = point.schedule_key, workload, run.machine.layer_schedule(workload)
                    run.add(workload, latest[2])
    metrics: dict[str, Metrics] = {}
    for key in runs:
        if key not in errors:
            with _recorded(errors, key):
                metrics[key] = runs[key].metrics(error_bars=task.error_bars)
    return [Outcome(point.key, metrics.get(point.key), errors.get(point.key)) for point in task.points]


class _Run:
    """A point on its way through the layers."""

    def __init__(self, machine: Accelerator) -> None:
        self.machine = machine
        self._cycles = self._roofline_cycles = self._kept = self._allowed = 0
        self._actions: Counts = {}
        self._traffic: Counts = {}

    def add(self, workload: AttentionWorkload, schedule: Schedule) -> None:
        """Run one workload."""
        log = execute(schedule, "compiled")
        account = layer_account(schedule, log)
        self._cycles += log.cycles
        self._roofline_cycles += bounds(schedule)[0]
        self._kept += int(workload.kept_pairs().sum())
        self._allowed += workload.heads * workload.allowed_pairs()
        _add_counts(self._actions, account.actions)
        _add_counts(self._traffic, account.traffic)

    def metrics(self, *, error_bars: bool) -> Metrics:
        """The sums over all workloads; no area and energy where the YAML says no technology."""
        milliseconds = self._cycles / (self.machine.config.clock_mhz * 1e3)
        simulated: Metrics = {
            "total_cycles": self._cycles,
            "roofline_cycles": self._roofline_cycles,
            "latency_ms": milliseconds,
            "density": self._kept / self._allowed,
            "dram_bytes": sum(sum(channel.values()) for channel in self._traffic.values()),
        }
        estimate = self.machine.nominal_costs(self._actions, self._traffic, milliseconds)
        if estimate is None:
            return simulated
        nominal = {
            "area_mm2": estimate.area_mm2,
            "energy_pj": estimate.on_chip_energy_pj + estimate.dram_energy_pj,
            "on_chip_energy_pj": estimate.on_chip_energy_pj,
            "dram_energy_pj": estimate.dram_energy_pj,
            "power_mw": estimate.on_chip_energy_pj / (milliseconds * PICOJOULES_PER_MILLIWATT),
        }
        bars = self._bars(milliseconds) if error_bars else {}
        return simulated | nominal | bars

    def _bars(self, milliseconds: float) -> Metrics:
        costs = self.machine.costs(self._actions, self._traffic, milliseconds)
        assert costs is not None  # there are nominal ones
        return {
            "area_low_mm2": costs.area.total.low,
            "area_high_mm2": costs.area.total.high,
            "energy_low_pj": costs.energy.low,
            "energy_high_pj": costs.energy.high,
        }


def _add_counts(total: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    for owner, counts in more.items():
        own = total.setdefault(owner, {})
        for name, count in counts.items():
            own[name] = own.get(name, 0) + count


@contextmanager
def _recorded(errors: dict[str, str], key: str) -> Iterator[None]:
    """Note why what stands inside went wrong, whatever it is: thousands of other points wait behind it."""
    try:
        yield
    except XmsimError as error:
        errors[key] = "; ".join(str(error).splitlines())
    except MemoryError:
        errors[key] = "not enough memory for this point; use fewer tokens or heads"
    except Exception as error:
        errors[key] = "; ".join(f"{type(error).__name__}: {error}".splitlines())


def _machine(task: PointTask, point: PlannedPoint) -> Accelerator:
    named = _loaded_machine(task.machine)
    config = with_values(task.config, point.values)
    return type(named)(named.name, check_overridden(Path(task.machine), config, type(named).Config, named.name))


@cache
def _loaded_machine(source: str) -> Accelerator:
    return load_accelerator(source)


def _trace(task: PointTask | MaskTask) -> Trace:
    """The trace of a task.

    Raises:
        XmsimError: it, or this worker's xmsim, is not what the sweep was started with.
    """
    if task.code_sha256 != code_sha256():
        raise XmsimError("a worker has another xmsim than this command; install the same one on every machine of the cluster")
    trace = _opened_trace(task.trace)
    if trace.sha256 != task.trace_sha256:
        raise XmsimError(f"{task.trace}: this is not the trace that the sweep was started with; start the sweep anew")
    return trace


@cache
def _opened_trace(folder: Path) -> Trace:
    return open_trace(folder)
