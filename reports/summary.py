"""What the files say, in sentences: each with its numbers, their units and where they come from."""

from __future__ import annotations

from pathlib import PurePath

from xmsim.reports.bench import DENSE, SPARSE, Bench, Series, TotalTime, benches
from xmsim.reports.collection import Collection
from xmsim.reports.comparison_views import ENERGY, PAPERS, RAW, comparison_views, energy_ratios
from xmsim.reports.estimates import PERCENTILES, area_of, bar_words, energy_of
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.measured_tables import speedup_words
from xmsim.reports.measured_work import GENERATION, MeasuredKernel, Work, works
from xmsim.reports.prediction_cost import prediction_cost
from xmsim.reports.quality import quality_of
from xmsim.reports.rank_stability import rank_sentences
from xmsim.reports.totals import machine_totals, sampled_time
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import capitalised, counted, factor, listed, milliseconds, percent, significant, spaced
from xmsim.sim.result import DECODE


def summary(comparison: Comparison) -> tuple[str, ...]:
    """The work; which machine is best, against what was measured, and how sure that is; then every machine and every kernel."""
    groups, found = view_groups(comparison), benches(comparison)
    return (
        work_sentence(comparison),
        *(sentence for group in groups for sentence in _best_sentences(group)),
        *(sentence for bench in found for sentence in _ratio_sentences(comparison, bench)),
        *(sentence for group in groups for sentence in rank_sentences(group)),
        *(_machine_sentence(one, comparison) for one in comparison.simulated),
        *(_kernel_sentence(bench, series) for bench in found for series in bench.series if series.operation in (DENSE, SPARSE)),
    )


def collection_summary(collection: Collection) -> tuple[str, ...]:
    """The work of all files, and everything that is in the first part and the others, in sentences."""
    parts = collection.parts
    rest = [sentence for part in parts for sentence in summary(part)[1:]]
    if len(parts) > 1:
        rest = []
        for part in parts:
            rest += [work_sentence(part), *summary(part)[1:]]
    return (_all_work(collection), *rest, *kernel_sentences(collection, attention=False))


def kernel_sentences(collection: Collection, *, attention: bool = True) -> tuple[str, ...]:
    """What was measured: with `attention` the CPU's on the trace in the first part, then the best of each kind of other work."""
    lines = []
    for part in collection.parts[:1] if attention else ():
        for bench in benches(part):
            lines += [
                _kernel_sentence(bench, series) for series in bench.series if bench.device == "cpu" and series.operation in (DENSE, SPARSE)
            ]
    for work, rows in works(collection.kernels).items():
        sparse = [row for row in rows if not row.dense and (row.over_dense or row.over_torch)]
        if sparse and work.kind == GENERATION:
            lines += [_generation_sentence(work, row) for row in sparse]
    return tuple(lines)


def _generation_sentence(work: Work, row: MeasuredKernel) -> str:
    ratios = [f"{speedup_words(ratio)} over {name}" for name, ratio in (("our dense", row.over_dense), ("torch", row.over_torch)) if ratio]
    timing = row.timing
    quartiles = f"quartiles {significant(timing.first_quartile_ms)} to {significant(timing.third_quartile_ms)}, n = {timing.n}"
    times = f"{milliseconds(timing.median_ms)} ({quartiles}), {listed(ratios)}"
    return f"{capitalised(work.what)}, {row.kernel}: {times}, measured on {work.host}."


def _all_work(collection: Collection) -> str:
    """Of the first part, and what else there is."""
    besides = [extent_of(part) for part in collection.parts[1:]]
    besides += [counted(len(collection.generated), "measured model")] if collection.generated else []
    besides += [counted(len(collection.benchmarks), "kernel benchmark")] if collection.benchmarks else []
    besides += [counted(len(collection.predicted), "cross-check")] if collection.predicted else []
    if collection.main is None:
        return f"{capitalised(listed(besides))}."
    first = work_sentence(collection.main)
    return f"{first[:-1]}; besides {listed(besides)}." if besides else first


def extent_of(comparison: Comparison) -> str:
    """`decode of attention`, `decode of attention with its projections`."""
    return (comparison.simulated or comparison.measured)[0].extent.removesuffix(" without its projections")


def work_sentence(comparison: Comparison) -> str:
    """`On xm-tiny, wikitext2.txt, 6 layers × 4 heads × 1024 tokens: 3 simulated results, 1 measurement.`"""
    trace = comparison.trace
    shapes = comparison.work.values()
    tokens = _span([shape.key_tokens for shape in shapes])
    queries = _span([shape.query_tokens for shape in shapes])
    extent = f"{tokens} tokens" if queries == tokens else f"{queries} queries on {tokens} keys"
    if decoded := comparison.decoded_tokens:
        extent = f"{counted(decoded, 'decoded token')} on {tokens} keys"
    work = [
        counted(len(comparison.layers), "layer"),
        counted(len(comparison.windows), "window"),
        f"{_span([shape.heads for shape in shapes])} heads",
        extent,
    ]
    if len(comparison.windows) == 1:
        work.pop(1)
    found = [counted(len(comparison.simulated), "simulated result")] if comparison.simulated else []
    found += [counted(len(comparison.measured), "measurement")] if comparison.measured else []
    subject = [
        str(trace.get("model") or "an unnamed model"),
        PurePath(str(trace.get("text") or "a text without a name")).name,
        " × ".join(work),
    ]
    return f"On {', '.join(subject)}: {listed(found)}."


def _best_sentences(group: ViewGroup) -> list[str]:
    """Which machine is the best of a group in each view, and how far from the baseline; none where there is nothing to choose."""
    if len(group.members) < 2:
        return []
    parts = []
    for view in (*comparison_views(group), energy_ratios(group)):
        if not view.speedups or view.name == PAPERS:  # whose ratios are those of equal peak MACs
            continue
        best, ratio = max(view.speedups.items(), key=lambda item: item[1].nominal)
        what = "least energy" if view.name == ENERGY else "fastest as simulated" if view.name == RAW else f"at {view.name}"
        less = " less than" if view.name == ENERGY else ""
        parts.append(f"{what} {best}, {bar_words(ratio)}×{less} {view.baseline}")
    return [f"{group.name}: {'; '.join(parts)}."]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def _machine_sentence(one: Simulated, comparison: Comparison) -> str:
    totals = machine_totals(one.record)
    busiest = totals.busiest_unit
    per_token = f", {milliseconds(one.record.milliseconds(one.record.median_token_cycles))} a token (median)" if one.phase == DECODE else ""
    return (
        f"{one.label} ({one.record.view}, {one.method}): {sampled_time(one)}{per_token} simulated at "
        f"{significant(one.record.machine.clock_mhz)} MHz, density {significant(totals.density)}{_perplexity(one, comparison)}, "
        f"{spaced(busiest.name)} busy {percent(busiest.share)}, bound by {totals.bound_by}{_costs(one)}."
    )


def _perplexity(one: Simulated, comparison: Comparison) -> str:
    quality = quality_of(one, comparison)
    return f", perplexity {quality.words}" if quality else ""


def _costs(one: Simulated) -> str:
    """`; estimated 2.04 (1.72 to 2.61) mm² ...`, and what of it predicts; empty where nothing is estimated."""
    area, energy, prediction = area_of(one), energy_of(one), prediction_cost(one)
    parts = [f"{bar_words(area.total)} mm²"] if area else []
    if energy:
        parts += [f"{bar_words(energy.power)} mW", f"{bar_words(energy.energy, 1e-6)} µJ with DRAM"]
    if not parts:
        return ""
    share = f", {percent(prediction.energy_share)} of the energy on chip for prediction" if prediction and prediction.energy_share else ""
    return f"; estimated ({PERCENTILES}) {listed(parts)}{share}"


def _kernel_sentence(bench: Bench, series: Series) -> str:
    total, name = series.total, series.name
    if series.operation == SPARSE and bench.mask_of(series):
        total, name = bench.with_mask(series), f"{name} with the making of its mask"
    elif series.operation == SPARSE:
        name = f"{name} with its mask given"
    device = "CPU" if bench.device == "cpu" else "GPU"
    return f"{device} {name}, {series.means}: {_time(total)} {bench.title}."


def _time(total: TotalTime) -> str:
    quartiles = f"{significant(total.first_quartile_ms)} to {significant(total.third_quartile_ms)}"
    return f"{milliseconds(total.median_ms)} (quartiles {quartiles}, n = {total.n})"


def _ratio_sentences(comparison: Comparison, bench: Bench) -> list[str]:
    """The fastest simulated machine of each view against the fastest measured attention, dense or sparse."""
    times = [(series.total.median_ms, series.name) for series in (bench.dense,) if series]
    times += [
        (bench.with_mask(series).median_ms, f"{series.name} with its mask")
        for series in (bench.sparse,)
        if series and bench.mask_of(series)
    ]
    if not times:
        return []
    fastest_ms, name = min(times)
    lines = []
    for group in view_groups(comparison):
        one = min(group.members, key=lambda member: machine_totals(member.record).time_ms)
        time_ms = machine_totals(one.record).time_ms
        lines.append(
            f"{one.label} ({one.record.view}, simulated: {milliseconds(time_ms)}) is {factor(fastest_ms / time_ms)} as fast as the fastest "
            f"attention {bench.title} ({name}: {milliseconds(fastest_ms)}): raw milliseconds of different technologies."
        )
    return lines
