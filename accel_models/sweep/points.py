"""The points of a sweep: machine, trace, method and a value for each axis; and the key that a point's result is kept under."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

from pydantic import ValidationError

from xmsim.accel_models.accelerator import Accelerator, DramConfig
from xmsim.accel_models.sweep.code_version import model_sha256
from xmsim.traces.store import Trace
from xmsim.workloads.methods.library import Method, MethodReference

UNREAD = "sources"  # the field of a machine's YAML that no result depends on
MOST_KEPT = 4096  # texts of fields, and masks of methods, that are remembered while points are made

Values = Mapping[str, Any]  # {dotted path in the machine's YAML: value}


@dataclass(frozen=True, slots=True)
class Axis:
    """Fields that vary together, and the values of each step."""

    paths: tuple[str, ...]
    steps: tuple[tuple[Any, ...], ...]  # one value a path

    @property
    def name(self) -> str:
        return ", ".join(self.paths)


@dataclass(frozen=True, slots=True)
class TracePart:
    """What of a trace is simulated, in all its windows and heads."""

    layers: tuple[int, ...]  # of the model
    decode_tokens: int | None = None  # the last ones of each window, one by one on the growing cache; None: the prefill

    def cache_tokens(self, valid_tokens: int) -> range:
        """The keys that each workload of a window sees, in order; a prefill is one workload that sees all."""
        return range(valid_tokens - (self.decode_tokens or 1) + 1, valid_tokens + 1)


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
    def described(self) -> dict[str, str]:
        """{field: what of its value reaches a result, as text} before any axis."""
        return {name: _described(name, value) for name, value in sorted(self.config.items()) if name != UNREAD}

    @cached_property
    def code_sha256(self) -> str:
        return model_sha256(self.machine)


@dataclass(frozen=True, slots=True)
class Point:
    """One design on one trace with one mask."""

    key: str  # of its result; equal keys have equal results
    mask_key: str
    machine: SweptMachine
    trace: Trace
    part: TracePart
    method: Method | None  # None: the configuration names none that exists, and the point will fail
    same_mask: bool  # the method is given to every machine, and not the machine's own
    values: Values

    @property
    def method_name(self) -> str:
        """As tables call it."""
        return self.method.name if self.method else "–"

    @property
    def schedule_key(self) -> str:
        """Points of equal ones have the same Schedules but for the channel."""
        unread = self.machine.machine.unscheduled | {UNREAD}
        return _sha256([{name: value for name, value in self.config().items() if name not in unread}, self.mask_key])

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
    layers: tuple[int, ...] | None = None  # of the model; None: all of a trace
    decode_tokens: int | None = None  # the last ones of each window, one by one; None: the prefill

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
        at_machine, at_trace, at_method, *steps = place
        machine = self.machines[at_machine]
        described = dict(machine.described)
        for name, axes in self._axes_of.items():
            described[name] = self._described(at_machine, name, tuple((at, steps[at]) for at in axes))
        method, mask_key = self._mask(at_trace, at_method, described["method"])
        values: dict[str, Any] = {}
        for axis, step in zip(self.axes, steps, strict=True):
            values.update(zip(axis.paths, axis.steps[step], strict=True))
        return Point(
            key=_text_sha256("\n".join((mask_key, str(self.error_bars), machine.code_sha256, *described.values()))),
            mask_key=mask_key,
            machine=machine,
            trace=self.traces[at_trace],
            part=self._parts[at_trace],
            method=method,
            same_mask=self.methods[at_method] is not None,
            values=values,
        )

    @cached_property
    def _parts(self) -> tuple[TracePart, ...]:
        """Of each trace."""
        return tuple(TracePart(self.layers or trace.layers, self.decode_tokens) for trace in self.traces)

    @cached_property
    def _axes_of(self) -> dict[str, list[int]]:
        """{field that reaches a result: the axes that vary it or something in it}."""
        found: dict[str, list[int]] = {}
        for at, axis in enumerate(self.axes):
            for name in dict.fromkeys(_field(path) for path in axis.paths if _field(path) != UNREAD):
                found.setdefault(name, []).append(at)
        return found

    @cached_property
    def _described(self) -> Callable[[int, str, tuple[tuple[int, int], ...]], str]:
        """(machine, field, ((axis, step), ...)): what of the field's value reaches a result, as text; thousands of points share one."""

        @lru_cache(MOST_KEPT)
        def described(at_machine: int, name: str, steps: tuple[tuple[int, int], ...]) -> str:
            values: dict[str, Any] = {}
            for at, step in steps:
                pairs = zip(self.axes[at].paths, self.axes[at].steps[step], strict=True)
                values.update((path, value) for path, value in pairs if _field(path) == name)
            return _described(name, with_values(self.machines[at_machine].config, values)[name])

        return described

    @cached_property
    def _mask(self) -> Callable[[int, int, str], tuple[Method | None, str]]:
        """(trace, method, the machine's own as described): the method whose mask is used, and what its masks are found by."""

        @lru_cache(MOST_KEPT)
        def mask(at_trace: int, at_method: int, own: str) -> tuple[Method | None, str]:
            method = self.methods[at_method] or _own_method(own)
            part = self._parts[at_trace]
            made_of = [self.traces[at_trace].sha256, part.layers, part.decode_tokens, method.parameters if method else None]
            return method, _sha256(made_of)

        return mask


def _field(path: str) -> str:
    """The field of a machine's YAML that a dotted path leads into."""
    return path.partition(".")[0]


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


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(data: Any) -> str:
    return _text_sha256(_canonical(data))


def _described(name: str, value: Any) -> str:
    """A field of a configuration on one line; DRAM with the numbers of its kind, which may stand in a file of the user's."""
    text = _canonical(value)
    if name != "dram":
        return text
    try:
        return _canonical(DramConfig.model_validate_json(text).effective())
    except ValidationError:
        return text


def _own_method(reference: str) -> Method | None:
    try:
        return MethodReference.model_validate_json(reference).load()
    except ValidationError:
        return None
