"""The points of a sweep: machine, trace, method and a value for each axis; and the key that a point's result is kept under."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

from pydantic import ValidationError

from xmsim.accel_models.accelerator import Accelerator, DramConfig
from xmsim.accel_models.sweep.code_version import model_sha256
from xmsim.traces.store import Trace
from xmsim.workloads.methods.library import Method, MethodReference

Values = Mapping[str, Any]  # {dotted path in the machine's YAML: value}


@dataclass(frozen=True, slots=True)
class Axis:
    """Fields that vary together, and the values of each step."""

    paths: tuple[str, ...]
    steps: tuple[tuple[Any, ...], ...]  # one value a path

    @property
    def name(self) -> str:
        return ", ".join(self.paths)


@dataclass(frozen=True)
class SweptMachine:
    """A machine of the sweep: where its YAML lies, and what it says with every default filled in."""

    source: str  # shipped name or path, as load_accelerator takes it
    machine: Accelerator

    @property
    def name(self) -> str:
        return self.machine.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The effective configuration before any axis."""
        return self.machine.config.model_dump(mode="json")

    @cached_property
    def code_sha256(self) -> str:
        return model_sha256(self.machine)


@dataclass(frozen=True, slots=True)
class Point:
    """One design on one trace with one mask."""

    key: str  # of its result; equal keys have equal results
    schedule_key: str  # points of equal ones have the same Schedules but for the channel
    mask_key: str
    machine: SweptMachine
    trace: Trace
    method: Method | None  # None: the configuration names none that exists, and the point will fail
    same_mask: bool  # the method is given to every machine, and not the machine's own
    values: Values

    @property
    def method_name(self) -> str:
        """As tables call it."""
        return self.method.name if self.method else "–"

    def config(self) -> dict[str, Any]:
        """The effective configuration, checked or not."""
        return with_values(self.machine.config, self.values)


@dataclass(frozen=True)
class Sweep:
    """The product of machines, traces, methods and axes."""

    machines: tuple[SweptMachine, ...]
    traces: tuple[Trace, ...]
    methods: tuple[Method | None, ...]  # None: the machine's own
    axes: tuple[Axis, ...]
    error_bars: bool  # of area and energy, by Monte Carlo

    @property
    def shape(self) -> tuple[int, ...]:
        """Choices of each dimension: machines, traces, methods, then the axes."""
        return (len(self.machines), len(self.traces), len(self.methods), *(len(axis.steps) for axis in self.axes))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every field that is varied."""
        return tuple(path for axis in self.axes for path in axis.paths)

    def points(self) -> Iterator[Point]:
        """Every point, the last axis fastest."""
        return map(self.point, product(*map(range, self.shape)))

    def point(self, place: Sequence[int]) -> Point:
        """The point at these choices, one number a dimension of `shape`."""
        machine, trace, method = self.machines[place[0]], self.traces[place[1]], self.methods[place[2]]
        values: dict[str, Any] = {}
        for axis, step in zip(self.axes, place[3:], strict=True):
            values |= zip(axis.paths, axis.steps[step], strict=True)
        config = with_values(machine.config, values)
        used = method or _own_method(_canonical(config["method"]))
        mask_key = _sha256([trace.sha256, used.parameters if used else None])
        said = {name: value for name, value in config.items() if name != "sources"}
        described = said | {"dram": _effective_dram(_canonical(config["dram"]))}
        scheduled = {name: value for name, value in said.items() if name not in machine.machine.unscheduled}
        return Point(
            key=_sha256([described, mask_key, self.error_bars, machine.code_sha256]),
            schedule_key=_sha256([scheduled, mask_key]),
            mask_key=mask_key,
            machine=machine,
            trace=trace,
            method=used,
            same_mask=method is not None,
            values=values,
        )


def with_values(config: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """The configuration with other values at some dotted paths; what is not changed is shared with the original."""
    changed = dict(config)
    for path, value in values.items():
        *parents, last = path.split(".")
        level = changed
        for parent in parents:
            level[parent] = dict(level.get(parent) or {})
            level = level[parent]
        level[last] = value
    return changed


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


def _sha256(data: Any) -> str:
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


@cache
def _own_method(reference: str) -> Method | None:
    try:
        return MethodReference.model_validate_json(reference).load()
    except ValidationError:
        return None


@cache
def _effective_dram(stated: str) -> Any:
    """With the numbers of the kind that it names, which may stand in a file of the user's."""
    try:
        return DramConfig.model_validate_json(stated).effective()
    except ValidationError:
        return json.loads(stated)
