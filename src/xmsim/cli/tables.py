"""Tables of a simulation on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from xmsim.sim.result import CauseCycles, HeadResult, LayerRun, SimResult, SimulationRecord

WIDTH = 140  # columns, where the output is no terminal and so has no width of its own


def table_console() -> Console:
    """A console that does not fold tables when they go to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def cycles_table(record: SimulationRecord) -> Table:
    """One row per layer and head: cycles, time, density, bytes, and what its jobs waited for."""
    causes = sorted({cause for run in record.runs for cause in _by_cause(run.result.stalls)})
    table = _table(
        f"{record.machine.name}, method {record.method['name']}, view {record.view}, simulated at {record.machine.clock_mhz:g} MHz",
        ["cycles", "ms", "density", "DRAM kB", *(f"stalled: {cause.replace('_', ' ')}" for cause in causes)],
    )
    _add_rows(table, record, lambda run, part: [*_numbers(part), *(str(_by_cause(part.stalls)[cause]) for cause in causes)])
    return table


def units_table(record: SimulationRecord) -> Table:
    """One row per layer and head: the share of the layer's server-cycles in which each unit works; heads add up to the layer."""
    units = list(record.runs[0].result.busy)
    table = _table(f"{record.machine.name}, utilisation of every unit in %, simulated", [unit.replace("_", " ") for unit in units])
    _add_rows(table, record, lambda run, part: [_utilisation(run.result, unit, part.busy[unit]) for unit in units])
    return table


def machines_table(records: Sequence[SimulationRecord]) -> Table:
    """One row per machine: what it served, how long all layers took, and its busiest unit."""
    layers, windows = (len({getattr(run, name) for run in records[0].runs}) for name in ("layer", "window"))
    title = f"{records[0].trace['model']}, {layers} layers × {windows} windows, simulated"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for name, justify in (("machine", "left"), ("method", "left"), ("view", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("MHz", "cycles", "ms", "density", "DRAM kB", "busiest unit, %"):
        table.add_column(name, justify="right")
    for record in records:
        results = [run.result for run in record.runs]
        kilobytes = sum(sum(channel.values()) for result in results for channel in result.traffic.values()) / 1e3
        table.add_row(
            record.machine.name,
            record.method["name"],
            record.view,
            f"{record.machine.clock_mhz:g}",
            str(record.cycles),
            f"{record.milliseconds(record.cycles):.4f}",
            f"{fmean(result.densities.density for result in results):.4f}",
            f"{kilobytes:.1f}",
            _busiest_unit(results),
        )
    return table


def _busiest_unit(results: Sequence[SimResult]) -> str:
    """The unit that works for the largest share of its server-cycles, over all layers."""
    cycles = sum(result.cycles for result in results)
    shares = {unit: sum(one.busy[unit] for one in results) / (servers * cycles) for unit, servers in results[0].servers.items()}
    unit = max(shares, key=lambda name: shares[name])
    return f"{unit.replace('_', ' ')} {100 * shares[unit]:.0f}"


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("layer", "head", *columns):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    return table


def _add_rows(table: Table, record: SimulationRecord, cells: Callable[[LayerRun, HeadResult | SimResult], list[str]]) -> None:
    several_windows = any(run.window for run in record.runs)
    for run in record.runs:
        label = f"{run.layer}, window {run.window}" if several_windows else str(run.layer)
        for head in run.result.heads:
            table.add_row(label, str(head.head), *cells(run, head))
        table.add_row(label, "all", *cells(run, run.result), style="bold", end_section=True)


def _numbers(part: HeadResult | SimResult) -> list[str]:
    kilobytes = sum(sum(channel.values()) for channel in part.traffic.values()) / 1e3
    return [str(part.cycles), f"{part.latency_ms:.4f}", f"{part.densities.density:.4f}", f"{kilobytes:.1f}"]


def _utilisation(layer: SimResult, unit: str, busy_cycles: int) -> str:
    return f"{100 * busy_cycles / (layer.servers[unit] * layer.cycles):.1f}"


def _by_cause(stalls: CauseCycles) -> Counter[str]:
    total: Counter[str] = Counter()
    for causes in stalls.values():
        total.update(causes)
    return total
