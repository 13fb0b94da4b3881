"""The tables of the report: what each machine needed, what each kernel took, what produced the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from xmsim.configs.costs import Bar, Costs, Quantity
from xmsim.reports.bench import Bench, Series, benches
from xmsim.reports.collection import Collection
from xmsim.reports.comparison_views import ENERGY, EQUAL_AREA, PAPERS, RAW, View, comparison_views, dense_gops, energy_ratios
from xmsim.reports.equal_accuracy import AccuracyGroup
from xmsim.reports.estimates import area_beside, area_of, bar_words, costs_beside, energy_beside, energy_of, missing_energy
from xmsim.reports.layer_bounds import LayerBound, layer_bounds
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.prediction_cost import prediction_cost
from xmsim.reports.quality import quality_of
from xmsim.reports.rank_stability import Ranking
from xmsim.reports.table import Cell, Number, Table
from xmsim.reports.totals import MachineTotals, machine_totals, peak_gmacs
from xmsim.reports.views import ViewGroup
from xmsim.reports.words import byte_count, factor, percent, significant, spaced

NOT_KNOWN = "not known"
NOT_EVALUATED = "no evaluation given"
SIGNS = {"mm2": "mm²"}  # as people write units that records spell in ASCII


def machines_table(comparison: Comparison) -> Table:
    """Totals of every simulated machine."""
    columns = (
        "machine",
        "view",
        "method",
        "cycles",
        "time, ms",
        "clock, MHz",
        "density",
        "perplexity (over dense)",
        "busiest unit",
        "busy",
        "DRAM bytes",
        "bound by",
        "cycles / roofline",
        "peak, GMAC/s",
    )
    rows = [_machine_row(one, comparison) for one in comparison.simulated]
    return Table("simulated", "Simulated machines, all layers and windows", columns, rows)


def _machine_row(one: Simulated, comparison: Comparison) -> list[Cell]:
    machine, totals = one.record.machine, machine_totals(one.record)
    return [
        one.label,
        one.record.view,
        one.method,
        Number(totals.cycles, f"{totals.cycles:,}"),
        Number(totals.time_ms, _time(totals)),
        Number(machine.clock_mhz, significant(machine.clock_mhz)),
        Number(totals.density, significant(totals.density)),
        _perplexity(one, comparison),
        spaced(totals.busiest_unit.name),
        Number(totals.busiest_unit.share, percent(totals.busiest_unit.share)),
        Number(totals.dram_bytes, byte_count(totals.dram_bytes)),
        totals.bound_by,
        _ratio(totals.cycles, totals.roofline_cycles),
        Number(peak_gmacs(machine), significant(peak_gmacs(machine))),
    ]


def _perplexity(one: Simulated, comparison: Comparison) -> Cell:
    quality = quality_of(one, comparison)
    return Number(quality.run.perplexity, quality.words) if quality else NOT_EVALUATED


def _time(totals: MachineTotals) -> str:
    interval = f" ± {significant(totals.half_width_ms)} (95 %, sampled)" if totals.half_width_ms else ""
    return significant(totals.time_ms) + interval


def _ratio(cycles: int, roofline_cycles: int) -> Cell:
    return Number(cycles / roofline_cycles, significant(cycles / roofline_cycles)) if roofline_cycles else "–"


def costs_table(comparison: Comparison) -> Table:
    """Area, power and energy of every machine with their bars, as made and at the node of all; what was published stands apart."""
    node_nm = next((one.moved_costs.node_nm for one in comparison.simulated if one.moved_costs), None)
    columns = (
        "machine",
        "view",
        "node, nm",
        "area, mm²",
        "power on chip, mW",
        "energy on chip, µJ",
        "energy of DRAM, µJ",
        "energy, µJ",
        *([f"area at {node_nm:g} nm, mm²", f"energy at {node_nm:g} nm, µJ"] if node_nm else []),
        "published area, mm²",
        "estimated from",
        "published where",
    )
    rows = [_costs_row(one, node_nm) for one in comparison.simulated]
    return Table("simulated", "Estimated area, power and energy, nominal (5 to 95 %)", columns, rows)


def _costs_row(one: Simulated, node_nm: float | None) -> list[Cell]:
    """`node_nm`: at which some machines were estimated anew; None: all are made at one."""
    machine, area, energy = one.record.machine, area_of(one), energy_of(one)
    published: Cell = Number(machine.area_mm2, significant(machine.area_mm2)) if machine.area_mm2 else NOT_KNOWN
    energies: list[Cell] = ["not estimated"] * 4
    if energy:
        energies = [
            _barred(energy.power, 1.0, derivation_id(one, "on-chip")),
            _barred(energy.on_chip_energy.total, 1e-6, derivation_id(one, "on-chip")),
            _barred(energy.dram_energy.total, 1e-6, derivation_id(one, "dram")),
            _barred(energy.energy, 1e-6, derivation_id(one, "on-chip")),
        ]
    costs, beside = one.record.costs, costs_beside(one)
    moved: list[Cell] = [NOT_KNOWN] * 2 if node_nm else []
    if node_nm and beside and beside.node_nm == node_nm:
        moved = [_barred(beside.area.total, 1.0), _barred(beside.energy, 1e-6) if energy else missing_energy(one)]
    return [
        one.label,
        one.record.view,
        Number(costs.node_nm, f"{costs.node_nm:g}") if costs else NOT_KNOWN,
        _barred(area.total, 1.0, derivation_id(one, "area")) if area else "not estimated",
        *energies,
        *moved,
        published,
        f"tables at {costs.node_nm:g} nm" if costs and energy else missing_energy(one),
        machine.area_source,
    ]


def _barred(value: Bar, scale: float, target: str = "") -> Number:
    return Number(scale * value.nominal, bar_words(value, scale), target)


def derivation_id(one: Simulated, what: str) -> str:
    """The id of the part of the page that derives an estimate of a result."""
    return f"derivation-{one.number}-{what}"


def unit_rows(quantity: Quantity, unit: str, scale: float, sign: str) -> Table:
    """The terms of one unit: count, and each factor with its bar and its source; they multiply to the value."""
    whole = quantity.total.nominal
    rows: list[list[Cell]] = []
    for term in sorted((term for term in quantity.terms if term.unit == unit), key=lambda term: -term.nominal):
        factors = "; ".join(
            f"{one.name} {bar_words(one.value)}{f' {SIGNS.get(one.unit, one.unit)}' if one.unit else ''} [{one.source}]"
            for one in term.factors
        )
        rows.append(
            [
                term.part,
                Number(scale * term.nominal, significant(scale * term.nominal)),
                Number(term.nominal / whole if whole else 0.0, f"{100 * term.nominal / whole:.1f} %" if whole else "–"),
                Number(term.count, significant(term.count)),
                factors,
            ]
        )
    columns = ("part", f"value, {sign}", "share of all", "count", "× rows of the tables: nominal (low to high) unit [source]")
    return Table("simulated", f"{spaced(unit)}: terms", columns, rows)


def derivations(costs: Costs) -> tuple[tuple[str, str, Quantity, float, str], ...]:
    """What an estimate consists of: (id, name, quantity, scale, unit)."""
    return (
        ("area", "area", costs.area, 1.0, "mm²"),
        ("on-chip", "energy on chip", costs.on_chip_energy, 1e-6, "µJ"),
        ("dram", "energy of DRAM", costs.dram_energy, 1e-6, "µJ"),
    )


def view_tables(group: ViewGroup, comparison: Comparison) -> tuple[Table, ...]:
    """One table a view of speed, and one of energy."""
    return tuple(_view_table(view, group, comparison) for view in (*comparison_views(group), energy_ratios(group)))


def _view_table(view: View, group: ViewGroup, comparison: Comparison) -> Table:
    timed = bool(view.times_ms)
    effective = timed and view.name == PAPERS
    columns = ["machine", "method", "density", "perplexity (over dense)"]
    columns += ["time in this view, ms"] if timed else []
    columns += ["dense GOP/s"] if effective else []
    columns += [f"speedup over {view.baseline}" if timed else f"times less energy than {view.baseline}"]
    rows = []
    for one in group.members:
        density = machine_totals(one.record).density
        row: list[Cell] = [one.label, one.method, Number(density, significant(density)), _perplexity(one, comparison)]
        time, speedup = view.times_ms.get(one.label), view.speedups.get(one.label)
        if timed:
            row.append(_barred(time, 1.0) if time else NOT_KNOWN)
        if effective and time:
            gops = dense_gops(one, time.nominal)
            row.append(Number(gops, significant(gops)))
        row.append(Number(speedup.nominal, f"{bar_words(speedup)} ×") if speedup else view.missing.get(one.label, NOT_KNOWN))
        rows.append(row)
    return Table("simulated", f"{view.name}: {view.reference}", columns, rows)


def accuracy_table(found: AccuracyGroup) -> Table:
    """Cycles, energy and area at one target, with perplexity and density beside every speedup."""
    columns = (
        "machine",
        "method",
        "density",
        "perplexity (over dense)",
        "cycles",
        "time, ms",
        f"speedup over {found.group.baseline.label}",
        "energy, µJ",
        f"times less energy than {found.group.baseline.label}",
        "area, mm²",
        f"speedup at equal area over {found.group.baseline.label}",
    )
    views = {view.name: view.speedups for view in (*comparison_views(found.group), energy_ratios(found.group))}
    rows = []
    for one, quality in zip(found.group.members, found.qualities, strict=True):
        totals, area, energy = machine_totals(one.record), area_beside(one), energy_beside(one)
        own_node = one.moved_costs is None  # what a number opens is estimated there
        row: list[Cell] = [
            one.label,
            one.method,
            Number(totals.density, significant(totals.density)),
            Number(quality.run.perplexity, quality.words) if quality else NOT_EVALUATED,
            Number(totals.cycles, f"{totals.cycles:,}"),
            Number(totals.time_ms, _time(totals)),
            _view_cell(views[RAW].get(one.label)),
            _barred(energy.energy, 1e-6, derivation_id(one, "on-chip") if own_node else "") if energy else missing_energy(one),
            _view_cell(views[ENERGY].get(one.label)),
            _barred(area.total, 1.0, derivation_id(one, "area") if own_node else "") if area else "not estimated",
            _view_cell(views[EQUAL_AREA].get(one.label)),
        ]
        rows.append(row)
    return Table("simulated", found.name, columns, rows)


def _view_cell(speedup: Bar | None) -> Cell:
    return Number(speedup.nominal, f"{bar_words(speedup)} ×") if speedup else NOT_KNOWN


def ranking_table(ranking: Ranking) -> Table:
    """The probability that the row is better than the column; a star where the order is not safe."""
    unsafe = {frozenset(pair[:2]) for pair in ranking.unsafe()}
    rows: list[list[Cell]] = []
    for own, chances in zip(ranking.machines, ranking.probabilities, strict=True):
        row: list[Cell] = [own]
        for other, chance in zip(ranking.machines, chances, strict=True):
            mark = "*" if frozenset((own, other)) in unsafe else ""
            row.append(Number(chance, "–" if other == own else f"{mark}{chance:.2f}"))
        rows.append(row)
    columns = ("machine", *ranking.machines)
    return Table("simulated", f"{ranking.criterion}: probability that the row beats the column (* not safe)", columns, rows)


def prediction_table(comparison: Comparison) -> Table | None:
    """What the machines that predict pay for it; None where none does."""
    rows: list[list[Cell]] = []
    for one in comparison.simulated:
        cost = prediction_cost(one)
        if cost is None:
            continue
        rows.append(
            [
                one.label,
                one.record.view,
                one.method,
                ", ".join(spaced(stage) for stage in cost.stages),
                Number(cost.cycles, f"{cost.cycles:,}"),
                Number(cost.cycles_share, percent(cost.cycles_share)),
                _barred(cost.energy_uj, 1.0) if cost.energy_uj else missing_energy(one),
                Number(cost.energy_share, percent(cost.energy_share)) if cost.energy_share is not None else NOT_KNOWN,
            ]
        )
    columns = (
        "machine",
        "view",
        "method",
        "stages that predict",
        "cycles at work",
        "of all cycles",
        "energy on chip, µJ",
        "of the energy on chip",
    )
    return Table("simulated", "Prediction and masks, inside the totals", columns, rows) if rows else None


def layers_table(one: Simulated) -> Table:
    """Layer by layer: time, energy, density, the lower bound, and what is left to it."""
    columns = (
        "layer",
        "cycles",
        "time, ms",
        "energy on chip, µJ",
        "energy of DRAM, µJ",
        "density",
        "lower bound, cycles",
        "left, at most",
        "bound by",
        "what the binding unit lost",
    )
    return Table("simulated", f"{one.label}, {one.record.view}: layers", columns, [_layer_row(one, bound) for bound in layer_bounds(one)])


def _layer_row(one: Simulated, bound: LayerBound) -> list[Cell]:
    time_ms = one.record.milliseconds(bound.cycles)
    costs = one.layer_costs.get(bound.layer)
    energies: list[Cell] = [_barred(own.total, 1e-6) for own in (costs.on_chip_energy, costs.dram_energy)] if costs else [NOT_KNOWN] * 2
    return [
        Number(bound.layer, str(bound.layer)),
        Number(bound.cycles, f"{bound.cycles:,}"),
        Number(time_ms, significant(time_ms)),
        *energies,
        Number(bound.density, significant(bound.density)),
        Number(bound.roofline_cycles, f"{bound.roofline_cycles:,}"),
        Number(bound.left, factor(bound.left)),
        spaced(bound.resource),
        bound.loss_words or "–",
    ]


def layer_energy_table(one: Simulated) -> Table | None:
    """Nominal energy of each layer by unit, the unit that needs most first, DRAM among them; None where it is not known."""
    units: Counter[str] = Counter()
    by_layer: dict[int, dict[str, float]] = {}
    for layer, costs in one.layer_costs.items():
        quantities = (costs.on_chip_energy, costs.dram_energy)
        by_layer[layer] = {unit: 1e-6 * own.nominal for quantity in quantities for unit, own in quantity.by_unit.items()}
        units.update(by_layer[layer])
    if not by_layer:
        return None
    names = [unit for unit, _ in units.most_common()]
    rows: list[list[Cell]] = []
    for layer, own in by_layer.items():
        energies = [sum(own.values()), *(own.get(unit, 0.0) for unit in names)]
        rows.append([Number(layer, str(layer)), *(Number(energy, significant(energy)) for energy in energies)])
    columns = ("layer", "all", *(spaced(unit) for unit in names))
    return Table("simulated", f"{one.label}, {one.record.view}: nominal energy of each layer by unit, µJ", columns, rows)


def heads_table(one: Simulated, layer: int) -> Table:
    """The heads of a layer, over its windows and tokens."""
    heads: dict[int, list[tuple[int, float, int]]] = {}
    for run in one.record.runs:
        if run.layer == layer:
            for head in run.result.heads:
                moved = sum(sum(directions.values()) for directions in head.traffic.values())
                heads.setdefault(head.head, []).append((head.cycles, head.densities.density, moved))
    rows: list[list[Cell]] = []
    for number, parts in sorted(heads.items()):
        cycles, moved = sum(part[0] for part in parts), sum(part[2] for part in parts)
        density = sum(part[1] for part in parts) / len(parts)
        rows.append(
            [
                Number(number, str(number)),
                Number(cycles, f"{cycles:,}"),
                Number(density, significant(density)),
                Number(moved, byte_count(moved)),
            ]
        )
    return Table("simulated", f"{one.label}, layer {layer}: heads", ("head", "cycles", "density", "DRAM bytes"), rows)


def kernels_table(comparison: Comparison) -> Table:
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
    rows = [_kernel_row(bench, series) for bench in benches(comparison) for series in bench.series]
    return Table("measured", "Measured kernels, all layers and windows", columns, rows)


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


def metrics_table(comparison: Comparison) -> Table | None:
    """What the machines' own schedulers report, from the smallest to the largest layer; None where none reports anything."""
    rows: list[list[Cell]] = []
    for one in comparison.simulated:
        for metric in dict.fromkeys(name for run in one.record.runs for name in run.result.metrics):
            values = [run.result.metrics[metric] for run in one.record.runs if metric in run.result.metrics]
            rows.append([one.label, one.record.view, spaced(metric), *_span(values)])
    columns = ("machine", "view", "quantity", "smallest", "largest")
    return Table("simulated", "What the schedulers report", columns, rows) if rows else None


def _span(values: Iterable[float]) -> list[Cell]:
    ordered = sorted(values)
    return [Number(value, significant(value)) for value in (ordered[0], ordered[-1])]


def files_table(collection: Collection) -> Table:
    """What was read."""
    rows: list[list[Cell]] = []
    for part in collection.parts:
        rows += [
            [one.path.name, "simulated", f"{one.label}, {one.record.view}, {one.extent}, {one.record.engine} engine", one.software]
            for one in part.simulated
        ]
        rows += [[one.path.name, "measured", f"{one.extent} on {one.record.host.cpu}", one.software] for one in part.measured]
    rows += [[one.path.name, "evaluated", f"{one.record.text.name} on {one.record.host.cpu}", one.software] for one in collection.evaluated]
    rows += [
        [one.path.name, "measured", f"{one.record.model.get('name')}, generating on {one.record.host.cpu}", one.software]
        for one in collection.generated
    ]
    rows += [
        [one.path.name, "measured", f"{len(one.rows)} timings of kernels on {one.host.cpu}", one.software] for one in collection.benchmarks
    ]
    rows += [
        [one.path.name, "predicted and measured", f"{len(one.record.runs)} predictions for kernels on {one.record.host.cpu}", one.software]
        for one in collection.predicted
    ]
    rows += [[one.path.name, "counted", f"masks of {len(one.record.methods)} methods", one.software] for one in collection.masks]
    return Table("plain", "Files", ("file", "kind", "of", "written by xmsim"), rows)
