"""A whole trace through one machine: one workload per window and layer (and token, in decode), one record."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from xmsim.accel_models.accelerator import Accelerator, Engine, execute
from xmsim.accel_models.recorded_costs import record_costs
from xmsim.configs.codec import encode
from xmsim.configs.errors import XmsimError
from xmsim.sim.log import EngineLog
from xmsim.sim.result import DECODE, PREFILL, HeadSampling, LayerRun, SimResult, SimulationRecord
from xmsim.sim.schedule import Schedule
from xmsim.sim.trace_events import write_timeline
from xmsim.traces.store import LayerTrace, Trace
from xmsim.workloads.attention import kv_groups
from xmsim.workloads.methods.library import Method
from xmsim.workloads.phases import phase_workloads, read_for_phase

NATIVE = "native"
SAME_MASK = "same mask"


def simulate_trace(
    trace: Trace,
    machine: Accelerator,
    method: Method | None = None,
    *,
    layers: Sequence[int] | None = None,
    decode_tokens: int | None = None,
    sampling: HeadSampling | None = None,
    strict: bool = False,
    engine: Engine = "compiled",
    timelines: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> SimulationRecord:
    """Run layers of a trace, every window; without a method the machine uses its own (view native).

    Args:
        layers: of the model, among those stored; None: all.
        decode_tokens: simulate the last tokens of each window one by one, and not the prefill; None: the prefill, which is all tokens.
        sampling: simulate some KV groups of each layer, and estimate the rest; None: all.
        strict: refuse a mask that is not native to the machine, before its layer is simulated.
        timelines: folder for a timeline of each run; None: none is written.
    Raises:
        XmsimError: the trace or the workload does not fit the machine or the method.
    """
    used = method or machine.config.method.load()
    record = SimulationRecord(
        machine=machine.facts(),
        method={"name": used.name} | used.parameters,
        view=SAME_MASK if method else NATIVE,
        phase=PREFILL if decode_tokens is None else DECODE,
        trace=trace.source(),
        engine=engine,
        sampling=sampling,
        runs=(),
    )
    machine.nominal_costs({}, {}, 0.0)  # what cannot be estimated is refused before hours of simulation
    chosen = trace.layers if layers is None else layers
    runs, from_store = [], 0
    for done, layer in enumerate(chosen):
        progress(done, len(chosen))
        captured, stored = read_for_phase(trace, layer, used, decode_tokens)
        from_store += stored is not None
        for window in range(trace.windows):
            drawn = _drawn_kv_heads(captured, window, sampling) if sampling else None
            part = captured if drawn is None else kv_groups(captured, drawn)
            for workload in phase_workloads(part, window, used, decode_tokens, stored):
                if strict:
                    machine.refuse_foreign_mask(workload)
                schedule = machine.layer_schedule(workload)
                log = execute(schedule, engine)
                result = machine.result(workload, schedule, log)
                run = LayerRun(
                    layer=layer,
                    window=window,
                    query_tokens=workload.queries,
                    key_tokens=workload.keys,
                    head_dim=workload.head_dim,
                    kv_heads=len(captured.kv_head_ids),
                    result=result if drawn is None else _numbered_as_stored(result, drawn),
                    sampled_kv_heads=drawn,
                )
                runs.append(run)
                if timelines:
                    _write_timeline(timelines, record, run, schedule, log)
    if not runs:
        raise XmsimError(f"{trace.path}: nothing to simulate; choose at least one layer")
    if trace.has_masks:  # then it is said whether they were used
        others = "" if from_store == len(chosen) else ", the others made anew"
        record = replace(record, trace=record.trace | {"masks": f"{from_store} of {len(chosen)} layers as stored{others}"})
    record = replace(record, runs=tuple(runs))
    return replace(record, costs=record_costs(machine, record))


def result_file_name(record: SimulationRecord) -> str:
    """`<machine>.json`, with the method where one mask is given to every machine, and `decode` where tokens are decoded."""
    return f"{_run_name(record)}.json"


def _run_name(record: SimulationRecord) -> str:
    method = f".{record.method['name']}" if record.view == SAME_MASK else ""
    return f"{record.machine.name}{method}{'.decode' if record.phase == DECODE else ''}"


def _drawn_kv_heads(layer: LayerTrace, window: int, sampling: HeadSampling) -> tuple[int, ...]:
    """The KV heads to simulate, in order; the same for every machine, whichever layers are simulated besides.

    Raises:
        XmsimError: one of several would be drawn, and one does not tell how far the others are from it.
    """
    members = len(layer.kv_head_ids)
    if sampling.kv_heads < min(2, members):
        raise XmsimError(f"--sample-heads {sampling.kv_heads}: one of {members} KV heads does not tell how they differ; take at least 2")
    stream = random.Random(f"{sampling.seed}, layer {layer.layer}, window {window}")
    return tuple(sorted(stream.sample(range(members), min(sampling.kv_heads, members))))


def _numbered_as_stored(result: SimResult, kv_heads: Sequence[int]) -> SimResult:
    """The result of some KV groups with its heads numbered as the layer's."""
    group = len(result.heads) // len(kv_heads)
    heads = (replace(one, head=kv_heads[one.head // group] * group + one.head % group) for one in result.heads)
    return replace(result, heads=tuple(heads))


def _write_timeline(folder: Path, record: SimulationRecord, run: LayerRun, schedule: Schedule, log: EngineLog) -> None:
    place = {"layer": run.layer, "window": run.window} | ({"token": run.key_tokens - 1} if record.phase == DECODE else {})
    facts = {key: value for key, value in encode(record).items() if key != "runs"} | place
    if run.sampled_kv_heads is not None:
        facts["sampled_kv_heads"] = run.sampled_kv_heads
    path = folder / f"{_run_name(record)}.{'.'.join(f'{name}{number}' for name, number in place.items())}.json.gz"
    title = f"{record.machine.name}, {', '.join(f'{name} {number}' for name, number in place.items())}"
    write_timeline(path, schedule, log, title=title, facts=facts)
