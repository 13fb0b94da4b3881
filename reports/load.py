"""From a list of files to one comparison: the same trace, the same layers and windows, the same shapes for everyone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from xmsim.configs.densities import Densities
from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.record import read_record, record_kind
from xmsim.reports.words import counted, listed
from xmsim.sim.result import RESULT_VERSION, SimResult, SimulationRecord, read_result
from xmsim.workloads.measurement import MEASUREMENT_VERSION, MeasuredRun, MeasurementRecord, Timing, read_measurement

NATIVE_VIEW = "native"

Place = tuple[int, int]  # (layer, window)


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the attention of one layer of one window."""

    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.heads} heads over {self.kv_heads}, {self.query_tokens} queries × {self.key_tokens} keys × {self.head_dim}"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A result file."""

    path: Path
    software: str  # the xmsim that wrote it
    record: SimulationRecord
    label: str  # the machine's name, with the file's where two files of a view share it

    @property
    def method(self) -> str:
        """The method's name, and how its scores were predicted: masks of exact and of low-bit scores differ."""
        name, prediction = str(self.record.method.get("name", "unnamed")), self.record.method.get("prediction")
        if not isinstance(prediction, dict):
            return name
        return f"{name}, {prediction.get('bits')}-bit 1:{prediction.get('group')}"

    @property
    def bar_group(self) -> tuple[str, str]:
        """Results of one group may stand side by side: a view, and for "same mask" the method that made the mask."""
        view = self.record.view
        return view, "" if view == NATIVE_VIEW else json.dumps(self.record.method, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement file."""

    path: Path
    software: str
    record: MeasurementRecord


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results and measurements of the same work; runs that not every file has are gone."""

    trace: dict[str, Any]
    work: dict[Place, Shape]
    simulated: tuple[Simulated, ...]
    measured: tuple[Measured, ...]
    left_out: tuple[str, ...]  # sentences about runs that are gone

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for layer, _ in self.work}))

    @property
    def windows(self) -> tuple[int, ...]:
        return tuple(sorted({window for _, window in self.work}))


def load(files: Sequence[Path]) -> Comparison:
    """Read result and measurement files and make sure that they speak of the same work.

    Raises:
        RecordError: a file that is neither, is damaged, or does not fit the others (both files are named).
        XmsimError: no file was given.
    """
    simulated: list[Simulated] = []
    measured: list[Measured] = []
    for path in {path.resolve(): path for path in files}.values():
        kind = record_kind(path)
        if kind == "result":
            simulated.append(_read_simulated(path))
        elif kind == "measurement":
            measured.append(_read_measured(path))
        else:
            raise RecordError(f"{path}: this is a {kind} file; compare reads what simulate and measure write")
    if not simulated and not measured:
        raise XmsimError("compare: no file was given; name the files that simulate and measure wrote")
    sources: list[Simulated | Measured] = [*simulated, *measured]
    _refuse_different_traces(sources)
    work = _shared_work(sources)
    return Comparison(
        trace=sources[0].record.trace,
        work=work,
        simulated=tuple(replace(one, record=_only(one.record, work)) for one in _labelled(simulated)),
        measured=tuple(replace(one, record=_only(one.record, work)) for one in measured),
        left_out=tuple(sentence for source in sources for sentence in _left_out(source, work)),
    )


def _read_simulated(path: Path) -> Simulated:
    record = read_result(path)
    machine = record.machine
    if not record.runs or not all(
        1e-6 <= number <= 1e12 for number in (machine.clock_mhz, machine.peak_macs_per_cycle, machine.dram_bytes_per_cycle)
    ):
        raise RecordError(f"{path}: the result has no layer, clock, peak or bandwidth that a machine can have; simulate again")
    for run in record.runs:
        if not _adds_up(run.result):
            raise RecordError(
                f"{path}: layer {run.layer}: busy, stalled and idle cycles are not servers × cycles; was the file edited? simulate again"
            )
        if not all(_are_shares(densities) for densities in (run.result.densities, *(head.densities for head in run.result.heads))):
            raise RecordError(f"{path}: layer {run.layer}: a density is not between 0 and 1; was the file edited? simulate again")
    return Simulated(path, _software(path, "result", RESULT_VERSION), record, label=machine.name)


def _read_measured(path: Path) -> Measured:
    record = read_measurement(path)
    if not record.runs or not all(_in_order(run.timing) for run in record.runs):
        raise RecordError(f"{path}: the measurement has no runs, or one whose median is not between its quartiles; measure again")
    return Measured(path, _software(path, "measurement", MEASUREMENT_VERSION), record)


def _software(path: Path, kind: str, newest: int) -> str:
    return str(read_record(path, kind, newest).get("xmsim", "unknown"))


def _adds_up(result: SimResult) -> bool:
    """Every server-cycle of every stage is accounted for."""
    if not result.servers or not result.servers.keys() == result.busy.keys() == result.stalls.keys() == result.idle.keys():
        return False
    return all(
        result.busy[stage] + sum(result.stalls[stage].values()) + sum(result.idle[stage].values()) == servers * result.cycles > 0
        for stage, servers in result.servers.items()
    )


def _are_shares(densities: Densities) -> bool:
    return all(0 <= share <= 1 for share in (densities.density, densities.full_density, densities.kv_density))


def _in_order(timing: Timing) -> bool:
    return timing.n > 0 and 0 < timing.first_quartile_ms <= timing.median_ms <= timing.third_quartile_ms


def _refuse_different_traces(sources: Sequence[Simulated | Measured]) -> None:
    hashes = [_trace_hash(source) for source in sources]
    for source, sha256 in zip(sources, hashes, strict=True):
        if sha256 != hashes[0]:
            raise RecordError(
                f"{sources[0].path} and {source.path}: made from different traces ({hashes[0][:12]} and {sha256[:12]}); "
                f"compare files of one trace, one report for each"
            )


def _trace_hash(source: Simulated | Measured) -> str:
    if not source.record.trace.get("sha256"):
        raise RecordError(f"{source.path}: does not say which trace it was made from; run the command that wrote it again")
    return str(source.record.trace["sha256"])


def _shared_work(sources: Sequence[Simulated | Measured]) -> dict[Place, Shape]:
    """The layers and windows that all sources have, with the shape they agree on."""
    first = sources[0]
    shapes = {source.path: _work(source) for source in sources}
    for source in sources:
        for place, shape in shapes[source.path].items():
            expected = shapes[first.path].get(place, shape)
            if shape != expected:
                raise RecordError(
                    f"{first.path} and {source.path}: layer {place[0]}, window {place[1]} is {expected} in one and {shape} in the other; "
                    f"simulate and measure the same tokens and heads"
                )
    places = reduce(set.intersection, (set(work) for work in shapes.values()))
    if not places:
        names = listed(str(source.path) for source in sources)
        raise RecordError(f"{names}: have no layer and window in common; run them on the same layers")
    return {place: shapes[first.path][place] for place in sorted(places)}


def _work(source: Simulated | Measured) -> dict[Place, Shape]:
    """Where a source has a number; a measurement must have one for every operation it timed."""
    if isinstance(source, Simulated):
        return {
            (run.layer, run.window): Shape(run.query_tokens, run.key_tokens, len(run.result.heads), run.kv_heads, run.head_dim)
            for run in source.record.runs
        }
    places: dict[Any, set[Place]] = {}
    for run in source.record.runs:
        places.setdefault(implementation(run), set()).add((run.layer, run.window))
    common = reduce(set.intersection, places.values())
    return {
        (run.layer, run.window): Shape(run.query_tokens, run.key_tokens, run.heads, run.kv_heads, run.head_dim)
        for run in source.record.runs
        if (run.layer, run.window) in common
    }


def implementation(run: MeasuredRun) -> tuple[str, int, str, str, str, str]:
    """What was timed, whatever the layer: (device, threads, operation, method, backend, dtype)."""
    return run.device, run.threads, run.operation, run.method, run.backend, run.dtype


def _only(record: Any, work: dict[Place, Shape]) -> Any:
    return replace(record, runs=tuple(run for run in record.runs if (run.layer, run.window) in work))


def _left_out(source: Simulated | Measured, work: dict[Place, Shape]) -> list[str]:
    extra = len({(run.layer, run.window) for run in source.record.runs} - set(work))
    if not extra:
        return []
    return [f"{source.path.name}: {counted(extra, 'run')} (one layer of one window each) left out, because not every file has the same."]


def _labelled(simulated: Sequence[Simulated]) -> list[Simulated]:
    seen = Counter((one.bar_group, one.label) for one in simulated)
    return [replace(one, label=f"{one.label} ({one.path.stem})") if seen[one.bar_group, one.label] > 1 else one for one in simulated]
