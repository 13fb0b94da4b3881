"""Costs of what a record holds: all of it, a layer, or a head of a layer, each from the actions and bytes that are stored for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from xmsim.accel_models.accelerator import Accelerator
from xmsim.configs.costs import Costs
from xmsim.configs.errors import XmsimError
from xmsim.sim.result import SimulationRecord

Counts = Mapping[str, Mapping[str, float]]  # {unit or channel: {action or read_bytes, write_bytes: count}}


def record_costs(machine: Accelerator, record: SimulationRecord) -> Costs | None:
    """Costs of all that the record holds, estimates where heads were sampled; None if the machine says no technology.

    Raises:
        ConfigError: the tables do not have what the machine is made of.
    """
    traffic = _added((run.expansion, run.result.traffic) for run in record.runs)
    return machine.costs(record.actions(), traffic, record.milliseconds(record.cycles))


def of_layer(record: SimulationRecord, layer: int) -> SimulationRecord:
    """The record of one layer alone, with all its windows or, in decode, tokens.

    Raises:
        XmsimError: the record has no such layer.
    """
    runs = tuple(run for run in record.runs if run.layer == layer)
    if not runs:
        raise XmsimError(f"no layer {layer} in the record; it has {', '.join(map(str, sorted({run.layer for run in record.runs})))}")
    return replace(record, runs=runs)


def head_costs(machine: Accelerator, record: SimulationRecord, head: int) -> tuple[Costs | None, float]:
    """Costs of one query head in all runs of the record, and the milliseconds they are over; projections belong to no head.

    Raises:
        XmsimError: no run has simulated this head.
        ConfigError: as `record_costs`.
    """
    results = [one for run in record.runs for one in run.result.heads if one.head == head]
    if not results:
        known = sorted({one.head for run in record.runs for one in run.result.heads})
        raise XmsimError(f"no head {head} in the record; it has {', '.join(map(str, known))}")
    time_ms = sum(one.latency_ms for one in results)
    return machine.costs(_added((1, one.actions) for one in results), _added((1, one.traffic) for one in results), time_ms), time_ms


def _added(weighted: Iterable[tuple[float, Counts]]) -> dict[str, dict[str, float]]:
    """The sum of the counts, each times its weight."""
    total: dict[str, dict[str, float]] = {}
    for weight, counts in weighted:
        for unit, of_counts in counts.items():
            of_unit = total.setdefault(unit, {})
            for name, count in of_counts.items():
                of_unit[name] = of_unit.get(name, 0) + weight * count
    return total
