"""All cycles of one result, by cause, as whole numbers that add up to its total.

The account is that of the array that executes the kept pairs, which every machine has: in each of its server-cycles it does useful work,
is busy without it, waits, or has nothing to do. Of a layer of C cycles on an array of k servers,

    C = useful MACs / peak + (busy / k − useful MACs / peak) + stalls / k + fill / k + starved / k + drain / k

The time in which no work had arrived is laid to the busiest stage before the array, by the phase that it is for: a machine whose
prediction is too slow starves its array behind prediction. That is where to look first, and no proof that it is the only cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from xmsim.configs.errors import XmsimError
from xmsim.reports.load import Simulated
from xmsim.reports.phases import EXECUTE, stage_phase
from xmsim.reports.words import spaced
from xmsim.sim.result import LayerRun, SimResult

USEFUL = "useful MACs at peak rate"
UNUSED = "array busy without a useful MAC"
FILL = "array idle before its first work"
DRAIN = "array idle after its last work"
FULL = "_full"  # a stall cause that ends so waits for the next unit to make room


def cycle_causes(one: Simulated) -> dict[str, int]:
    """{cause: cycles} over all runs; the values add up to the cycles of the runs that were simulated, exactly.

    Raises:
        XmsimError: heads were sampled, so that the layers' cycles are estimates that no account adds up to.
    """
    if one.record.sampling:
        raise XmsimError(f"{one.path}: its heads are a sample, whose cycles are estimates; simulate all heads to account for them")
    causes: Counter[str] = Counter()
    parts: dict[str, Fraction] = {}
    for run in one.record.runs:
        for cause, cycles in _run_causes(run, one.record.machine.peak_macs_per_cycle).items():
            parts[cause] = parts.get(cause, Fraction(0)) + cycles
    causes.update(whole_numbers(parts, sum(run.result.cycles for run in one.record.runs)))
    return dict(causes)


def execution_stage(result: SimResult) -> str:
    """The stage of the execution array; on a machine whose stages have names of their own, the busiest."""
    for stage in result.servers:
        if stage_phase(stage) == EXECUTE:
            return stage
    return max(result.servers, key=lambda name: Fraction(result.busy[name], result.servers[name]))


def _run_causes(run: LayerRun, peak_macs_per_cycle: int) -> dict[str, Fraction]:
    result = run.result
    stage = execution_stage(result)
    servers = result.servers[stage]
    busy = Fraction(result.busy[stage], servers)
    useful = min(busy, Fraction(result.useful_macs, peak_macs_per_cycle))
    causes = {USEFUL: useful, UNUSED: busy - useful}
    for cause, cycles in result.stalls[stage].items():
        name = f"array stalled: {spaced(cause)}" if cause.endswith(FULL) else f"array stalled: waiting for {_data(cause)}"
        causes[name] = causes.get(name, Fraction(0)) + Fraction(cycles, servers)
    idle = result.idle[stage]
    for name, cause in ((FILL, "fill"), (_starved(result, stage), "starved"), (DRAIN, "drain")):
        causes[name] = causes.get(name, Fraction(0)) + Fraction(idle.get(cause, 0), servers)
    return causes


def _data(cause: str) -> str:
    return "DRAM" if cause.lower().startswith("dram") else spaced(cause)


def _starved(result: SimResult, stage: str) -> str:
    """Behind what the array waits for work: the stage before it that works, or waits for memory, for most of its time."""
    names = list(result.servers)
    before = names[: names.index(stage)]
    if not before:
        return "array idle: no work had arrived"

    def held(name: str) -> Fraction:
        memory = sum(cycles for cause, cycles in result.stalls[name].items() if not cause.endswith(FULL))
        return Fraction(result.busy[name] + memory, result.servers[name])

    return f"array idle: waiting behind {stage_phase(max(before, key=held))}"


def whole_numbers(parts: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """The parts as whole numbers that add up to `total`, which is their sum: rounded down, and the largest remainders up."""
    rounded = {name: int(part // 1) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: rounded[name] - parts[name])
    for name in by_remainder[: total - sum(rounded.values())]:
        rounded[name] += 1
    return rounded
