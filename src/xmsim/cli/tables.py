"""Tables of a simulation on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table

from xmsim.configs.costs import Bar, Quantity
from xmsim.reports.difference.record import Difference
from xmsim.reports.words import MINUS, counted, signed, significant
from xmsim.sim.result import DECODE, CauseCycles, HeadResult, LayerRun, PhaseResult, SimResult, SimulationRecord

WIDTH = 140  # columns, where the output is no terminal and so has no width of its own


def table_console() -> Console:
    """A console that does not fold tables when they go to a file, and prints what stands in brackets, such as a folder's name."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=WIDTH)


def detail_tables(record: SimulationRecord) -> list[Table]:
    """All there is to say about one machine: by layer and head, or in decode by token."""
    return [tokens_table(record)] if record.phase == DECODE else [cycles_table(record), units_table(record)]


def machine_line(record: SimulationRecord, path: Path) -> str:
    """`dynax_s  1843200 cycles  3.686 ms  results/dynax_s.json`, the interval where heads were sampled."""
    total = f"{record.milliseconds(record.cycles):.3f} ms"
    if record.sampling:
        total += f" ± {record.milliseconds(record.estimate.half_width):.3f} (95 %)"
    per_token = f"  {_token_ms(record)} ms/token (median)" if record.phase == DECODE else ""
    remark = f"  not native: {_mask_remark(record)}" if _mask_remark(record) else ""
    return f"{record.machine.name}  {record.cycles} cycles  {total}{per_token}{remark}  {path}"


def costs_line(record: SimulationRecord) -> str | None:
    """`dynax_s  area 1.08 +0.25 −0.20 mm²  power ...`, nominal and 90 % bars; None where nothing is estimated."""
    costs = record.costs
    if costs is None:
        return None
    parts = (
        ("area", costs.area.total, 1.0, "mm²"),
        ("power", costs.power, 1.0, "mW"),
        ("energy on chip", costs.on_chip_energy.total, 1e-6, "µJ"),
        ("energy of DRAM", costs.dram_energy.total, 1e-6, "µJ"),
    )
    shown = "  ".join(f"{name} {bar_text(value, scale)} {unit}" for name, value, scale, unit in parts)
    return f"{record.machine.name}  {shown}  (at {costs.node_nm:g} nm; nominal, 5 to 95 %; xmsim explain says where from)"


def bar_text(value: Bar, scale: float = 1.0) -> str:
    """`1.08 +0.25 -0.20`, from nominal to the ends of the bar."""
    nominal = scale * value.nominal
    above, below = scale * value.high - nominal, nominal - scale * value.low
    return f"{significant(nominal)} +{significant(above, 2)} −{significant(below, 2)}"


def terms_table(title: str, quantity: Quantity, unit: str) -> Table:
    """One row per term of a unit, or of all: count, the product of its factors, and each factor with its source; largest first."""
    largest = {(term.unit, term.part) for term in quantity.largest()}
    chosen = sorted((term for term in quantity.terms if unit in ("", term.unit)), key=lambda term: -term.nominal)
    total = quantity.by_unit[unit] if unit else quantity.total
    table = Table(title=f"{title}: {bar_text(total)}; * is one of the five largest of all", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("unit", "part"):
        table.add_column(name)
    for name in ("share, %", "value", "= count"):
        table.add_column(name, justify="right")
    table.add_column("× factors [low, nominal, high] (source)")
    for term in chosen:
        factors = "\n".join(
            f"{factor.name} {factor.value.low:.3g}, {factor.value.nominal:.3g}, {factor.value.high:.3g} {factor.unit} ({factor.source})"
            for factor in term.factors
        )
        mark = "*" if (term.unit, term.part) in largest else ""
        share = f"{mark}{100 * term.nominal / total.nominal:.1f}" if total.nominal else ""
        table.add_row(term.unit, term.part, share, f"{term.nominal:.4g}", f"{term.count:.6g}", factors)
    return table


def tokens_table(record: SimulationRecord) -> Table:
    """One row per decoded token, all layers."""
    steps: dict[tuple[int, int], list[LayerRun]] = {}
    for run in record.runs:
        steps.setdefault((run.window, run.key_tokens), []).append(run)
    table = Table(title=f"{_title(record)}, by decoded token, all layers", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("window", "keys", "cycles", "ms", "density", "DRAM kB"):
        table.add_column(name, justify="right")
    for (window, keys), runs in sorted(steps.items()):
        cycles = sum(run.cycles for run in runs)
        density = fmean(run.result.densities.density for run in runs)
        table.add_row(
            str(window), str(keys), str(cycles), f"{record.milliseconds(cycles):.4f}", f"{density:.4f}", f"{_kilobytes(runs):.1f}"
        )
    return table


def cycles_table(record: SimulationRecord) -> Table:
    """One row per layer and head: cycles, time, density, bytes, and what its jobs waited for."""
    causes = sorted({cause for run in record.runs for cause in _by_cause(run.result.stalls)})
    table = _table(
        _title(record),
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
    """One row per machine: what it served, how long all layers took, its busiest unit, and where its mask was not its own."""
    layers, windows = (len({getattr(run, name) for run in records[0].runs}) for name in ("layer", "window"))
    decodes = records[0].phase == DECODE
    tokens = len(records[0].runs) // (layers * windows)
    decoded = f", {counted(tokens, 'token')} decoded" if decodes else ""
    work = f"{counted(layers, 'layer')} × {counted(windows, 'window')}{decoded}"
    table = Table(title=f"{records[0].trace['model']}, {work}, simulated", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("machine", "method", "view"):
        table.add_column(name)
    numbers = ["MHz", "cycles", "ms", *(["ms/token, median"] if decodes else []), "density", "DRAM kB", "busiest unit, %"]
    remarks = [_mask_remark(record) for record in records]
    for name in numbers + (["mask not native"] if any(remarks) else []):
        table.add_column(name, justify="right")
    for record, remark in zip(records, remarks, strict=True):
        total_ms = f"{record.milliseconds(record.cycles):.4f}"
        if record.sampling:
            total_ms += f" ± {record.milliseconds(record.estimate.half_width):.4f} (95 %)"
        results = [run.result for run in record.runs]
        table.add_row(
            record.machine.name,
            record.method["name"],
            record.view,
            f"{record.machine.clock_mhz:g}",
            str(record.cycles),
            total_ms,
            *([_token_ms(record)] if decodes else []),
            f"{fmean(result.densities.density for result in results):.4f}",
            f"{_kilobytes(record.runs):.1f}",
            _busiest_unit(results),
            *([remark] if any(remarks) else []),
        )
    return table


def _mask_remark(record: SimulationRecord) -> str:
    """How far the masks were not those the machine is built for; empty where they were."""
    metrics = [run.result.metrics for run in record.runs]
    remarks = []
    if (coverage := min(one.get("coverage", 1.0) for one in metrics)) < 1:
        remarks.append(f"coverage from {coverage:.2f}")
    if overfull := sum(one.get("overfull_blocks", 0) for one in metrics):
        remarks.append(f"{overfull:.0f} overfull blocks")
    return ", ".join(remarks)


def _title(record: SimulationRecord) -> str:
    projections = ", projections included" if any(run.result.projections for run in record.runs) else ""
    method = f"method {record.method['name']}, view {record.view}"
    return f"{record.machine.name}, {method}{projections}, simulated at {record.machine.clock_mhz:g} MHz"


def _token_ms(record: SimulationRecord) -> str:
    return f"{record.milliseconds(record.median_token_cycles):.4f}"


def _kilobytes(runs: Sequence[LayerRun]) -> float:
    """Bytes of all channels; an estimate where heads were sampled."""
    return sum(run.expansion * sum(sum(channel.values()) for channel in run.result.traffic.values()) for run in runs) / 1e3


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


def _add_rows(table: Table, record: SimulationRecord, cells: Callable[[LayerRun, HeadResult | PhaseResult | SimResult], list[str]]) -> None:
    several_windows = any(run.window for run in record.runs)
    for run in record.runs:
        label = f"{run.layer}, window {run.window}" if several_windows else str(run.layer)
        for head in run.result.heads:
            table.add_row(label, str(head.head), *cells(run, head))
        for name, phase in run.result.projection_phases():
            table.add_row(label, name, *cells(run, phase))
        table.add_row(label, "all" if run.sampled_kv_heads is None else "these", *cells(run, run.result), style="bold", end_section=True)


def _numbers(part: HeadResult | PhaseResult | SimResult) -> list[str]:
    kilobytes = sum(sum(channel.values()) for channel in part.traffic.values()) / 1e3
    density = "" if isinstance(part, PhaseResult) else f"{part.densities.density:.4f}"
    return [str(part.cycles), f"{part.latency_ms:.4f}", density, f"{kilobytes:.1f}"]


def _utilisation(layer: SimResult, unit: str, busy_cycles: int) -> str:
    return f"{100 * busy_cycles / (layer.servers[unit] * layer.cycles):.1f}"


def _by_cause(stalls: CauseCycles) -> Counter[str]:
    total: Counter[str] = Counter()
    for causes in stalls.values():
        total.update(causes)
    return total


def difference_tables(found: Difference) -> list[Table]:
    """From B to A: cycles by cause, and energy by unit where it is estimated; the columns add up."""
    a, b = found.a, found.b
    cycles = _difference_table(f"Cycles from {b.machine} to {a.machine}, simulated", "cause", [a.machine, b.machine, "step"])
    for step in found.cycles:
        sides = ["" if own is None else f"{own:,}" for own in (step.a_cycles, step.b_cycles)]
        cycles.add_row(step.cause, *sides, signed(step.step_cycles))
    cycles.add_row("total", f"{a.total_cycles:,}", f"{b.total_cycles:,}", signed(a.total_cycles - b.total_cycles), style="bold")
    if a.total_energy_pj is None or b.total_energy_pj is None:
        return [cycles]
    columns = [f"{a.machine}, µJ", f"{b.machine}, µJ", "step, µJ", "5 to 95 %"]
    energy = _difference_table(f"Energy from {b.machine} to {a.machine}, estimated", "unit (phase)", columns)
    for part in found.energy:
        limits = " to ".join(significant(limit / 1e6) for limit in (part.step_low, part.step_high))
        energy.add_row(
            f"{part.unit.replace('_', ' ')} ({part.phase})", *(_microjoules(value) for value in (part.a, part.b, part.step)), limits
        )
    totals = (a.total_energy_pj, b.total_energy_pj, a.total_energy_pj - b.total_energy_pj)
    energy.add_row("total", *map(_microjoules, totals), "", style="bold")
    return [cycles, energy]


def _microjoules(energy_pj: float) -> str:
    return f"{energy_pj / 1e6:,.2f}".replace("-", MINUS)


def _difference_table(title: str, first: str, numbers: list[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
