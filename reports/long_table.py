"""report.csv: every number of every file in long form, one to a row."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from xmsim.configs.costs import Quantity
from xmsim.reports.bench import benches
from xmsim.reports.collection import Collection
from xmsim.reports.cross_check import ALL, accuracies, coverage
from xmsim.reports.estimates import area_of, basis, energy_of
from xmsim.reports.load import Comparison, Measured, Simulated
from xmsim.reports.masks import mask_rows
from xmsim.reports.measured_work import MeasuredKernel
from xmsim.reports.models import Predicted
from xmsim.reports.published import CLAIMS
from xmsim.reports.rank_stability import rankings
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import counted
from xmsim.sim.result import PREFILL, Densities, SimResult

COLUMNS = (
    *("source", "machine", "method", "view", "operation", "layer", "window", "keys", "head", "metric", "value", "unit"),
    *("low", "high", "basis"),  # of estimates and published numbers: 5th and 95th percentile, and where the number comes from
)

Number = tuple[str, float, str]  # (metric, value, unit)


def long_table(comparison: Comparison) -> str:
    """CSV text: simulated rows by machine, layer, window and head; measured rows by host, layer and window.

    Area, energy and power are estimated rows of a whole machine, of each of its units and of each term; a published area is a row of its
    own.

    `head` is empty where a number belongs to the whole layer; every measured number does. `keys` tells decoded tokens apart. Where heads
    were sampled, the numbers are those of the heads that were simulated, but for the "estimated total" of the layer.
    """
    return _text(_part_rows(comparison))


def collection_table(collection: Collection) -> str:
    """The same of every part, then measured work besides the trace's attention, and published speedups; `operation` says of which."""
    rows = [row for part in collection.parts for row in _part_rows(part)]
    rows += [row for kernel in collection.kernels for row in _kernel_rows(kernel)]
    rows += [row for one in collection.predicted for row in _predicted_rows(one)]
    rows += [(*row, "", "", "") for one in collection.masks for row in mask_rows(one)]
    return _text([*rows, *_published_rows()])


def _text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def _part_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    for one in comparison.simulated:
        yield from ((*row, "", "", "") for row in _simulated_rows(one))
        yield from _estimated_rows(one)
    for group in view_groups(comparison):
        yield from _ranking_rows(group)
    yield from ((*row, "", "", "") for row in _measured_rows(comparison))


def _operation(one: Simulated | Measured) -> str:
    """`attention`, or which other extent of it."""
    extent = one.extent.replace(" without its projections", "")
    return "attention" if extent == f"{PREFILL} of attention" else extent


def _ranking_rows(group: ViewGroup) -> Iterator[tuple[object, ...]]:
    """The probability that a machine is better than another."""
    operation = _operation(group.members[0])
    for ranking in rankings(group):
        members = {one.label: one for one in group.members}
        for own, chances in zip(ranking.machines, ranking.probabilities, strict=True):
            one = members[own]
            for other, chance in zip(ranking.machines, chances, strict=True):
                if other != own:
                    metric = f"better than {other} by {ranking.criterion}"
                    place = ("estimated", own, one.method, one.record.view, operation, "", "", "", "")
                    yield *place, metric, chance, "probability", "", "", "draws of the tables' rows"


def _kernel_rows(kernel: MeasuredKernel) -> Iterator[tuple[object, ...]]:
    work, timing = kernel.work, kernel.timing
    place = ("measured", work.host, kernel.kernel, work.file, f"{work.kind}: {work.what}; {work.conditions}", "", "", "", "")
    yield *place, "latency, median", timing.median_ms, "ms", timing.first_quartile_ms, timing.third_quartile_ms, "quartiles"
    yield *place, "repetitions", timing.n, "runs", "", "", ""
    for base, ratio in (("torch", kernel.over_torch), ("our dense kernel", kernel.over_dense)):
        if ratio:
            limits = (ratio.first_quartile, ratio.third_quartile) if ratio.first_quartile is not None else ("", "")
            basis_words = "pairs of runs, quartiles" if ratio.first_quartile is not None else "medians"
            yield *place, f"speedup over {base}", ratio.median, "×", *limits, basis_words


def _predicted_rows(one: Predicted) -> Iterator[tuple[object, ...]]:
    """Errors of each kind of run, then every run."""
    record, file = one.record, one.path.name
    for row in accuracies(record):
        place = ("predicted", record.host.cpu, row.series, file, row.constants, "", "", "", "")
        for metric, error in (("bias", row.bias), ("mean error", row.mean), ("95th percentile of errors", row.p95)):
            yield *place, metric, error, "fraction", "", "", f"{row.n} runs, model of {record.model}"
    whole = ("predicted", record.host.cpu, ALL, file, "", "", "", "", "")
    yield *whole, "coverage", coverage(record), "fraction", "", "", "measured series that the model predicts"
    for run in record.runs:
        shape = ", ".join(f"{name} {value}" for name, value in run.shape.items())
        operation = f"{run.operation}: {shape}, {counted(run.threads, 'thread')}, {run.constants}"
        place = ("predicted", record.host.cpu, f"{run.kernel} {run.element}", run.source, operation, "", "", "", "")
        yield *place, "latency, predicted", run.predicted_ms, "ms", "", "", f"bound by {run.bound_by}"
        yield *place, "latency, median", run.measured_ms, "ms", run.first_quartile_ms, run.third_quartile_ms, "quartiles"


def _published_rows() -> Iterator[tuple[object, ...]]:
    for claim in CLAIMS:
        metric = f"published speedup, {'at best' if claim.up_to else 'as stated'}"
        place = ("published", claim.subject, "", claim.conditions, claim.quantity, "", "", "", "")
        yield *place, metric, claim.value, "×", "", "", claim.source


def _simulated_rows(one: Simulated) -> Iterator[tuple[object, ...]]:
    record = one.record
    name = ("simulated", one.label, one.method, record.view, _operation(one))
    for run in record.runs:
        place = (*name, run.layer, run.window, run.key_tokens)
        for number in _layer_numbers(run.result, record.milliseconds(run.result.cycles)):
            yield *place, "", *number
        if run.sampled_kv_heads is not None:
            yield *place, "", "estimated total", run.cycles, "cycles"
        for part, phase in run.result.projection_phases():
            for metric, value, unit in (
                ("total", phase.cycles, "cycles"),
                ("latency", record.milliseconds(phase.cycles), "ms"),
                ("useful macs", phase.useful_macs, "MAC"),
                *_by_channel(phase.traffic),
            ):
                yield *place, "", f"{part}: {metric}", value, unit
        for head in run.result.heads:
            numbers: list[Number] = [
                ("total", head.cycles, "cycles"),
                ("latency", record.milliseconds(head.cycles), "ms"),
                ("useful macs", head.useful_macs, "MAC"),
                *_densities(head.densities),
                *_by_channel(head.traffic),
            ]
            for number in numbers:
                yield *place, head.head, *number


def _estimated_rows(one: Simulated) -> Iterator[tuple[object, ...]]:
    """Of the whole machine on all layers and windows, and the energy of each layer."""
    name = (one.label, one.method, one.record.view, _operation(one))
    place = (*name, "", "", "", "")
    if area := area_of(one):
        yield from _quantity_rows(place, "area", area, "mm2", one)
    if energy := energy_of(one):
        yield "estimated", *place, "power", energy.power.nominal, "mW", energy.power.low, energy.power.high, basis(energy)
        yield "estimated", *place, "energy", energy.energy.nominal, "pJ", energy.energy.low, energy.energy.high, basis(energy)
        yield from _quantity_rows(place, "energy on chip", energy.on_chip_energy, "pJ", one)
        yield from _quantity_rows(place, "energy of DRAM", energy.dram_energy, "pJ", one)
    for layer, costs in one.layer_costs.items():
        for metric, quantity in (("energy on chip", costs.on_chip_energy), ("energy of DRAM", costs.dram_energy)):
            parts = {metric: quantity.total} | {f"{metric}: {unit}": own for unit, own in quantity.by_unit.items()}
            for part, own in parts.items():
                yield "estimated", *name, layer, "", "", "", part, own.nominal, "pJ", own.low, own.high, basis(costs)
    if published := one.record.machine.area_mm2:
        yield "published", *place, "published area", published, "mm2", "", "", one.record.machine.area_source


def _quantity_rows(place: tuple[object, ...], name: str, quantity: Quantity, unit: str, one: Simulated) -> Iterator[tuple[object, ...]]:
    assert one.record.costs is not None
    tables = basis(one.record.costs)
    yield "estimated", *place, name, quantity.total.nominal, unit, quantity.total.low, quantity.total.high, tables
    for part, value in quantity.by_unit.items():
        yield "estimated", *place, f"{name}: {part}", value.nominal, unit, value.low, value.high, tables
    seen: Counter[tuple[str, str]] = Counter()
    for term in quantity.terms:
        seen[term.unit, term.part] += 1
        again = f" ({seen[term.unit, term.part]})" if seen[term.unit, term.part] > 1 else ""
        made_of = "; ".join(
            f"{factor.name} {factor.value.nominal:g} ({factor.value.low:g} to {factor.value.high:g}) {factor.unit} [{factor.source}]"
            for factor in term.factors
        )
        metric = f"{name}: {term.unit}: {term.part}{again}"
        yield "estimated", *place, metric, term.nominal, unit, "", "", f"{term.count:g} × {made_of}"


def _layer_numbers(result: SimResult, latency_ms: float) -> Iterator[Number]:
    yield "total", result.cycles, "cycles"
    yield "latency", latency_ms, "ms"
    yield "roofline", result.roofline_cycles, "cycles"
    yield "serial", result.serial_cycles, "cycles"
    yield "useful macs", result.useful_macs, "MAC"
    yield from _densities(result.densities)
    yield from _by_channel(result.traffic)
    for stage, cycles in result.busy.items():
        yield f"busy: {stage}", cycles, "server-cycles"
    for kind, account in (("stalled", result.stalls), ("idle", result.idle)):
        for stage, causes in account.items():
            for cause, cycles in causes.items():
                yield f"{kind}: {stage}: {cause}", cycles, "server-cycles"
    for metric, value in result.metrics.items():
        yield f"scheduler: {metric}", value, ""


def _densities(densities: Densities) -> list[Number]:
    return [
        ("density", densities.density, "fraction"),
        ("full density", densities.full_density, "fraction"),
        ("kv density", densities.kv_density, "fraction"),
    ]


def _by_channel(traffic: dict[str, dict[str, int]]) -> list[Number]:
    return [
        (f"{direction.removesuffix('_bytes')}: {channel}", count, "B")
        for channel, directions in traffic.items()
        for direction, count in directions.items()
    ]


def _measured_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    decodes = comparison.decoded_tokens > 0
    for bench in benches(comparison):
        machine = bench.title.removeprefix("measured on ")
        for series in bench.series:
            for run in series.runs:
                numbers: list[Number] = [
                    ("latency, median", run.timing.median_ms, "ms"),
                    ("latency, first quartile", run.timing.first_quartile_ms, "ms"),
                    ("latency, third quartile", run.timing.third_quartile_ms, "ms"),
                    ("latency, min", run.timing.min_ms, "ms"),
                    ("latency, max", run.timing.max_ms, "ms"),
                    ("repetitions", run.timing.n, "runs"),
                    ("density", run.density, "fraction"),
                ]
                if run.max_error is not None:
                    numbers.append(("max error", run.max_error, ""))
                if run.allowed_error is not None:
                    numbers.append(("allowed error", run.allowed_error, ""))
                operation = f"{series.operation}, {series.means}{', decode' if decodes else ''}"
                for number in numbers:
                    yield "measured", machine, series.method, "", operation, run.layer, run.window, run.key_tokens, "", *number
