"""Our own values of quantities that papers publish: simulated, or measured, where the files hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from xmsim.configs.costs import Costs
from xmsim.reports.bench import benches
from xmsim.reports.collection import Collection
from xmsim.reports.comparison_views import MULTIPLIERS
from xmsim.reports.estimates import area_of, certain, energy_beside, energy_of, energy_terms, uncertain
from xmsim.reports.load import NATIVE_VIEW, Simulated
from xmsim.reports.measured_work import DECODE, GENERATION, LINEAR, ON_GPU, TPOT, MeasuredKernel, Speedup, threads_of
from xmsim.reports.phases import EXECUTE, PREDICT, unit_phase
from xmsim.reports.published import CLAIMS, Claim
from xmsim.reports.totals import machine_totals

SIMULATED, MEASURED = "simulated", "measured"
FULL_BITS = 16  # execution is taken at so many bits for every machine
HALF = (0.45, 0.55)  # sparsities that count as one half


@dataclass(frozen=True, slots=True)
class OwnValue:
    """A speedup of ours; low and high are an estimate's 5th and 95th percentile, quartiles, or the span of several layers."""

    kind: str  # SIMULATED or MEASURED
    name: str  # under which conditions
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A claim and what we have of the same quantity."""

    claim: Claim
    ours: tuple[OwnValue, ...]


def compared_claims(collection: Collection) -> tuple[Compared, ...]:
    """Every claim, with our values where there are some."""
    return tuple(Compared(claim, tuple(FINDERS[claim.ours](collection)) if claim.ours else ()) for claim in CLAIMS)


def multiplier_equivalents(one: Simulated) -> float | None:
    """Multipliers of 16 × 16 bits: those that execute count as one, those of b bits that predict as b² / 256; None: not estimated."""
    quantity = area_of(one)
    if quantity is None:
        return None
    whole = 0.0
    for term in quantity.terms:
        phase = unit_phase(term.unit)
        if term.part.startswith(MULTIPLIERS) and phase in (PREDICT, EXECUTE):  # those that add up outputs do not count
            bits = int(term.part.split()[-1].removesuffix("-bit")) if phase == PREDICT else FULL_BITS
            whole += term.count * bits**2 / FULL_BITS**2
    return whole or None


def _speed(fast: str, slow: str) -> Callable[[Collection], Sequence[OwnValue]]:
    def find(collection: Collection) -> list[OwnValue]:
        pair = _machines(collection, fast, slow)
        if pair is None:
            return []
        one, other = pair
        times = machine_totals(other.record).time_ms / machine_totals(one.record).time_ms
        found = [_exact("as simulated", times)]
        own, others = multiplier_equivalents(one), multiplier_equivalents(other)
        if own and others:
            clocks = other.record.machine.clock_mhz / one.record.machine.clock_mhz
            found.append(_exact("multipliers equal", times * others / own))
            found.append(_exact("multipliers and clock equal", times * others / own * clocks))
        return found

    return find


def _energy(fast: str, slow: str) -> Callable[[Collection], Sequence[OwnValue]]:
    def find(collection: Collection) -> list[OwnValue]:
        pair = _machines(collection, fast, slow)
        own, others = (energy_of(pair[0]), energy_of(pair[1])) if pair else (None, None)
        if pair is None or own is None or others is None:
            return []
        nodes = f", at {own.node_nm:g} and {others.node_nm:g} nm" if own.node_nm != others.node_nm else ""
        found = _energy_ratios(own, others, nodes)
        beside, besides = energy_beside(pair[0]), energy_beside(pair[1])
        if nodes and beside and besides and beside.node_nm == besides.node_nm:
            found += _energy_ratios(beside, besides, f", both at {beside.node_nm:g} nm")
        return found

    return find


def _energy_ratios(own: Costs, others: Costs, nodes: str) -> list[OwnValue]:
    chip = uncertain(others.on_chip_energy.terms).over(uncertain(own.on_chip_energy.terms)).bar
    whole = uncertain(energy_terms(others)).over(uncertain(energy_terms(own))).bar
    return [
        OwnValue(SIMULATED, f"{what}{nodes}", bar.nominal, bar.low, bar.high)
        for what, bar in (("chip alone", chip), ("chip and DRAM", whole))
    ]


def _over_gpu(collection: Collection) -> list[OwnValue]:
    """Of the fastest DynaX over the fastest dense attention of each GPU."""
    if collection.main is None:
        return []
    times = [machine_totals(one.record).time_ms for one in collection.main.simulated if one.record.machine.model == "dynax"]
    found = []
    for bench in benches(collection.main):
        if times and bench.device != "cpu" and bench.dense:
            total = bench.dense.total
            spread = (total.median_ms, total.first_quartile_ms, total.third_quartile_ms)
            found.append(OwnValue(MEASURED, f"simulated over {bench.host.gpu} measured", *(time / min(times) for time in spread)))
    return found


def _output_token(collection: Collection) -> list[OwnValue]:
    """Bitmap weights in bfloat16, half of them zero, over torch and over our own dense layers."""
    found = []
    for row in collection.kernels:
        half = row.sparsity is not None and HALF[0] <= row.sparsity <= HALF[1]
        if row.work.kind == GENERATION and row.work.what.startswith(TPOT) and row.kernel.startswith("bitmap,") and half:
            name = f"{row.work.what.removeprefix(f'{TPOT} of ')} on {row.work.host}, {row.work.conditions.split(', ')[2]}"
            found += _both(name, row)
    return [*found, *_linear_half(collection)]


def _linear_half(collection: Collection) -> list[OwnValue]:
    """Linear layers of one token, over layers: the median, from the smallest to the largest; with the most threads measured."""
    rows = [
        row
        for row in collection.kernels
        if row.work.kind == LINEAR
        and row.shape
        and row.shape[2] == 1
        and row.kernel in ("bitmap", "sparse bfloat16 s=0.5")
        and row.sparsity is not None
        and HALF[0] <= row.sparsity <= HALF[1]
    ]
    found: list[OwnValue] = []
    most: dict[tuple[str, str], str] = {}  # by file and host
    for row in sorted(rows, key=lambda row: threads_of(row.work)):
        most[row.work.file, row.work.host] = row.work.conditions
    for place in ((*place, conditions) for place, conditions in most.items()):
        here = [row for row in rows if (row.work.file, row.work.host, row.work.conditions) == place]
        for base, ratios in (("torch", [row.over_torch for row in here]), ("our dense", [row.over_dense for row in here])):
            found += _span(f"linear layers on {place[1]}, {place[2]}, over {base}", ratios)
    return found


def _pruned_cache(collection: Collection) -> list[OwnValue]:
    found = []
    for row in collection.kernels:
        if row.work.kind == DECODE and row.kernel.startswith("pruned"):
            found += _both(f"{row.kernel} on {row.work.host}, {row.work.title}", row)
    return found


def _gpu_linear(kernel: str, base: str = "") -> Callable[[Collection], Sequence[OwnValue]]:
    """A kernel on layers of one token, half of the weights zero, over torch or another kernel of the same layers: over the layers."""

    def find(collection: Collection) -> list[OwnValue]:
        ratios: dict[str, list[Speedup | None]] = {}
        rows = [row for row in collection.kernels if row.work.kind == LINEAR and row.work.conditions.endswith(ON_GPU)]
        rows = [row for row in rows if row.shape and row.shape[2] == 1 and row.sparsity is not None and HALF[0] <= row.sparsity <= HALF[1]]
        for row in rows:
            if row.kernel != kernel:
                continue
            others = [other for other in rows if other.work == row.work and other.kernel == base]
            over = (
                row.over_torch if not base else Speedup(others[0].timing.median_ms / row.timing.median_ms, None, None) if others else None
            )
            ratios.setdefault(row.work.host, []).append(over)
        return [value for host, own in ratios.items() for value in _span(f"on {host}, one token", own)]

    return find


FINDERS: dict[str, Callable[[Collection], Sequence[OwnValue]]] = {
    "dynax_s over sanger, speed": _speed("dynax_s", "sanger"),
    "dynax_s over sanger, energy": _energy("dynax_s", "sanger"),
    "dynax_s over salo_v2, speed": _speed("dynax_s", "salo_v2"),
    "dynax_s over salo_v2, energy": _energy("dynax_s", "salo_v2"),
    "salo_v2 over sanger, speed": _speed("salo_v2", "sanger"),
    "dynax over a measured gpu, speed": _over_gpu,
    "sparse weights, time per output token": _output_token,
    "pruned kv cache, speed": _pruned_cache,
    "tca-bme over torch on a gpu": _gpu_linear("tca-bme"),
    "teal over torch on a gpu": _gpu_linear("teal"),
    "spdp over tca-bme on a gpu": _gpu_linear("spdp", "tca-bme"),
}


def _machines(collection: Collection, first: str, second: str) -> tuple[Simulated, Simulated] | None:
    """Two machines of the main part, each with its own method."""
    found = {
        one.record.machine.name: one for one in (collection.main.simulated if collection.main else ()) if one.record.view == NATIVE_VIEW
    }
    return (found[first], found[second]) if first in found and second in found else None


def _exact(name: str, value: float) -> OwnValue:
    bar = certain(value).bar
    return OwnValue(SIMULATED, name, bar.nominal, bar.low, bar.high)


def _both(name: str, row: MeasuredKernel) -> list[OwnValue]:
    """Over torch, and over our own dense kernel; whiskers are quartiles."""
    return [
        OwnValue(MEASURED, f"{name}, over {base}", ratio.median, ratio.first_quartile or ratio.median, ratio.third_quartile or ratio.median)
        for base, ratio in (("torch", row.over_torch), ("our dense", row.over_dense))
        if ratio
    ]


def _span(name: str, ratios: Sequence[Speedup | None]) -> list[OwnValue]:
    medians = [ratio.median for ratio in ratios if ratio]
    layers = f", {len(medians)} layers" if len(medians) > 1 else ""
    return [OwnValue(MEASURED, f"{name}{layers}", median(medians), min(medians), max(medians))] if medians else []
