"""What one machine needed for all layers and windows, and which of its units set the pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xmsim.reports.load import Simulated
from xmsim.reports.words import milliseconds, percent, significant, spaced
from xmsim.sim.result import Densities, LayerRun, MachineFacts, SimResult, SimulationRecord

DRAM = "DRAM"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A unit, or the DRAM channel, and the share of the time in which it works."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class MachineTotals:
    """Sums over all runs of a record; the machine does them one after the other. Estimates where heads were sampled."""

    cycles: int
    time_ms: float
    half_width_ms: float  # of the 95 % confidence interval; 0: every head was simulated
    density: float
    dram_bytes: int
    roofline_cycles: int
    busiest_unit: Occupancy
    bottleneck: Occupancy  # of the units and the DRAM channel, the one that works most

    @property
    def bound_by(self) -> str:
        """What a designer would have to make faster first.

        With nothing at work for more than half of the time, waiting (latency and dependencies) sets the pace.
        """
        if self.bottleneck.share > 0.5:
            return spaced(self.bottleneck.name)
        return f"waiting: nothing works more than {percent(self.bottleneck.share)} of the time"


def machine_totals(record: SimulationRecord) -> MachineTotals:
    results = [run.result for run in record.runs]
    units = _unit_occupancies(results)
    traffic = sum(run.expansion * dram_bytes(run.result) for run in record.runs)
    channel = Occupancy(DRAM, traffic / (record.machine.dram_bytes_per_cycle * record.cycles))
    busiest = max(units, key=_share)
    return MachineTotals(
        cycles=record.cycles,
        time_ms=record.milliseconds(record.cycles),
        half_width_ms=record.milliseconds(record.estimate.half_width),
        density=mean_density(record.runs, lambda densities: densities.density),
        dram_bytes=round(traffic),
        roofline_cycles=round(sum(run.expansion * run.result.roofline_cycles for run in record.runs)),
        busiest_unit=busiest,
        bottleneck=max(busiest, channel, key=_share),
    )


def sample_notes(sources: Iterable[Simulated]) -> tuple[str, ...]:
    """A sentence for each result whose heads were sampled."""
    return tuple(
        f"{one.label} ({one.record.view}): estimated from a sample of heads, {sampled_time(one)}." for one in sources if one.record.sampling
    )


def sampled_time(one: Simulated) -> str:
    """`1.22 ms ± 0.04 (95 %; 2 of 8 KV heads of each layer simulated)`, or the time alone where all heads were."""
    totals, sampling = machine_totals(one.record), one.record.sampling
    if sampling is None:
        return milliseconds(totals.time_ms)
    of_heads = max(run.kv_heads for run in one.record.runs)
    spread = (
        f"± {significant(totals.half_width_ms)} (95 %; {min(sampling.kv_heads, of_heads)} of {of_heads} KV heads of each layer simulated)"
    )
    return f"{milliseconds(totals.time_ms)} {spread}"


def mean_density(runs: Iterable[LayerRun], pick: Callable[[Densities], float]) -> float:
    """A density over several runs, each weighted by queries × keys.

    That equals kept / allowed over all of them wherever the runs allow the same share of their pairs, as causal windows of
    one length do.
    """
    weighted = [(run.query_tokens * run.key_tokens, pick(run.result.densities)) for run in runs]
    return sum(pairs * density for pairs, density in weighted) / sum(pairs for pairs, _ in weighted)


def dram_bytes(result: SimResult) -> int:
    """Bytes read and written on the DRAM channels."""
    return sum(sum(directions.values()) for channel, directions in result.traffic.items() if channel.lower().startswith("dram"))


def peak_gmacs(machine: MachineFacts) -> float:
    """Peak rate in 10^9 full-precision multiply-accumulates a second."""
    return machine.peak_macs_per_cycle * machine.clock_mhz / 1e3


def dram_gigabytes(machine: MachineFacts) -> float:
    """DRAM bandwidth in 10^9 bytes a second."""
    return machine.dram_bytes_per_cycle * machine.clock_mhz / 1e3


def _unit_occupancies(results: list[SimResult]) -> list[Occupancy]:
    return [
        Occupancy(
            stage,
            sum(result.busy[stage] for result in results) / sum(result.servers[stage] * result.cycles for result in results),
        )
        for stage in results[0].servers
    ]


def _share(occupancy: Occupancy) -> float:
    return occupancy.share
