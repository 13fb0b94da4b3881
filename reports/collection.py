"""All that compare was given: the attention of a trace, prefill and decode apart, and measured work besides it in parts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.record import read_record, record_kind
from xmsim.reports.benchmark_file import Benchmark, read_benchmark
from xmsim.reports.load import (
    Comparison,
    Evaluated,
    Measured,
    Simulated,
    comparison_of,
    different,
    read_evaluated,
    read_measured,
    read_simulated,
    refuse_different_extents,
    refuse_different_traces,
)
from xmsim.reports.masks import MaskFile, read_mask_file
from xmsim.reports.measured_work import ON_GPU, Generated, MeasuredKernel, measured_kernels, read_generated
from xmsim.reports.models import NO_MODELS, Models, Predicted
from xmsim.reports.views import baseline
from xmsim.reports.words import listed
from xmsim.sim.result import PREFILL
from xmsim.workloads.measuring.host_check_record import CROSS_CHECK_VERSION, read_cross_check


@dataclass(frozen=True)
class Collection:
    """Files that make one report."""

    parts: tuple[Comparison, ...]  # one for each extent of the trace's layers: prefill, decode, with projections
    generated: tuple[Generated, ...]
    benchmarks: tuple[Benchmark, ...]
    predicted: tuple[Predicted, ...]  # measured kernels, by models of hosts
    masks: tuple[MaskFile, ...]  # statistics of the trace's masks
    left_out: tuple[str, ...]  # sentences about files that say nothing here

    @cached_property
    def kernels(self) -> tuple[MeasuredKernel, ...]:
        """What was measured besides the trace's attention."""
        return measured_kernels(self.generated, self.benchmarks)

    @property
    def main(self) -> Comparison | None:
        """The part that the report is about in the first place; None: no file is of a trace."""
        return self.parts[0] if self.parts else None

    @property
    def subject(self) -> str:
        """The model, or what else was measured."""
        if self.main:
            return str(self.main.trace.get("model") or "an unnamed model")
        return str(self.generated[0].record.model.get("name") or "an unnamed model") if self.generated else "measured kernels"

    @property
    def measured_gpus(self) -> tuple[str, ...]:
        """GPUs on which something here was timed."""
        found = [row.work.host for row in self.kernels if row.work.conditions.endswith(ON_GPU)]
        runs = [(one.record.host.gpu, run.device) for part in self.parts for one in part.measured for run in one.record.runs]
        return tuple(dict.fromkeys((*found, *(gpu for gpu, device in runs if device != "cpu"))))

    @property
    def drawn_predictions(self) -> dict[str, Predicted]:
        """Those that predict something, by the name of their figure."""
        found = [one for one in self.predicted if one.record.runs]
        return {f"predicted_against_measured{f'_{place + 1}' if place else ''}": one for place, one in enumerate(found)}

    @property
    def simulated(self) -> tuple[Simulated, ...]:
        """The results of all parts."""
        return tuple(one for part in self.parts for one in part.simulated)

    @property
    def evaluated(self) -> tuple[Evaluated, ...]:
        """Evaluations of the trace's model."""
        return self.main.evaluated if self.main else ()


def collect(files: Sequence[Path], models: Models = NO_MODELS) -> Collection:
    """Read what simulate, measure, evaluate and calibrate write, and records of benchmarks.

    Raises:
        RecordError: a file that is none of these, is damaged, or does not fit the others (both files are named).
        XmsimError: no file was given, or none that can be compared without others.
    """
    simulated: list[Simulated] = []
    measured: list[Measured] = []
    evaluated: list[Evaluated] = []
    generated: list[Generated] = []
    benchmarks: list[Benchmark] = []
    constants: list[Path] = []  # of hosts, with measured kernels or to be used on those that are here
    checked: list[Predicted] = []
    masks: list[MaskFile] = []
    for path in different(files):
        if path.is_dir():
            raise RecordError(f"{path}: a folder; name the files in it, e.g. {path}/*.json")
        kind = record_kind(path)
        if kind == "result":
            one = replace(read_simulated(path), number=len(simulated))
            simulated.append(replace(one, layer_costs=models.layer_costs(one.record)))
        elif kind == "measurement":
            measured.append(read_measured(path))
        elif kind == "evaluation":
            evaluated.append(read_evaluated(path))
        elif kind == "generation":
            generated.append(read_generated(path))
        elif kind == "benchmark":
            benchmarks.append(read_benchmark(path))
        elif kind == "cross_check":
            checked.append(Predicted(path, _software(path), read_cross_check(path)))
        elif kind == "masks":
            masks.append(read_mask_file(path))
        elif kind in ("host_check", "calibration"):
            constants.append(path)
        else:
            raise RecordError(
                f"{path}: this is {_with_article(kind)} file; compare reads what simulate, measure, evaluate, calibrate and trace info "
                f"write, and benchmarks"
            )
    sources: list[Simulated | Measured] = [*simulated, *measured]
    if sources:
        refuse_different_traces(sources)
    timed = [one.path for one in generated] + [one.path for one in benchmarks if any("threads" in row.facts for row in one.rows)]
    found = {path: models.cross_check(path, timed) for path in constants}
    checked += [Predicted(path, _software(path), record) for path, record in found.items() if record]
    silent = [one for one in benchmarks if not measured_kernels((), [one])]
    if not sources and not generated and not checked and len(silent) == len(benchmarks):
        paths = [*(one.path for one in evaluated), *(one.path for one in masks), *(one.path for one in silent), *found]
        given = f"{listed(path.name for path in paths)} alone cannot be compared" if paths else "no file to compare was given"
        raise XmsimError(f"compare: {given}; name files that simulate and measure wrote")
    parts = tuple(_at_one_node(part, simulated, models) for part in _parts(simulated, measured, evaluated))
    foreign = [one for one in masks if sources and one.record.trace.get("sha256") != sources[0].record.trace.get("sha256")]
    return Collection(
        parts=parts,
        generated=tuple(generated),
        benchmarks=tuple(one for one in benchmarks if one not in silent),
        predicted=tuple(checked),
        masks=tuple(one for one in masks if one not in foreign),
        left_out=(
            *(f"{one.path.name}: left out, none of its kernels was timed beside a baseline." for one in silent),
            *(
                f"{path.name}: left out, as no benchmark or generation record of its processor is here whose kernels it could predict."
                for path, record in found.items()
                if record is None
            ),
            *(f"{one.path.name}: left out, its masks are those of another trace." for one in foreign),
            *_alone(parts),
        ),
    )


def _at_one_node(part: Comparison, whole: Sequence[Simulated], models: Models) -> Comparison:
    """With estimates at the baseline's node of the machines that are made at another; `whole` has their results with every run."""
    base = baseline(part)
    wanted = _node(base) if base else None
    if wanted is None:
        return part
    records = {one.path: one.record for one in whole}
    moved = {one.path: models.costs_at_node(records[one.path], *wanted) for one in part.simulated if _node(one) not in (None, wanted)}
    return replace(part, simulated=tuple(replace(one, moved_costs=moved.get(one.path)) for one in part.simulated))


def _node(one: Simulated) -> tuple[float, float] | None:
    """(node_nm, voltage_v) of a machine that is estimated."""
    technology = one.record.machine.config.get("technology") if one.record.costs else None
    if not isinstance(technology, dict):
        return None
    node_nm, voltage_v = technology.get("node_nm"), technology.get("voltage_v")
    return (node_nm, voltage_v) if isinstance(node_nm, int | float) and isinstance(voltage_v, int | float) else None


def load(files: Sequence[Path]) -> Comparison:
    """The one comparison that files of one trace make: all time the same of the model.

    Raises:
        RecordError: as `collect`, and for a file of no trace, or files of which one times more of the model than another.
        XmsimError: no file was given, or none that can be compared without others.
    """
    collection = collect(files)
    besides = [
        *(one.path for one in collection.generated),
        *(one.path for one in collection.benchmarks),
        *(one.path for one in collection.predicted),
    ]
    if besides or collection.main is None:
        raise RecordError(f"{listed(map(str, besides))}: not of a trace; name what simulate and measure wrote of one")
    refuse_different_extents([*collection.simulated, *(one for part in collection.parts for one in part.measured)])
    return collection.main


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _software(path: Path) -> str:
    """The xmsim that wrote a record of predictions, or of constants."""
    return str(read_record(path, record_kind(path), CROSS_CHECK_VERSION).get("xmsim", "unknown"))


def _alone(parts: Sequence[Comparison]) -> list[str]:
    """A sentence for each measurement of an extent that nobody simulated, where others were."""
    if not any(part.simulated for part in parts):
        return []
    return [
        f"{one.path.name}: times {one.extent}, which no result here simulates, so it stands beside none of them."
        for part in parts
        if not part.simulated
        for one in part.measured
    ]


def _parts(simulated: list[Simulated], measured: list[Measured], evaluated: list[Evaluated]) -> tuple[Comparison, ...]:
    """Attention alone before attention with projections, prefill before decode; what nobody simulated comes last."""
    extents = dict.fromkeys([one.extent for one in simulated] + [one.extent for one in measured])
    parts = []
    for extent in extents:
        own = [one for one in simulated if one.extent == extent]
        timed = [one for one in measured if one.extent == extent]
        parts.append((not own, "without" not in extent, not extent.startswith(PREFILL), extent, comparison_of(own, timed, evaluated)))
    return tuple(part[-1] for part in sorted(parts, key=lambda part: part[:-1]))
