"""The tables of the report: what each machine needed, what each kernel took, what produced the numbers."""

from __future__ import annotations

import json

from xmsim.reports.bench import Bench, Series, benches
from xmsim.reports.html import Cell, Number, escaped, folded, preformatted, table
from xmsim.reports.load import Comparison, Measured, Simulated
from xmsim.reports.totals import MachineTotals, machine_totals, peak_gmacs
from xmsim.reports.words import byte_count, percent, significant, spaced


def machines_table(comparison: Comparison) -> str:
    """Totals of every simulated machine."""
    columns = (
        "machine",
        "view",
        "method",
        "cycles",
        "time, ms",
        "clock, MHz",
        "density",
        "busiest unit",
        "busy",
        "DRAM bytes",
        "bound by",
        "cycles / roofline",
        "peak, GMAC/s",
        "area, mm²",
    )
    return table("simulated", columns, [_machine_row(one) for one in comparison.simulated])


def _machine_row(one: Simulated) -> list[Cell]:
    machine, totals = one.record.machine, machine_totals(one.record)
    area: Cell = Number(machine.area_mm2, significant(machine.area_mm2)) if machine.area_mm2 else "not known"
    return [
        one.label,
        one.record.view,
        one.method,
        Number(totals.cycles, f"{totals.cycles:,}"),
        Number(totals.time_ms, _time(totals)),
        Number(machine.clock_mhz, significant(machine.clock_mhz)),
        Number(totals.density, significant(totals.density)),
        spaced(totals.busiest_unit.name),
        Number(totals.busiest_unit.share, percent(totals.busiest_unit.share)),
        Number(totals.dram_bytes, byte_count(totals.dram_bytes)),
        totals.bound_by,
        _ratio(totals.cycles, totals.roofline_cycles),
        Number(peak_gmacs(machine), significant(peak_gmacs(machine))),
        area,
    ]


def _time(totals: MachineTotals) -> str:
    interval = f" ± {significant(totals.half_width_ms)} (95 %, sampled)" if totals.half_width_ms else ""
    return significant(totals.time_ms) + interval


def _ratio(cycles: int, roofline_cycles: int) -> Cell:
    return Number(cycles / roofline_cycles, significant(cycles / roofline_cycles)) if roofline_cycles else "–"


def kernels_table(comparison: Comparison) -> str:
    """Every measured series, summed over layers and windows."""
    columns = (
        "host",
        "operation",
        "method",
        "backend",
        "dtype",
        "threads",
        "median, ms",
        "quartiles, ms",
        "n",
        "density",
        "largest error",
        "allowed error",
    )
    return table("measured", columns, [_kernel_row(bench, series) for bench in benches(comparison) for series in bench.series])


def _kernel_row(bench: Bench, series: Series) -> list[Cell]:
    total = series.total
    pairs = [run.query_tokens * run.key_tokens for run in series.runs]
    density = sum(size * run.density for size, run in zip(pairs, series.runs, strict=True)) / sum(pairs)
    return [
        bench.host.cpu if bench.device == "cpu" else bench.host.gpu,
        series.operation,
        series.method,
        series.backend,
        series.dtype,
        Number(bench.threads, str(bench.threads)),
        Number(total.median_ms, significant(total.median_ms)),
        f"{significant(total.first_quartile_ms)} to {significant(total.third_quartile_ms)}",
        Number(total.n, str(total.n)),
        Number(density, significant(density)),
        *_errors(series),
    ]


def _errors(series: Series) -> tuple[Cell, Cell]:
    """The error of the run that came closest to its bound, and that bound."""
    checked = [(run.max_error, run.allowed_error) for run in series.runs if run.max_error is not None and run.allowed_error]
    if not checked:
        return "nothing to compare", "–"
    error, allowed = max(checked, key=lambda pair: pair[0] / pair[1])
    return Number(error, f"{error:.1e}"), Number(allowed, f"{allowed:.1e}")


def metrics_table(comparison: Comparison) -> str:
    """What the machines' own schedulers report, from the smallest to the largest layer; empty where none reports anything."""
    rows: list[list[Cell]] = []
    for one in comparison.simulated:
        for metric in dict.fromkeys(name for run in one.record.runs for name in run.result.metrics):
            values = [run.result.metrics[metric] for run in one.record.runs if metric in run.result.metrics]
            rows.append(
                [one.label, one.record.view, spaced(metric), *(Number(value, significant(value)) for value in (min(values), max(values)))]
            )
    return table("simulated", ("machine", "view", "quantity", "smallest", "largest"), rows) if rows else ""


def files_table(comparison: Comparison) -> str:
    """What was read."""
    rows: list[list[Cell]] = [
        [one.path.name, "simulated", f"{one.label}, {one.record.view}, {one.record.engine} engine", one.software]
        for one in comparison.simulated
    ]
    rows += [[one.path.name, "measured", one.record.host.cpu, one.software] for one in comparison.measured]
    return table("plain", ("file", "kind", "of", "written by xmsim"), rows)


def provenance(comparison: Comparison) -> str:
    """Trace, hosts, method parameters and machine configurations, each to unfold."""
    parts = [folded("Trace", preformatted(_json(comparison.trace)))]
    for measured in comparison.measured:
        parts.append(folded(f"Host of {measured.path.name}: {measured.record.host.cpu}", _host(measured)))
    for one in comparison.simulated:
        title = f"{one.label}, {one.record.view}: method {one.method} and machine configuration"
        parts.append(folded(title, preformatted(f"method {_json(one.record.method)}\nmachine {_json(one.record.machine.config)}")))
    return "".join(parts)


def _host(measured: Measured) -> str:
    host = measured.record.host
    facts = {
        "CPU": f"{host.cpu}, {host.cores} cores",
        "CPU features": ", ".join(host.cpu_features) or "none of those that matter",
        "memory": byte_count(host.memory_bytes),
        "GPU": host.gpu or "none",
        "system": host.system,
        "Python": host.python,
        "packages": ", ".join(f"{name} {version}" for name, version in host.packages.items()),
        "method": _json(measured.record.method),
    }
    lines = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(fact)}</dd>\n" for name, fact in facts.items())
    return f"<dl>\n{lines}</dl>\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
