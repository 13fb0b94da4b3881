"""From a list of files to one comparison: the same trace, the same layers and windows, the same shapes for everyone.

Evaluations come along for the perplexity of the methods that ran; they have no trace.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from xmsim.configs.costs import Costs
from xmsim.configs.densities import Densities
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record
from xmsim.reports.benchmark_file import in_order
from xmsim.reports.words import counted, listed
from xmsim.sim.result import DECODE, PREFILL, RESULT_VERSION, LayerRun, SimResult, SimulationRecord, read_result
from xmsim.workloads.evaluation import EVALUATION_VERSION, EvaluationRecord, method_label, read_evaluation
from xmsim.workloads.measurement import MEASUREMENT_VERSION, MeasuredRun, MeasurementRecord, read_measurement

NATIVE_VIEW = "native"


class Place(NamedTuple):
    """Which piece of the trace a run is."""

    layer: int
    window: int
    token: int | None = None  # the one that is decoded; None: the prefill


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the attention of one layer of one window, or of one decoded token of it."""

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
    complete: bool = True  # no run of the file is left out, so that its energy is that of its runs
    number: int = 0  # of the file among those of simulations, so that parts of the page can be told apart
    layer_costs: Mapping[int, Costs] = field(default_factory=dict)  # of the layers of which no run is left out, where they are known
    moved_costs: Costs | None = None  # at the node of the machine that all are compared with; None: it is at that, or cannot be moved there

    @property
    def method(self) -> str:
        """The method's name, and how its scores were predicted: masks of exact and of low-bit scores differ."""
        return method_label(self.record.method)

    @property
    def phase(self) -> str:
        return self.record.phase

    @property
    def extent(self) -> str:
        """What of the model was timed."""
        projected = any(run.result.projections for run in self.record.runs)
        return f"{self.phase} of attention {'with' if projected else 'without'} its projections"

    @property
    def bar_group(self) -> tuple[str, str]:
        """Results of one group may stand side by side: a view, and for "same mask" the method that made the mask. All are of one phase."""
        view = self.record.view
        return view, "" if view == NATIVE_VIEW else json.dumps(self.record.method, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement file."""

    path: Path
    software: str
    record: MeasurementRecord

    @property
    def phase(self) -> str:
        """One query at a time is a decode."""
        return DECODE if all(run.query_tokens == 1 < run.key_tokens for run in self.record.runs) else PREFILL

    @property
    def extent(self) -> str:
        """What of the model was timed."""
        return f"{self.phase} of attention without its projections"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation file of the model that the trace is of."""

    path: Path
    software: str
    record: EvaluationRecord


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results and measurements of the same work; runs that not every file has are gone."""

    trace: dict[str, Any]
    work: dict[Place, Shape]
    simulated: tuple[Simulated, ...]
    measured: tuple[Measured, ...]
    evaluated: tuple[Evaluated, ...]
    left_out: tuple[str, ...]  # sentences about runs and files that are gone

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({place.layer for place in self.work}))

    @property
    def windows(self) -> tuple[int, ...]:
        return tuple(sorted({place.window for place in self.work}))

    @property
    def decoded_tokens(self) -> int:
        """Tokens of a window that were decoded, one after the other; 0 in a prefill."""
        return max(Counter((place.layer, place.window) for place in self.work if place.token is not None).values(), default=0)


def different(files: Sequence[Path]) -> list[Path]:
    """The files, each once."""
    return list({os.path.realpath(path): path for path in files}.values())  # resolve() fails on a link to itself


def comparison_of(simulated: Sequence[Simulated], measured: Sequence[Measured], evaluated: Sequence[Evaluated]) -> Comparison:
    """Results and measurements of one trace and extent, at least one; evaluations of other models are left out.

    Raises:
        RecordError: files that have no work in common, or the same work in two shapes.
    """
    sources: list[Simulated | Measured] = [*simulated, *measured]
    work = _shared_work(sources)
    trace = sources[0].record.trace
    foreign = [one for one in evaluated if one.record.model.get("name") != trace.get("model")]
    return Comparison(
        trace=trace,
        work=work,
        simulated=tuple(_cut(one, work) for one in _labelled(simulated)),
        measured=tuple(replace(one, record=_only(one, work)) for one in measured),
        evaluated=tuple(one for one in evaluated if one not in foreign),
        left_out=(
            *(sentence for source in sources for sentence in _left_out(source, work)),
            *(f"{one.path.name}: left out, it is of the model {one.record.model.get('name')}." for one in foreign),
        ),
    )


def read_simulated(path: Path) -> Simulated:
    """Read a result file.

    Raises:
        RecordError: the file cannot be used, or its numbers are not what a simulation gives.
    """
    record = read_result(path)
    machine = record.machine
    if not record.runs or not all(
        1e-6 <= number <= 1e12 for number in (machine.clock_mhz, machine.peak_macs_per_cycle, machine.dram_bytes_per_cycle)
    ):
        raise RecordError(f"{path}: the result has no layer, clock, peak or bandwidth that a machine can have; simulate again")
    if record.phase not in (PREFILL, DECODE):
        raise RecordError(f"{path}: phase is {record.phase}, and not {PREFILL} or {DECODE}; was the file edited? simulate again")
    for run in record.runs:
        if not _is_sample(run):
            raise RecordError(
                f"{path}: layer {run.layer}: its heads are no sample of {run.kv_heads} KV heads; was the file edited? simulate again"
            )
        if not _adds_up(run.result):
            raise RecordError(
                f"{path}: layer {run.layer}: busy, stalled and idle cycles are not servers × cycles; was the file edited? simulate again"
            )
        if not all(_are_shares(densities) for densities in (run.result.densities, *(head.densities for head in run.result.heads))):
            raise RecordError(f"{path}: layer {run.layer}: a density is not between 0 and 1; was the file edited? simulate again")
    if record.costs and not _is_estimate(record.costs):
        raise RecordError(
            f"{path}: area and energy are not positive, or a bar is not around its value; was the file edited? simulate again"
        )
    return Simulated(path, _software(path, "result", RESULT_VERSION), record, label=machine.name)


def read_measured(path: Path) -> Measured:
    """Read a measurement file.

    Raises:
        RecordError: the file cannot be used.
    """
    record = read_measurement(path)
    if not record.runs or not all(in_order(run.timing) for run in record.runs):
        raise RecordError(f"{path}: the measurement has no runs, or one whose median is not between its quartiles; measure again")
    return Measured(path, _software(path, "measurement", MEASUREMENT_VERSION), record)


def read_evaluated(path: Path) -> Evaluated:
    """Read an evaluation file.

    Raises:
        RecordError: the file cannot be used.
    """
    return Evaluated(path, _software(path, "evaluation", EVALUATION_VERSION), read_evaluation(path))


def _software(path: Path, kind: str, newest: int) -> str:
    return str(read_record(path, kind, newest).get("xmsim", "unknown"))


def _is_sample(run: LayerRun) -> bool:
    """The KV heads that were simulated are some of the layer's, two at least or all, each with as many query heads."""
    drawn = run.sampled_kv_heads
    if drawn is None:
        return True
    are_some = list(drawn) == sorted(set(drawn)) and all(0 <= number < run.kv_heads for number in drawn)
    return are_some and len(drawn) >= min(2, run.kv_heads) and bool(run.result.heads) and len(run.result.heads) % len(drawn) == 0


def _adds_up(result: SimResult) -> bool:
    """Every server-cycle of every stage is accounted for."""
    if not result.servers or not result.servers.keys() == result.busy.keys() == result.stalls.keys() == result.idle.keys():
        return False
    return all(
        result.busy[stage] + sum(result.stalls[stage].values()) + sum(result.idle[stage].values()) == servers * result.cycles > 0
        for stage, servers in result.servers.items()
    )


def _is_estimate(costs: Costs) -> bool:
    """Area and energy are positive, and every row has its nominal value between its limits."""
    quantities = (costs.area, costs.on_chip_energy, costs.dram_energy)
    bars = [factor.value for quantity in quantities for term in quantity.terms for factor in term.factors]
    rows = all(0 <= bar.low <= bar.nominal <= bar.high and bar.nominal > 0 for bar in bars)
    counts = all(term.count >= 0 for quantity in quantities for term in quantity.terms)
    return rows and counts and all(sum(term.nominal for term in quantity.terms) > 0 for quantity in (costs.area, costs.on_chip_energy))


def _are_shares(densities: Densities) -> bool:
    return all(0 <= share <= 1 for share in (densities.density, densities.full_density, densities.kv_density))


def refuse_different_traces(sources: Sequence[Simulated | Measured]) -> None:
    """Raises RecordError if two sources were made from different traces; both are named."""
    hashes = [_trace_hash(source) for source in sources]
    for source, sha256 in zip(sources, hashes, strict=True):
        if sha256 != hashes[0]:
            raise RecordError(
                f"{sources[0].path} and {source.path}: made from different traces ({hashes[0][:12]} and {sha256[:12]}); "
                f"compare files of one trace, one report for each"
            )


def refuse_different_extents(sources: Sequence[Simulated | Measured]) -> None:
    """Raises RecordError if two sources do not time the same of the model; both are named."""
    for source in sources:
        if source.extent != sources[0].extent:
            raise RecordError(
                f"{sources[0].path} and {source.path}: one is a {sources[0].extent} and the other a {source.extent}, whose times never "
                f"stand side by side; compare files of one kind, one report for each"
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
                    f"{first.path} and {source.path}: layer {place.layer}, window {place.window} is {expected} in one and {shape} in "
                    f"the other; simulate and measure the same tokens and heads"
                )
    places = reduce(set.intersection, (set(work) for work in shapes.values()))
    if not places:
        names = listed(str(source.path) for source in sources)
        raise RecordError(f"{names}: have no layer and window in common, or no decoded token of it; run them on the same layers")
    return {place: shapes[first.path][place] for place in sorted(places)}


def _work(source: Simulated | Measured) -> dict[Place, Shape]:
    """Where a source has a number; a measurement must have one for every operation it timed."""
    if isinstance(source, Simulated):
        return {
            _place(run, source.phase): Shape(run.query_tokens, run.key_tokens, run.heads, run.kv_heads, run.head_dim)
            for run in source.record.runs
        }
    places: dict[Any, set[Place]] = {}
    for run in source.record.runs:
        places.setdefault(implementation(run), set()).add(_place(run, source.phase))
    common = reduce(set.intersection, places.values())
    return {
        _place(run, source.phase): Shape(run.query_tokens, run.key_tokens, run.heads, run.kv_heads, run.head_dim)
        for run in source.record.runs
        if _place(run, source.phase) in common
    }


def _place(run: LayerRun | MeasuredRun, phase: str) -> Place:
    return Place(run.layer, run.window, run.key_tokens - 1 if phase == DECODE else None)


def implementation(run: MeasuredRun) -> tuple[str, int, str, str, str, str]:
    """What was timed, whatever the layer: (device, threads, operation, method, backend, dtype)."""
    return run.device, run.threads, run.operation, run.method, run.backend, run.dtype


def _only(source: Simulated | Measured, work: dict[Place, Shape]) -> Any:
    record: Any = source.record
    return replace(record, runs=tuple(run for run in record.runs if _place(run, source.phase) in work))


def _cut(one: Simulated, work: dict[Place, Shape]) -> Simulated:
    """The result without runs that not every source has, and what is known of layers that are whole."""
    record = _only(one, work)
    had, has = (Counter(run.layer for run in runs) for runs in (one.record.runs, record.runs))
    costs = {layer: own for layer, own in one.layer_costs.items() if has[layer] == had[layer]}
    return replace(one, record=record, complete=len(record.runs) == len(one.record.runs), layer_costs=costs)


def _left_out(source: Simulated | Measured, work: dict[Place, Shape]) -> list[str]:
    extra = len({_place(run, source.phase) for run in source.record.runs} - set(work))
    if not extra:
        return []
    piece = "one token through one layer" if source.phase == DECODE else "one layer of one window"
    return [f"{source.path.name}: {counted(extra, 'run')} ({piece} each) left out, because not every file has the same."]


def _labelled(simulated: Sequence[Simulated]) -> list[Simulated]:
    """With a label of its own in its view: the machine's name, where that is another's with the file's, its folder's or the whole path."""
    labelled = list(simulated)
    for name in (lambda path: path.stem, lambda path: f"{path.parent.name}/{path.stem}", str):
        seen = Counter((one.bar_group, one.label) for one in labelled)
        labelled = [
            replace(one, label=f"{own.label} ({name(one.path)})") if seen[one.bar_group, one.label] > 1 else one
            for one, own in zip(labelled, simulated, strict=True)
        ]
    return labelled
