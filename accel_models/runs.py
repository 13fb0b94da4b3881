"""A whole trace through one machine: one workload per window and layer, one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xmsim.accel_models.accelerator import Accelerator, Engine
from xmsim.configs.errors import XmsimError
from xmsim.sim.result import LayerRun, SimulationRecord
from xmsim.traces.store import Trace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.methods import Method

NATIVE = "native"
SAME_MASK = "same mask"


def simulate_trace(
    trace: Trace,
    machine: Accelerator,
    method: Method | None = None,
    *,
    layers: Sequence[int] | None = None,
    engine: Engine = "compiled",
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> SimulationRecord:
    """Run layers of a trace, every window; without a method the machine uses its own (view native).

    Raises:
        XmsimError: the trace or the workload does not fit the machine or the method.
    """
    used = method or machine.config.method.load()
    chosen = trace.layers if layers is None else layers
    runs = []
    for done, layer in enumerate(chosen):
        progress(done, len(chosen))
        captured = trace.read_layer(layer)
        for window in range(trace.windows):
            workload = workload_of(captured, window, used.keep(captured, window))
            result = machine.simulate(workload, engine)
            runs.append(LayerRun(layer, window, workload.queries, workload.keys, workload.head_dim, workload.kv_heads, result))
    if not runs:
        raise XmsimError(f"{trace.path}: nothing to simulate; choose at least one layer")
    return SimulationRecord(
        machine=machine.facts(),
        method={"name": used.name} | used.parameters,
        view=SAME_MASK if method else NATIVE,
        trace=trace.source(),
        engine=engine,
        runs=tuple(runs),
    )


def result_file_name(record: SimulationRecord) -> str:
    """`<machine>.json` in the native view, `<machine>.<method>.json` where one mask is given to every machine."""
    return f"{record.machine.name}.json" if record.view == NATIVE else f"{record.machine.name}.{record.method['name']}.json"
