"""How sure the order of two machines is: the probability that one beats the other, given the error bars of the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xmsim.configs.costs import Term
from xmsim.reports.estimates import area_beside, energy_beside, energy_terms
from xmsim.reports.load import Simulated
from xmsim.reports.totals import machine_totals
from xmsim.reports.views import ViewGroup
from xmsim.reports.words import listed, percent
from xmsim.sim.propagation import samples

SAFE = 0.95  # a machine that wins at least so often, wins


@dataclass(frozen=True, slots=True)
class Ranking:
    """By one criterion: p[i, j], the probability that machine i is better than machine j."""

    group: str
    criterion: str
    machines: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]

    def unsafe(self) -> tuple[tuple[str, str, float], ...]:
        """Pairs whose order is not sure: (more probable winner, loser, probability)."""
        pairs = []
        for i, j in combinations(range(len(self.machines)), 2):
            chance = self.probabilities[i][j]
            if 1 - SAFE < chance < SAFE:
                winner, loser = (i, j) if chance >= 0.5 else (j, i)
                pairs.append((self.machines[winner], self.machines[loser], max(chance, 1 - chance)))
        return tuple(pairs)


def rankings(group: ViewGroup) -> tuple[Ranking, ...]:
    """By energy, and by speed at equal area and equal power; those for which two machines are estimated."""
    found = (
        _ranking(
            group, "energy of chip and DRAM", lambda one: energy_terms(costs) if (costs := energy_beside(one)) else None, weighted=False
        ),
        _ranking(group, "speed at equal area", lambda one: area.terms if (area := area_beside(one)) else None, weighted=True),
        _ranking(
            group,
            "speed at equal power",  # time × power is energy
            lambda one: costs.on_chip_energy.terms if (costs := energy_beside(one)) else None,
            weighted=False,
        ),
    )
    return tuple(ranking for ranking in found if len(ranking.machines) > 1)


def rank_sentences(group: ViewGroup) -> tuple[str, ...]:
    """Which orders are not safe; or that all are. None where there is no pair."""
    found = rankings(group)
    if not found:
        return ()
    lines = []
    for ranking in found:
        pairs = [f"{winner} over {loser} ({percent(chance)} of draws)" for winner, loser, chance in ranking.unsafe()]
        if pairs:
            lines.append(f"{group.name}: not safe by {ranking.criterion}: {listed(pairs)}; the error bars allow the other order.")
    sure = [ranking.criterion for ranking in found if not ranking.unsafe()]
    if sure:
        lines.append(
            f"{group.name}: every ranking by {listed(sure)} holds in {percent(SAFE)} of draws from the error bars, or more; "
            "they trust the inventories."
        )
    return tuple(lines)


def _ranking(group: ViewGroup, criterion: str, terms_of: Callable[[Simulated], tuple[Term, ...] | None], *, weighted: bool) -> Ranking:
    """Less of the sum of terms is better, times the time where `weighted`."""
    drawn = {}
    for one in group.members:
        if terms := terms_of(one):
            drawn[one.label] = samples(terms) * (machine_totals(one.record).time_ms if weighted else 1.0)
    rows = tuple(tuple(_chance_less(own, other) for other in drawn.values()) for own in drawn.values())
    return Ranking(group.title, criterion, tuple(drawn), rows)


def _chance_less(own: np.ndarray, other: np.ndarray) -> float:
    """A tie is worth one half: equal machines are in no order."""
    return float(np.mean(own < other) + 0.5 * np.mean(own == other))
