"""What a split of sparsity between weights and activations buys: time of a decoded token against perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure as Canvas

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MEASURED, SOFT_INK, canvas, heading, logarithmic
from xmsim.reports.words import significant
from xmsim.workloads.evaluation import SplitTiming


def perplexity_tpot(timings: Sequence[SplitTiming], subject: str) -> Figure:
    """Every timed pair, and those that no other pair beats in both."""
    rows = tuple(timings)
    return Figure(
        name="perplexity_tpot",
        title="Time of a decoded token against perplexity",
        claim=_claim(rows),
        rows=rows,
        draw=partial(_draw, rows, subject),
        notes=("Median time of a decoded token; bars: quartiles. All pairs run on the portable spdp layers of this host's CPU.",),
    )


def _unbeaten(rows: Sequence[SplitTiming]) -> list[SplitTiming]:
    """Pairs than which none is both faster and better, by perplexity."""
    found: list[SplitTiming] = []
    for row in sorted(rows, key=lambda row: (row.Uniform_PPL, row.TPOT_ms)):
        if not found or row.TPOT_ms < found[-1].TPOT_ms:
            found.append(row)
    return found


def _claim(rows: Sequence[SplitTiming]) -> str:
    fastest = min(rows, key=lambda row: row.TPOT_ms)
    dense = next((row for row in rows if not row.s1 and not row.s2), fastest)
    torch = f"torch's dense layers take {significant(fastest.torch_TPOT_ms)} ms"
    if fastest is dense:
        return f"No split decodes faster than the dense model on the same layers, {significant(dense.TPOT_ms)} ms a token; {torch}."
    return (
        f"The fastest split, s1 {fastest.s1:.2g} and s2 {fastest.s2:.2g}, decodes a token in {significant(fastest.TPOT_ms)} ms "
        f"at perplexity {significant(fastest.Uniform_PPL, 4)}, the dense model on the same layers in {significant(dense.TPOT_ms)} ms at "
        f"{significant(dense.Uniform_PPL, 4)}; {torch}."
    )


def _draw(rows: tuple[SplitTiming, ...], subject: str) -> Canvas:
    figure = canvas(4.4)
    heading(figure, f"Measured · {subject}", INK)
    axes = figure.subplots()
    kinds = {
        "both": ("o", MEASURED[0], [row for row in rows if row.s1 and row.s2]),
        "weights alone (s2 = 0)": ("s", MEASURED[2], [row for row in rows if row.s1 and not row.s2]),
        "activations alone (s1 = 0)": ("^", MEASURED[1], [row for row in rows if row.s2 and not row.s1]),
        "dense": ("D", INK, [row for row in rows if not row.s1 and not row.s2]),
    }
    line = _unbeaten(rows)
    axes.plot([row.Uniform_PPL for row in line], [row.TPOT_ms for row in line], color=SOFT_INK, linewidth=1, label="unbeaten")
    for name, (marker, colour, group) in kinds.items():
        if group:
            axes.errorbar(
                [row.Uniform_PPL for row in group],
                [row.TPOT_ms for row in group],
                yerr=[
                    [row.TPOT_ms - row.TPOT_first_quartile_ms for row in group],
                    [row.TPOT_third_quartile_ms - row.TPOT_ms for row in group],
                ],
                linestyle="none",
                marker=marker,
                color=colour,
                markersize=5.5,
                elinewidth=0.8,
                label=name,
            )
    logarithmic(axes.xaxis, steps=(1, 1.5, 2, 3, 4, 5, 6, 8))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("perplexity a token (logarithmic)")
    axes.set_ylabel("time of a decoded token, ms (bars: quartiles)")
    axes.legend(loc="best")
    return figure
