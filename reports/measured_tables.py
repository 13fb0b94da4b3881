"""Tables of measured work besides the trace's attention, and of what papers claim."""

from __future__ import annotations

from collections.abc import Sequence

from xmsim.reports.collection import Collection
from xmsim.reports.linear_layers import linear_pairs
from xmsim.reports.measured_work import GENERATION, MeasuredKernel, Speedup
from xmsim.reports.own_values import MEASURED, Compared, OwnValue, compared_claims
from xmsim.reports.table import Cell, Number, Table
from xmsim.reports.words import counted, factor, listed, significant

NOTHING = "–"
GPU_KERNELS = "the record of benchmarks/gpu.py"
GPU_ATTENTION = "xmsim measure TRACE --device cuda"


def kernel_tables(collection: Collection) -> tuple[Table, ...]:
    """One table a kind of work."""
    kinds = dict.fromkeys(row.work.kind for row in collection.kernels)
    return tuple(_kernel_table(kind, [row for row in collection.kernels if row.work.kind == kind]) for kind in kinds)


def _kernel_table(kind: str, rows: Sequence[MeasuredKernel]) -> Table:
    columns = (
        "work",
        "kernel",
        "over torch",
        "over our dense",
        "median, ms",
        "quartiles, ms",
        "n",
        "kept",
        "conditions",
        "host",
        "file",
    )
    shown = list(columns) if any(row.density is not None for row in rows) else [name for name in columns if name != "kept"]
    cells = [dict(zip(columns, _kernel_row(row), strict=True)) for row in rows]
    title = f"Measured {kind}: speedup as median and quartiles of pairs"
    if kind == GENERATION:
        title += "; of first tokens, the ratio of medians"
    return Table("measured", title, shown, [[row[name] for name in shown] for row in cells])


def _kernel_row(row: MeasuredKernel) -> list[Cell]:
    timing = row.timing
    return [
        row.work.what,
        f"{row.kernel} (a part)" if row.is_part else row.kernel,
        _times(row.over_torch),
        _times(row.over_dense),
        Number(timing.median_ms, significant(timing.median_ms)),
        f"{significant(timing.first_quartile_ms)} to {significant(timing.third_quartile_ms)}",
        Number(timing.n, str(timing.n)),
        Number(row.density, significant(row.density)) if row.density is not None else NOTHING,
        row.work.conditions,
        row.work.host,
        row.work.file,
    ]


def _times(ratio: Speedup | None) -> Cell:
    return Number(ratio.median, speedup_words(ratio)) if ratio else NOTHING


def speedup_words(ratio: Speedup) -> str:
    """`1.42× (1.38 to 1.47)`."""
    if ratio.first_quartile is None or ratio.third_quartile is None:
        return factor(ratio.median)
    return f"{factor(ratio.median)} ({significant(ratio.first_quartile)} to {significant(ratio.third_quartile)})"


def linear_table(collection: Collection) -> Table | None:
    """Simulated projections beside measured linear layers of the same shapes; None where no shapes agree."""
    rows: list[list[Cell]] = [
        [
            pair.machine,
            pair.phase,
            " + ".join(f"{inner} → {outer}" for inner, outer, _ in pair.shapes),
            Number(pair.shapes[0][2], str(pair.shapes[0][2])),
            Number(pair.simulated_ms, significant(pair.simulated_ms)),
            f"{pair.kernel}{' (dense, as the machine)' if pair.dense else ''}",
            Number(pair.measured.median_ms, significant(pair.measured.median_ms)),
            f"{significant(pair.measured.first_quartile_ms)} to {significant(pair.measured.third_quartile_ms)}",
            Number(pair.measured.n, str(pair.measured.n)),
            Number(pair.ratio, factor(pair.ratio)),
            f"{pair.conditions}; {pair.host}",
        ]
        for pair in linear_pairs(collection.simulated, collection.kernels)
    ]
    columns = (
        "machine, simulated",
        "projections",
        "in → out",
        "tokens",
        "simulated, ms",
        "kernel, measured",
        "measured, ms",
        "quartiles, ms",
        "n",
        "measured / simulated",
        "measured under",
    )
    return (
        Table("plain", "Simulated projections beside measured linear layers of the same shapes, one layer", columns, rows) if rows else None
    )


def claims_table(collection: Collection) -> Table:
    """What papers claim, and ours beside it."""
    columns = ("claim", "of", "published", "ours", "conditions of the claim", "how ours differ", "source")
    rows: list[list[Cell]] = []
    for compared in compared_claims(collection):
        claim = compared.claim
        published = f"{'up to ' if claim.up_to else ''}{factor(claim.value)}"
        rows.append(
            [
                claim.subject,
                claim.quantity,
                Number(claim.value, published),
                _ours(compared, collection.measured_gpus),
                claim.conditions,
                claim.difference if compared.ours else NOTHING,
                claim.source,
            ]
        )
    return Table("plain", "Published speedups, and ours of the same quantity", columns, rows)


def _ours(compared: Compared, gpus: Sequence[str]) -> str:
    """Where the value of ours is, or why there is none."""
    claim = compared.claim
    if not compared.ours and claim.of_gpu:
        if gpus:
            return f"measured on {listed(gpus)}, but not this"
        return f"no GPU was measured; {GPU_ATTENTION if 'measured gpu' in claim.ours else GPU_KERNELS} would fill this in"
    if not compared.ours:
        return "not in these files" if claim.ours else "we have no such value"
    return f"{counted(len(compared.ours), 'value')} in the table below"


def own_values_table(collection: Collection) -> Table | None:
    """Our values of published quantities, one to a row; None where there is none."""
    rows: list[list[Cell]] = [
        [
            compared.claim.subject,
            compared.claim.quantity,
            Number(compared.claim.value, factor(compared.claim.value)),
            Number(own.value, own_words(own)),
            own.kind,
            own.name,
        ]
        for compared in compared_claims(collection)
        for own in compared.ours
    ]
    columns = ("claim", "of", "published", "ours", "simulated or measured", "ours under")
    return Table("plain", "Our values of the published quantities", columns, rows) if rows else None


def own_words(own: OwnValue) -> str:
    """`1.53× (1.36 to 1.55)`."""
    if own.low == own.value == own.high:
        return factor(own.value)
    return f"{factor(own.value)} ({significant(own.low)} to {significant(own.high)})"


def claims_note() -> str:
    """How the columns of the table are to be read."""
    return (
        "Ours in brackets: of estimates 5 to 95 %, of one kernel the quartiles, of several layers the smallest and the largest. "
        f"A value that is {MEASURED} was measured on the host it names; the rest are simulated. A claim is shown as its paper states it: "
        "we neither scale it nor count it among our results."
    )
