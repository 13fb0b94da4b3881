"""All that compare was given: the attention of a trace, prefill and decode apart, and measured work besides it in parts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.configs.record import record_kind
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
    refuse_different_traces,
)
from xmsim.reports.measured_work import Generated, MeasuredKernel, measured_kernels, read_generated
from xmsim.sim.result import PREFILL


@dataclass(frozen=True)
class Collection:
    """Files that make one report."""

    parts: tuple[Comparison, ...]  # one for each extent of the trace's layers: prefill, decode, with projections
    generated: tuple[Generated, ...]
    benchmarks: tuple[Benchmark, ...]
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
    def simulated(self) -> tuple[Simulated, ...]:
        """The results of all parts."""
        return tuple(one for part in self.parts for one in part.simulated)

    @property
    def evaluated(self) -> tuple[Evaluated, ...]:
        """Evaluations of the trace's model."""
        return self.main.evaluated if self.main else ()


def collect(files: Sequence[Path]) -> Collection:
    """Read what simulate, measure and evaluate write, and records of benchmarks.

    Raises:
        RecordError: a file that is none of these, is damaged, or does not fit the others (both files are named).
        XmsimError: no file was given.
    """
    simulated: list[Simulated] = []
    measured: list[Measured] = []
    evaluated: list[Evaluated] = []
    generated: list[Generated] = []
    benchmarks: list[Benchmark] = []
    for path in different(files):
        kind = record_kind(path)
        if kind == "result":
            simulated.append(replace(read_simulated(path), number=len(simulated)))
        elif kind == "measurement":
            measured.append(read_measured(path))
        elif kind == "evaluation":
            evaluated.append(read_evaluated(path))
        elif kind == "generation":
            generated.append(read_generated(path))
        elif kind == "benchmark":
            benchmarks.append(read_benchmark(path))
        else:
            raise RecordError(f"{path}: this is a {kind} file; compare reads what simulate, measure and evaluate write, and benchmarks")
    sources: list[Simulated | Measured] = [*simulated, *measured]
    if not sources and not generated and not benchmarks:
        raise XmsimError("compare: no file to compare was given; name those that simulate and measure wrote")
    if sources:
        refuse_different_traces(sources)
    silent = [one for one in benchmarks if not measured_kernels((), [one])]
    return Collection(
        parts=_parts(simulated, measured, evaluated),
        generated=tuple(generated),
        benchmarks=tuple(one for one in benchmarks if one not in silent),
        left_out=tuple(f"{one.path.name}: left out, none of its kernels was timed beside a baseline." for one in silent),
    )


def _parts(simulated: list[Simulated], measured: list[Measured], evaluated: list[Evaluated]) -> tuple[Comparison, ...]:
    """Attention alone before attention with projections, prefill before decode; what nobody simulated comes last."""
    extents = dict.fromkeys([one.extent for one in simulated] + [one.extent for one in measured])
    parts = []
    for extent in extents:
        own = [one for one in simulated if one.extent == extent]
        timed = [one for one in measured if one.extent == extent]
        parts.append((not own, "without" not in extent, not extent.startswith(PREFILL), extent, comparison_of(own, timed, evaluated)))
    return tuple(part[-1] for part in sorted(parts, key=lambda part: part[:-1]))
