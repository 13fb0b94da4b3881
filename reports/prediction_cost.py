"""What finding the mask costs a machine that predicts: cycles and energy of its own, which are inside the totals too."""

from __future__ import annotations

from dataclasses import dataclass

from xmsim.configs.costs import Bar
from xmsim.reports.estimates import energy_of, uncertain
from xmsim.reports.load import Simulated
from xmsim.reports.phases import PREDICT, stage_phase, unit_phase
from xmsim.sim.result import LayerRun


@dataclass(frozen=True, slots=True)
class PredictionCost:
    """Of all runs; estimates where heads were sampled."""

    cycles: int  # in which the busiest stage of prediction works; the rest of prediction works beside it
    cycles_share: float  # of all cycles; it overlaps with execution, so shares of stages do not add up to 1
    stages: tuple[str, ...]
    energy_uj: Bar | None  # of the units that predict, low-bit keys and mask included; None: not estimated
    energy_share: float | None  # of the energy on chip, nominal


def prediction_cost(one: Simulated) -> PredictionCost | None:
    """None: the machine has no stage that predicts."""
    stages = tuple(stage for stage in one.record.runs[0].result.servers if stage_phase(stage) == PREDICT)
    if not stages:
        return None
    cycles = round(sum(run.expansion * _busiest(run, stages) for run in one.record.runs))
    energy, share = None, None
    if costs := energy_of(one):
        terms = [term for term in costs.on_chip_energy.terms if unit_phase(term.unit) == PREDICT]
        own = uncertain(terms)
        energy, share = own.times(1e-6).bar, own.nominal / costs.on_chip_energy.total.nominal
    return PredictionCost(cycles, cycles / one.record.cycles, stages, energy, share)


def _busiest(run: LayerRun, stages: tuple[str, ...]) -> float:
    return max(run.result.busy[stage] / run.result.servers[stage] for stage in stages)
