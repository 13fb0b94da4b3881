"""What the files say, in sentences: each with its numbers, their units and where they come from."""

from __future__ import annotations

from pathlib import PurePath

from xmsim.reports.bench import DENSE, SPARSE, Bench, Series, TotalTime, benches
from xmsim.reports.comparison_views import ENERGY, PAPERS, RAW, comparison_views, energy_ratios
from xmsim.reports.estimates import PERCENTILES, area_of, bar_words, energy_of
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.prediction_cost import prediction_cost
from xmsim.reports.quality import quality_of
from xmsim.reports.rank_stability import rank_sentences
from xmsim.reports.totals import machine_totals, sampled_time
from xmsim.reports.views import ViewGroup, view_groups
from xmsim.reports.words import counted, factor, listed, milliseconds, percent, significant, spaced
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
