"""Simulated projections beside measured linear layers of the same shapes: raw milliseconds of different technologies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xmsim.reports.load import Simulated
from xmsim.reports.measured_work import LINEAR, MeasuredKernel
from xmsim.sim.result import LayerRun
from xmsim.workloads.measurement import Timing

Shape = tuple[int, int, int]  # in, out, tokens
INPUT, OUTPUT = "query, key and value projections", "output projection"


@dataclass(frozen=True, slots=True)
class LinearPair:
    """The projections of one layer, simulated, and a kernel that was timed on layers of exactly those shapes."""

    machine: str
    phase: str  # INPUT or OUTPUT
    shapes: tuple[Shape, ...]  # of the layers that it is made of
    simulated_ms: float  # mean over layers, windows and tokens
    kernel: str
    dense: bool  # the kernel skips nothing, as the simulated projections
    conditions: str
    host: str
    measured: Timing  # of all layers of the phase, one after the other; quartiles add up as if all were slow together
    file: str

    @property
    def ratio(self) -> float:
        """How many times as fast as the measured kernel the machine is."""
        return self.measured.median_ms / self.simulated_ms


def linear_pairs(simulated: Sequence[Simulated], kernels: Sequence[MeasuredKernel]) -> tuple[LinearPair, ...]:
    """Every machine whose projections were simulated against every kernel that was timed on all their shapes."""
    timed: dict[tuple[str, str, str, str, bool], dict[Shape, Timing]] = {}
    for row in kernels:
        if row.work.kind == LINEAR and row.shape:
            key = (row.kernel, row.work.conditions, row.work.host, row.work.file, row.dense)
            timed.setdefault(key, {}).setdefault(row.shape, row.timing)
    pairs = []
    for one in simulated:
        for phase, (shapes, simulated_ms) in _phases(one).items():
            for (kernel, conditions, host, file, dense), found in timed.items():
                if all(shape in found for shape in shapes):
                    whole = _sum([found[shape] for shape in shapes])
                    pairs.append(LinearPair(one.label, phase, shapes, simulated_ms, kernel, dense, conditions, host, whole, file))
    return tuple(pairs)


def projection_shapes(run: LayerRun) -> dict[str, tuple[Shape, ...]]:
    """The linear layers that each phase is made of; the model's width follows from the multiply-accumulates.

    Empty where attention alone was simulated, or a sample of the heads.
    """
    if run.result.projections is None or run.sampled_kv_heads is not None:
        return {}
    tokens, queries, keys = run.query_tokens, run.heads * run.head_dim, run.kv_heads * run.head_dim
    if min(tokens, queries, run.result.projections.input.cycles, run.result.projections.output.cycles) < 1:
        return {}
    width = run.result.projections.output.useful_macs // (tokens * queries)
    return {INPUT: ((width, queries, tokens), (width, keys, tokens), (width, keys, tokens)), OUTPUT: ((queries, width, tokens),)}


def _phases(one: Simulated) -> dict[str, tuple[tuple[Shape, ...], float]]:
    """{phase: (shapes, mean milliseconds)} of a result whose runs all have the same shapes."""
    shapes = [projection_shapes(run) for run in one.record.runs]
    if not shapes[0] or any(other != shapes[0] for other in shapes):
        return {}
    phases = {}
    for name, pick in ((INPUT, "input"), (OUTPUT, "output")):
        cycles = [getattr(run.result.projections, pick).cycles for run in one.record.runs]
        phases[name] = (shapes[0][name], one.record.milliseconds(sum(cycles) / len(cycles)))
    return phases


def _sum(timings: Sequence[Timing]) -> Timing:
    times = ("median_ms", "first_quartile_ms", "third_quartile_ms", "min_ms", "max_ms")
    return Timing(min(timing.n for timing in timings), *(sum(getattr(timing, name) for timing in timings) for name in times))
