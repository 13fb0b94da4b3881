"""What a split of sparsity between weights and activations costs: perplexity against total sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure as Canvas

from xmsim.reports.figures.figure import Figure
from xmsim.reports.figures.style import INK, MEASURED, SOFT_INK, canvas, heading, logarithmic
from xmsim.reports.words import significant
from xmsim.workloads.evaluation import SparsitySplit

STATIC, DYNAMIC, BEST = "all in the weights (s2 = 0)", "all in the activations (s1 = 0)", "best split"


def perplexity_split(splits: Sequence[SparsitySplit], subject: str) -> Figure:
    """All pairs of a sweep, with lines through those that use one kind of sparsity alone and through the best of each total."""
    rows = tuple(splits)
    return Figure(
        name="perplexity_split",
        title="Perplexity against total sparsity",
        claim=split_claim(rows),
        rows=rows,
        draw=partial(_draw, rows, subject),
        notes=("Total sparsity: share of the products of the linear layers that is left out, 1 − (1 − static)(1 − dynamic), as reached.",),
    )


def split_claim(rows: Sequence[SparsitySplit]) -> str:
    """At which totals the best split beats both pure ways at the total that it reached itself."""
    better: list[float] = []
    worse: list[float] = []
    static, dynamic = _static(rows), _dynamic(rows)
    for total, group in _by_total(rows).items():
        mixed = [row for row in group if row.s1 and row.s2]
        if mixed and len(static) > 1 and len(dynamic) > 1:
            best = min(mixed, key=lambda row: row.Uniform_PPL)
            pure = min(_perplexity_at(best.total_sparsity, line) for line in (static, dynamic))
            (better if best.Uniform_PPL < pure else worse).append(total)
    if not better + worse:
        return "There is nothing to compare: splits, weights alone and activations alone are needed."
    if not better:
        return f"At none of the totals {_shares(worse)} a split beats both weights alone and activations alone."
    rest = f"; at {_shares(worse)} none does" if worse else ""
    return f"At total sparsity {_shares(better)} some split of it beats weights alone and activations alone{rest}."


def _static(rows: Sequence[SparsitySplit]) -> list[SparsitySplit]:
    return sorted((row for row in rows if not row.s2), key=lambda row: row.total_sparsity)


def _dynamic(rows: Sequence[SparsitySplit]) -> list[SparsitySplit]:
    return sorted((row for row in rows if not row.s1), key=lambda row: row.total_sparsity)


def _perplexity_at(total: float, line: Sequence[SparsitySplit]) -> float:
    """Between the two points of a line around a total, in proportion on its logarithm; beyond its end the last, which is too good."""
    totals, losses = [row.total_sparsity for row in line], [math.log(row.Uniform_PPL) for row in line]
    return math.exp(float(np.interp(total, totals, losses)))


def _shares(totals: Sequence[float]) -> str:
    return ", ".join(f"{total:g}" for total in totals)


def _by_total(rows: Sequence[SparsitySplit]) -> dict[float, list[SparsitySplit]]:
    """Rows by the total that was asked for, without the dense model; what is reached differs a little from split to split."""
    groups: dict[float, list[SparsitySplit]] = {}
    for row in rows:
        groups.setdefault(round(1 - (1 - row.s1) * (1 - row.s2), 3), []).append(row)
    groups.pop(0.0, None)
    return dict(sorted(groups.items()))


def _draw(rows: tuple[SparsitySplit, ...], subject: str) -> Canvas:
    figure = canvas(4.4)
    heading(figure, f"Measured · {subject}", INK)
    axes = figure.subplots()
    groups = _by_total(rows)
    lines = {
        STATIC: ("s", MEASURED[2], _static(rows)),
        DYNAMIC: ("^", MEASURED[1], _dynamic(rows)),
        BEST: ("o", MEASURED[0], [min(group, key=lambda row: row.Uniform_PPL) for group in groups.values()]),
    }
    mixed = [row for row in rows if row.s1 and row.s2]
    axes.plot(
        [row.total_sparsity for row in mixed],
        [row.Uniform_PPL for row in mixed],
        linestyle="none",
        marker=".",
        color=SOFT_INK,
        markersize=4,
        label="other splits",
    )
    for name, (marker, colour, line) in lines.items():
        axes.plot(
            [row.total_sparsity for row in line],
            [row.Uniform_PPL for row in line],
            marker=marker,
            color=colour,
            markersize=5.5,
            linewidth=1.4,
            label=name,
        )
    for row in lines[BEST][2]:
        axes.annotate(
            f"{row.s1:.2g} | {row.s2:.2g}",
            (row.total_sparsity, row.Uniform_PPL),
            xytext=(2, -7),
            textcoords="offset points",
            fontsize=7.5,
            va="top",
            color=MEASURED[0],
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        )
    dense = [row.Uniform_PPL for row in rows if not row.s1 and not row.s2]
    for perplexity in dense:
        axes.axhline(perplexity, color=INK, linewidth=1, linestyle=(0, (4, 2)), label=f"dense {significant(perplexity, 4)}")
    logarithmic(axes.yaxis, steps=(1, 1.5, 2, 3, 4, 5, 6, 8))
    axes.margins(y=0.12)
    axes.set_xlabel("total sparsity; at the best split: s1 (weights) | s2 (activations)")
    axes.set_ylabel("perplexity a token (logarithmic)")
    axes.legend(loc="upper left")
    return figure
