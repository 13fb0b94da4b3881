"""Reading the YAML of a sweep: every name and value in it is checked alone before anything runs.

Values that do not go together are not looked for here: such a point fails when its turn comes, and costs no other its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from xmsim.accel_models.accelerator import Accelerator
from xmsim.accel_models.machine_file import load_accelerator
from xmsim.accel_models.sweep.points import Axis, Sweep, SweptMachine
from xmsim.configs.errors import ConfigError, XmsimError, nearest
from xmsim.configs.schema import Config, PositiveInt, check_config
from xmsim.configs.selection import parse_selection
from xmsim.configs.shipped import find_config, shipped_names
from xmsim.configs.yaml_file import KeyPath, YamlDocument, read_yaml
from xmsim.traces.store import Trace, open_trace
from xmsim.workloads.decode import refuse_undecodable
from xmsim.workloads.methods.library import Method, MethodReference, load_method

FOLDER = "sweeps"
NATIVE = "native"  # among methods: each machine's own

Loaded = TypeVar("Loaded")


class SweepConfig(Config):
    """Keys of a sweep's YAML."""

    machines: list[str]  # shipped names or YAML files
    traces: list[str] = Field(default_factory=list)  # folders; the command line may name others instead
    methods: list[str] = Field(default_factory=lambda: [NATIVE])
    axes: dict[str, list[Any]] = Field(default_factory=dict)  # {dotted path in the machine's YAML: values}, each with each other
    layers: Annotated[str, Field(coerce_numbers_to_str=True, max_length=200)] | None = (
        None  # of the model, e.g. 0-3,5; None: all of a trace
    )
    decode: PositiveInt | None = None  # the last tokens of each window, one by one on the growing cache; None: the prefill
    together: list[dict[str, list[Any]]] = Field(default_factory=list)  # paths that vary in step
    error_bars: bool = False


def shipped_sweeps() -> tuple[str, ...]:
    """Names of the sweeps that come with xmsim."""
    return shipped_names(FOLDER)


def read_sweep(name_or_path: str | Path, traces: Sequence[Path] = ()) -> Sweep:
    """Read the sweep that a YAML file describes; a plain name is looked up among the shipped ones.

    Args:
        traces: folders that are used instead of those in the file; none: those in the file.
    Raises:
        ConfigError: `file:line:column: key: what is wrong` for an unknown field, an empty or doubled axis or value, or a wrong type.
        XmsimError: a machine, a method or a trace that cannot be used.
    """
    document = read_yaml(find_config(FOLDER, name_or_path, "sweep"))
    config = check_config(document, SweepConfig)
    for name in ("machines", "methods"):
        _refuse_empty_and_doubled(document, (name,), getattr(config, name))
    machines = tuple(
        SweptMachine(_wherever(name), machine) for name, machine in _loaded(document, "machines", config.machines, load_accelerator)
    )
    _refuse_equal_names(document, machines)
    methods = tuple(method for _, method in _loaded(document, "methods", config.methods, _method))
    if traces:
        opened = [open_trace(folder) for folder in traces]
    else:
        _refuse_empty_and_doubled(document, ("traces",), config.traces)
        opened = [trace for _, trace in _loaded(document, "traces", config.traces, open_trace)]
    _refuse_equal_traces(opened)
    layers = _layers(document, config, opened)
    if config.decode is not None:
        _refuse_undecodable(document, config.decode, opened, layers)
    axes = tuple(_axes(document, config, machines))
    return Sweep(machines, tuple(opened), methods, axes, config.error_bars, layers, config.decode)


def _loaded(document: YamlDocument, key: str, names: Sequence[str], load: Callable[[str], Loaded]) -> Iterator[tuple[str, Loaded]]:
    """Each name with what it stands for; a name that stands for nothing is answered with its line."""
    for at, name in enumerate(names):
        try:
            yield name, load(name)
        except XmsimError as error:
            raise ConfigError(f"{document.place((key, at))}: {key}: {error}") from error


def _wherever(machine: str) -> str:
    """The name, or the path of a file as a worker in another folder finds it."""
    return str(Path(machine).resolve()) if Path(machine).suffix in (".yaml", ".yml") else machine


def _method(name: str) -> Method | None:
    return None if name == NATIVE else load_method(name)


def _refuse_equal_traces(traces: Sequence[Trace]) -> None:
    hashes = [trace.sha256 for trace in traces]
    for at, trace in enumerate(traces):
        if trace.sha256 in hashes[:at]:
            raise XmsimError(f"sweep: {trace.path} holds the same trace as {traces[hashes.index(trace.sha256)].path}; leave one out")


def _layers(document: YamlDocument, config: SweepConfig, traces: Sequence[Trace]) -> tuple[int, ...] | None:
    """The layers that are named, which every trace must have; None: all."""
    if config.layers is None:
        return None
    for trace in traces:
        try:
            layers = parse_selection(config.layers, trace.layers, "layer")
        except XmsimError as error:
            raise ConfigError(f"{document.place(('layers',))}: {str(error).removeprefix('--')} ({trace.path})") from error
    return layers


def _refuse_undecodable(document: YamlDocument, tokens: int, traces: Sequence[Trace], layers: Sequence[int] | None) -> None:
    for trace in traces:
        try:
            for layer in layers or trace.layers:
                refuse_undecodable(layer, trace.manifest.facts(layer).bias, trace.manifest.valid_tokens, tokens)
        except XmsimError as error:
            raise ConfigError(f"{document.place(('decode',))}: {str(error).removeprefix('--')} ({trace.path})") from error


def _refuse_equal_names(document: YamlDocument, machines: Sequence[SweptMachine]) -> None:
    names = [machine.name for machine in machines]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(f"{document.place(('machines', at))}: machines: two are called {name}; rename the file of one")


def _refuse_empty_and_doubled(document: YamlDocument, key_path: KeyPath, values: Sequence[Any], thing: str = "") -> None:
    name = thing or ".".join(map(str, key_path))
    if not values:
        raise ConfigError(f"{document.place(key_path)}: {name}: names nothing; give at least one")
    for at, value in enumerate(values):
        if value in values[:at]:
            raise ConfigError(f"{document.place((*key_path, at))}: {name}: {_shown(value)} stands here twice; keep one")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _axes(document: YamlDocument, config: SweepConfig, machines: Sequence[SweptMachine]) -> list[Axis]:
    groups: list[tuple[KeyPath, dict[str, list[Any]]]] = [(("together", at), group) for at, group in enumerate(config.together)]
    groups += [(("axes",), {path: values}) for path, values in config.axes.items()]
    axes: list[Axis] = []
    seen: list[str] = []
    for key_path, group in groups:
        if not group:
            raise ConfigError(f"{document.place(key_path)}: together: names nothing; give the fields that vary in step")
        checked = []
        for path, values in group.items():
            here = (*key_path, path)
            _refuse_overlap(document, here, path, seen)
            seen.append(path)
            steps = [_checked(document, here, at, value, machines) for at, value in enumerate(values)]
            if key_path == ("axes",) or not values:
                _refuse_empty_and_doubled(document, here, steps, path)
            checked.append(steps)
        lengths = {path: len(values) for path, values in group.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{path} {length}" for path, length in lengths.items())
            raise ConfigError(f"{document.place(key_path)}: together: fields that vary in step need equally many values ({said})")
        axes.append(Axis(tuple(group), tuple(zip(*checked, strict=True))))
        _refuse_empty_and_doubled(document, key_path, axes[-1].steps, ", ".join(group))
    return axes


def _refuse_overlap(document: YamlDocument, key_path: KeyPath, path: str, others: Sequence[str]) -> None:
    for other in others:
        if path == other:
            raise ConfigError(f"{document.place(key_path)}: {path}: varied by two axes; keep one")
        if path.startswith(f"{other}.") or other.startswith(f"{path}."):
            raise ConfigError(f"{document.place(key_path)}: {path}: part of the same field as {other}, which is varied too; keep one")


def _checked(document: YamlDocument, key_path: KeyPath, at: int, value: Any, machines: Sequence[SweptMachine]) -> Any:
    """The value as every machine's field takes it, as plain data."""
    path = str(key_path[-1])
    data = None
    for machine in machines:
        field = _field(document, key_path, path, machine.machine)
        try:
            data = field.dump_python(field.validate_python(value), mode="json", exclude_none=True)
        except ValidationError as error:
            fault = error.errors()[0]
            within = ".".join(map(str, (path, *fault["loc"])))
            message = fault["msg"].removeprefix("Value error, ")
            given = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
            raise ConfigError(f"{document.place((*key_path, at))}: {within}: {message[0].lower()}{message[1:]}{given}") from error
    return data


def _field(document: YamlDocument, key_path: KeyPath, path: str, machine: Accelerator) -> TypeAdapter[Any]:
    """What may stand at a dotted path of a machine's YAML; below `method` the keys of that method's own file."""
    if path.split(".")[0] == "model":
        raise ConfigError(f"{document.place(key_path)}: {path}: another model is another machine; list its YAML under machines")
    current: type[BaseModel] | None = machine.Config
    field = None
    for part in path.split("."):
        if current is MethodReference and part not in current.model_fields:
            current = type(machine.config.method.load().config)
        known = current.model_fields if current else {}
        if part not in known:
            way_out = nearest(part, tuple(known)) if known else "it has no fields"
            raise ConfigError(f"{document.place(key_path)}: {path}: {machine.name} has no such field; {way_out}")
        field = known[part]
        candidates = (field.annotation, *get_args(field.annotation))
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    assert field is not None  # a path has at least one part
    value: Any = Annotated[field.annotation, field]
    return TypeAdapter(value)
