"""What pruned weights buy in decoding: time of a decoded token against sparsity, one line for each kind of linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure as Canvas

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MARKERS, MEASURED, canvas, heading
from xmsim.reports.words import factor, percent, significant

TORCH = "torch"
LINES = ("-", "--", ":", "-.")  # by attention; kinds of layers differ in colour and mark


@dataclass(frozen=True, slots=True)
class TokenTiming:
    """Decoded tokens of one measurement, on one kind of linear layer."""

    layers: str  # torch, bitmap, ...
    attention: str
    sparsity: float
    TPOT_ms: float  # median
    TPOT_first_quartile_ms: float
    TPOT_third_quartile_ms: float
    n: int


def tpot_sparsity(timings: Sequence[TokenTiming], subject: str) -> Figure:
    """Every timed kind of layer at every sparsity."""
    rows = tuple(sorted(timings, key=lambda row: (row.attention, row.layers, row.sparsity)))
    return Figure(
        name="tpot_sparsity",
        title="Time of a decoded token against sparsity",
        claim=_claim(rows),
        rows=rows,
        draw=partial(_draw, rows, subject),
        notes=("Median time of a decoded token; bars: quartiles.",),
    )


def _claim(rows: Sequence[TokenTiming]) -> str:
    """The largest gain over torch's layers at the same sparsity and attention."""
    torch = {(row.attention, row.sparsity): row.TPOT_ms for row in rows if row.layers == TORCH}
    gains = [(torch[key] / row.TPOT_ms, row) for row in rows if row.layers != TORCH and (key := (row.attention, row.sparsity)) in torch]
    if not gains:
        fastest = min(rows, key=lambda row: row.TPOT_ms)
        return f"The fastest decodes a token in {significant(fastest.TPOT_ms)} ms, on {fastest.layers} at {percent(fastest.sparsity)}."
    gain, best = max(gains, key=lambda pair: pair[0])
    if gain <= 1:
        return "No kind of layer decodes faster than torch's dense ones at any sparsity measured."
    at = f"{best.layers} at {percent(best.sparsity)} sparsity, {significant(best.TPOT_ms)} ms a token"
    return f"The largest gain over torch's dense layers is {factor(gain)}: {at}."


def _draw(rows: tuple[TokenTiming, ...], subject: str) -> Canvas:
    figure = canvas(4.4)
    heading(figure, f"Measured · {subject}", INK)
    axes = figure.subplots()
    attentions = list(dict.fromkeys(row.attention for row in rows))
    lines = dict.fromkeys((row.layers, row.attention) for row in rows)
    kinds = list(dict.fromkeys(layers for layers, _ in lines))
    for layers, attention in lines:
        own = [row for row in rows if (row.layers, row.attention) == (layers, attention)]
        place = kinds.index(layers)
        axes.errorbar(
            [row.sparsity for row in own],
            [row.TPOT_ms for row in own],
            yerr=[
                [row.TPOT_ms - row.TPOT_first_quartile_ms for row in own],
                [row.TPOT_third_quartile_ms - row.TPOT_ms for row in own],
            ],
            marker=MARKERS[place % len(MARKERS)],
            color=INK if layers == TORCH else MEASURED[place % len(MEASURED)],
            linestyle=LINES[attentions.index(attention) % len(LINES)],
            markersize=5.5,
            elinewidth=0.8,
            label=f"{layers}, {attention}" if len(attentions) > 1 else layers,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the weights that is zero")
    axes.set_ylabel("time of a decoded token, ms (bars: quartiles)")
    axes.legend(loc="best", handlelength=3.2)
    return figure
