"""How far each layer is from its lower bound, and what sets that bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from xmsim.reports.load import Simulated
from xmsim.reports.totals import DRAM, mean_density
from xmsim.reports.words import factor, percent, spaced
from xmsim.sim.result import LayerRun, SimResult


@dataclass(frozen=True, slots=True)
class LayerBound:
    """One layer of one machine, all its windows and tokens; estimates where heads were sampled."""

    layer: int
    cycles: int
    roofline_cycles: int  # no schedule of the same jobs is shorter
    resource: str  # the stage or channel that is busy for so long
    density: float
    losses: tuple[tuple[str, float], ...]  # what that stage did instead of work, largest first, as shares of all cycles

    @property
    def left(self) -> float:
        """The most that any better order of the same jobs could gain."""
        return self.cycles / self.roofline_cycles

    @property
    def words(self) -> str:
        """`at most 1.21× left, bound by kv load`."""
        return f"at most {factor(self.left)} left, bound by {spaced(self.resource)}"

    @property
    def loss_words(self) -> str:
        """What keeps it from the bound; empty for a channel, which has no account of its waiting."""
        return ", ".join(f"{cause} {percent(share)}" for cause, share in self.losses if share >= 0.005)


def layer_bounds(one: Simulated) -> tuple[LayerBound, ...]:
    """Every layer that is compared."""
    layers = dict.fromkeys(run.layer for run in one.record.runs)
    return tuple(_layer_bound(layer, [run for run in one.record.runs if run.layer == layer]) for layer in layers)


def _layer_bound(layer: int, runs: list[LayerRun]) -> LayerBound:
    weights: Counter[str] = Counter()
    for run in runs:
        weights[bounding_resource(run.result)] += run.result.roofline_cycles
    resource = weights.most_common(1)[0][0]
    return LayerBound(
        layer=layer,
        cycles=sum(run.cycles for run in runs),
        roofline_cycles=max(1, round(sum(run.expansion * run.result.roofline_cycles for run in runs))),
        resource=resource,
        density=mean_density(runs, lambda densities: densities.density),
        losses=_losses([run.result for run in runs], resource),
    )


def bounding_resource(result: SimResult) -> str:
    """The stage whose work alone is as long as the roofline; if none is, the DRAM channel."""
    stage = max(result.servers, key=lambda name: result.busy[name] / result.servers[name])
    return stage if -(-result.busy[stage] // result.servers[stage]) >= result.roofline_cycles else DRAM


def _losses(results: list[SimResult], stage: str) -> tuple[tuple[str, float], ...]:
    if stage not in results[0].servers:
        return ()
    lost: Counter[str] = Counter()
    for result in results:
        for cause, cycles in result.stalls[stage].items():
            lost[f"stalled: {spaced(cause)}"] += cycles
        for cause, cycles in result.idle[stage].items():
            lost[f"idle: {cause}"] += cycles
    whole = sum(result.servers[stage] * result.cycles for result in results)
    return tuple((cause, cycles / whole) for cause, cycles in lost.most_common() if cycles)
