"""What the files say, in sentences: each with its numbers, their units and where they come from."""

from __future__ import annotations

from pathlib import PurePath

from xmsim.reports.bench import DENSE, SPARSE, Bench, Series, TotalTime, benches
from xmsim.reports.load import Comparison, Simulated
from xmsim.reports.totals import machine_totals, sampled_time
from xmsim.reports.views import view_groups
from xmsim.reports.words import counted, factor, listed, milliseconds, percent, significant, spaced
from xmsim.sim.result import DECODE


def summary(comparison: Comparison) -> tuple[str, ...]:
    """The work, every machine, every kernel, and the ratio between the two kinds."""
    lines = [work_sentence(comparison)]
    lines += [_machine_sentence(one) for one in comparison.simulated]
    for bench in benches(comparison):
        lines += [_kernel_sentence(bench, series) for series in bench.series if series.operation in (DENSE, SPARSE)]
        lines += _ratio_sentences(comparison, bench)
    return tuple(lines)


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


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def _machine_sentence(one: Simulated) -> str:
    totals = machine_totals(one.record)
    busiest = totals.busiest_unit
    per_token = f", {milliseconds(one.record.milliseconds(one.record.median_token_cycles))} a token (median)" if one.phase == DECODE else ""
    return (
        f"{one.label} ({one.record.view}, {one.method}): {sampled_time(one)}{per_token} simulated at "
        f"{significant(one.record.machine.clock_mhz)} MHz, density {significant(totals.density)}, "
        f"{spaced(busiest.name)} busy {percent(busiest.share)}, bound by {totals.bound_by}."
    )


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
    times = [series.total.median_ms for series in (bench.dense,) if series]
    times += [bench.with_mask(series).median_ms for series in (bench.sparse,) if series and bench.mask_of(series)]
    if not times:
        return []
    lines = []
    for group in view_groups(comparison):
        one = min(group.members, key=lambda member: machine_totals(member.record).time_ms)
        ratio = min(times) / machine_totals(one.record).time_ms
        lines.append(
            f"{one.label} ({one.record.view}, simulated) is {factor(ratio)} as fast as the fastest attention {bench.title}: "
            f"raw milliseconds of different technologies."
        )
    return lines
