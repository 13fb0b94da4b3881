"""Tables of a simulation on the terminal."""

from __future__ import annotations

from rich.table import Table

from xmsim.sim.result import LayerRun, SimulationRecord


def heads_table(record: SimulationRecord) -> Table:
    """One row per layer and head: cycles, time, density, traffic, where it stalled."""
    table = Table(title=f"{record.machine.name}, method {record.method['name']}, view {record.view}: layers and heads (simulated)")
    for name in ("layer", "head", "cycles", "ms", "density", "DRAM kB", "stalled stage-cycles by cause"):
        table.add_column(name, justify="left" if "stalled" in name else "right")
    for run in record.runs:
        for head in run.result.heads:
            table.add_row(
                _label(record, run),
                str(head.head),
                str(head.cycles),
                f"{head.latency_ms:.4f}",
                f"{head.densities.density:.4f}",
                f"{_kilobytes(head.traffic):.1f}",
                _causes(head.stalls),
            )
        result = run.result
        table.add_row(
            _label(record, run),
            "all",
            str(result.cycles),
            f"{result.latency_ms:.4f}",
            f"{result.densities.density:.4f}",
            f"{_kilobytes(result.traffic):.1f}",
            _causes(result.stalls),
            style="bold",
            end_section=True,
        )
    return table


def units_table(record: SimulationRecord) -> Table:
    """One row per layer: the share of time in which each unit works."""
    table = Table(title=f"{record.machine.name}: utilisation of every unit, % of its server-cycles (simulated)")
    table.add_column("layer", justify="right")
    units = list(record.runs[0].result.busy)
    for unit in units:
        table.add_column(unit.replace("_", " "), justify="right")
    for run in record.runs:
        table.add_row(_label(record, run), *(f"{100 * run.result.utilisation(unit):.1f}" for unit in units))
    return table


def _label(record: SimulationRecord, run: LayerRun) -> str:
    several_windows = any(other.window for other in record.runs)
    return f"{run.layer} (window {run.window})" if several_windows else str(run.layer)


def _kilobytes(traffic: dict[str, dict[str, int]]) -> float:
    return sum(sum(channel.values()) for channel in traffic.values()) / 1e3


def _causes(stalls: dict[str, dict[str, int]]) -> str:
    named = [
        (cycles, f"{stage} {cycles} on {cause.replace('_', ' ')}") for stage, causes in stalls.items() for cause, cycles in causes.items()
    ]
    return ", ".join(text for _, text in sorted(named, reverse=True)) or "none"
