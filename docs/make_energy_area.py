"""Predicted against published area and power, into docs/energy_area.md: python docs/make_energy_area.py

Everything below the marker line of the page is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import fmean

import numpy as np

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.accelerator import Accelerator
from xmsim.configs.costs import Bar, Costs, Factor, Term
from xmsim.configs.files import write_text
from xmsim.configs.technology_tables import TechnologyConfig, technology_tables
from xmsim.sim.costs import Actions, NominalCosts, estimate_costs, nominal_costs
from xmsim.sim.dram_energy import DramWork
from xmsim.sim.inventory import ComponentCounts, Memory, Part
from xmsim.sim.propagation import probability_less, quantity
from xmsim.sim.result import SimResult
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.synthetic import sink_local_operands

PAGE = Path(__file__).parent / "energy_area.md"
RTL_AREAS = Path(__file__).parents[1] / "reports" / "measured" / "rtl_areas_osu018.json"
MARKER = "<!-- made by docs/make_energy_area.py -->\n"
HEADS, TOKENS, SEED = 12, 512, 512003
HEAD_DIM = {"dynax_l": 128}  # others have 64, as BERT-base
DYNAX_TOPS_PER_WATT = 25.55
PUBLISHED_MM2 = {"dynax_s": 1.08, "dynax_l": 6.05, "salo": 4.56, "salo_v2": 5.97}
PUBLISHED_MW = {"salo": 532.66, "salo_v2": 3750.0}
COMPARED = ("dynax_s", "dynax_l", "sanger", "salo", "salo_v2", "dense")


@dataclass(frozen=True)
class Anchor:
    """A published number and what we predict of it."""

    name: str
    published: float
    terms: tuple[Term, ...]

    @property
    def predicted(self) -> Bar:
        return quantity(self.terms).total


@dataclass(frozen=True)
class Run:
    """One synthetic layer on one machine."""

    machine: Accelerator
    result: SimResult
    costs: Costs


def main() -> None:
    runs = {name: run(name) for name in COMPARED}
    area = area_anchors(runs)
    power = [
        Anchor(name, milliwatts, milliwatt_terms(runs[name], published_scope(runs[name]))) for name, milliwatts in PUBLISHED_MW.items()
    ]
    power += [Anchor(name, dynax_milliwatts(runs[name]), milliwatt_terms(runs[name], runs[name].costs)) for name in ("dynax_s", "dynax_l")]
    parts = (
        section("Area, mm²", leave_one_out(area)),
        section("Power on chip, mW", leave_one_out(power)),
        section("DynaX with other assumptions", assumptions(runs)),
        section("Area over that of a 16-bit multiply-accumulate unit", relative_areas()),
        section("Area by unit, mm²", largest_parts(runs)),
        section("One layer", energies(runs)),
        section("Probability that the row needs less energy on chip than the column", ranks(runs)),
    )
    head = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    write_text(PAGE, head + MARKER + "\n".join(parts))


def area_anchors(runs: dict[str, Run]) -> list[Anchor]:
    return [Anchor(name, published, published_scope(runs[name]).area.terms) for name, published in PUBLISHED_MM2.items()]


def run(name: str) -> Run:
    machine = load_accelerator(name)
    layer = synthetic_layer(HEAD_DIM.get(name, 64))
    result = machine.simulate(workload_of(layer, 0, machine.config.method.load().keep(layer, 0)))
    costs = machine.costs(result.actions, result.traffic, result.latency_ms)
    assert costs is not None  # every shipped machine has a technology
    return Run(machine, result, costs)


def synthetic_layer(head_dim: int) -> LayerTrace:
    """`sink_local` operands without a causal cut, as a trace of one layer would hold them."""
    operands = sink_local_operands(HEADS, TOKENS, head_dim, seed=SEED)
    q, k, v = operands.q[None], operands.k[None], operands.v[None]
    ids = tuple(range(HEADS))
    return LayerTrace(0, q, k, v, (TOKENS,), operands.scale, Bias("none"), float(np.abs(q).max()), float(np.abs(k).max()), ids, ids)


def published_scope(run: Run) -> Costs:
    """Costs of what the published number covers: of SALO the array and one 16 Ki × 8-bit macro, of SALOv2 no memory."""
    memories = {"salo": (Memory.of_width("sram_macro", 16384, 8),), "salo_v2": ()}
    whole = run.machine.area()
    inventory = ComponentCounts(whole.parts, memories.get(run.machine.name, whole.memories))
    return estimate_costs(inventory, *situation(run))


def nominal_of(run: Run, inventory: ComponentCounts) -> NominalCosts:
    """Nominal costs of the same run on another inventory."""
    return nominal_costs(inventory, *situation(run))


def situation(run: Run) -> tuple[TechnologyConfig, float, Actions, DramWork, float]:
    """What an estimate takes besides the inventory."""
    result, config = run.result, run.machine.config
    assert config.technology is not None  # every shipped machine has one
    dram = config.dram.work(config.technology.dram, result.actions, result.traffic, result.latency_ms)
    return config.technology, config.clock_mhz, result.actions, dram, result.latency_ms


def milliwatt_terms(run: Run, costs: Costs) -> tuple[Term, ...]:
    """Terms of the power on chip: those of the energy over the time."""
    picojoules_per_milliwatt = run.result.latency_ms * 1e6
    return tuple(replace(term, count=term.count / picojoules_per_milliwatt) for term in costs.on_chip_energy.terms)


def dense_operations(run: Run) -> int:
    """Two operations for each of two multiply-accumulates of every pair and channel, kept or not."""
    return 4 * HEADS * TOKENS**2 * HEAD_DIM.get(run.machine.name, 64)


def dynax_milliwatts(run: Run) -> float:
    """Power that 25.55 TOPS/W allow at the speed simulated, counting dense operations."""
    return dense_operations(run) / DYNAX_TOPS_PER_WATT / (run.result.latency_ms * 1e6)


def leave_one_out(anchors: Sequence[Anchor]) -> Iterator[str]:
    """Prediction as it is, and with one factor fitted on the other anchors, which is as uncertain as they differ."""
    columns = ("predicted", "bar", "residual", "in bar")
    yield row("machine", "published", *columns, "factor of the others", *(f"held out: {name}" for name in columns))
    yield "|---" * (3 + 2 * len(columns)) + "|"
    for held in anchors:
        factor = factor_of_others(held, anchors).value
        yield row(
            held.name,
            f"{held.published:.4g}",
            *verdict(held.predicted, held.published),
            f"{factor.nominal:.2f} ({span(factor)})",
            *verdict(fitted(held, anchors), held.published),
        )


def factor_of_others(held: Anchor, anchors: Sequence[Anchor]) -> Factor:
    """What the other anchors ask for: the geometric mean, and the least and the most of them."""
    ratios = [one.published / one.predicted.nominal for one in anchors if one is not held]
    return Factor("fitted on the others", Bar(min(ratios), exp(fmean(map(log, ratios))), max(ratios)), "", "the other anchors")


def fitted(held: Anchor, anchors: Sequence[Anchor]) -> Bar:
    """The prediction times the factor of the others."""
    factor = factor_of_others(held, anchors)
    return quantity(replace(term, factors=(*term.factors, factor)) for term in held.terms).total


def verdict(predicted: Bar, published: float) -> tuple[str, str, str, str]:
    inside = "yes" if predicted.low <= published <= predicted.high else "no"
    residual = f"{100 * (predicted.nominal / published - 1):+.0f} %"
    return f"{predicted.nominal:.3g}", f"{predicted.low:.3g} to {predicted.high:.3g}", residual, inside


def assumptions(runs: dict[str, Run]) -> Iterator[str]:
    """DynaX without memories, with execution in words half as wide, and with both: area and power against the published ones."""
    yield row("machine", "assumption", "area, mm²", "residual", "power, mW", "residual", "dense TOPS/W, on chip")
    yield "|---" * 7 + "|"
    for name in ("dynax_s", "dynax_l"):
        one, whole = runs[name], runs[name].machine.area()
        variants = {
            "as shipped": whole,
            "no memories": replace(whole, memories=()),
            "8-bit execution": half_width_execution(whole),
            "both": replace(half_width_execution(whole), memories=()),
        }
        for label, inventory in variants.items():
            costs = nominal_of(one, inventory)
            milliwatts = costs.on_chip_energy_pj / (one.result.latency_ms * 1e6)
            residuals = [
                f"{100 * (predicted / published - 1):+.0f} %"
                for predicted, published in ((costs.area_mm2, PUBLISHED_MM2[name]), (milliwatts, dynax_milliwatts(one)))
            ]
            efficiency = dense_operations(one) / costs.on_chip_energy_pj
            yield row(name, label, f"{costs.area_mm2:.3g}", residuals[0], f"{milliwatts:.3g}", residuals[1], f"{efficiency:.3g}")


def half_width_execution(inventory: ComponentCounts) -> ComponentCounts:
    """Parts of the execution array for words of half the bits."""

    def narrowed(part: Part) -> Part:
        if part.unit != "execute_array":
            return part
        if part.bits > 1:
            return replace(part, bits=part.bits // 2)
        return replace(part, instances=part.instances // 2, uses={action: uses / 2 for action, uses in part.uses.items()})

    return replace(inventory, parts=tuple(map(narrowed, inventory.parts)))


def largest_parts(runs: dict[str, Run]) -> Iterator[str]:
    """The five parts that contribute most."""
    yield row("machine", "area, 5 to 95 %", "five largest parts")
    yield "|---" * 3 + "|"
    for name, one in runs.items():
        parts = (f"{term.unit} {term.part} {term.nominal:.2g}" for term in one.costs.area.largest())
        yield row(name, f"{one.costs.area.total.nominal:.3g} ({span(one.costs.area.total)})", "; ".join(parts))


def energies(runs: dict[str, Run]) -> Iterator[str]:
    """Time, energy and efficiency of the synthetic layer."""
    yield row("machine", "nm", "ms", "energy on chip, µJ", "energy of DRAM, µJ", "power on chip, mW", "dense TOPS/W, on chip")
    yield "|---" * 7 + "|"
    for name, one in runs.items():
        on_chip, dram, power = one.costs.on_chip_energy.total, one.costs.dram_energy.total, one.costs.power
        efficiency = [dense_operations(one) / pj for pj in (on_chip.high, on_chip.nominal, on_chip.low)]
        yield row(
            name,
            f"{one.costs.node_nm:g}",
            f"{one.result.latency_ms:.3g}",
            *(f"{1e-6 * value.nominal:.3g} ({span(value, 1e-6)})" for value in (on_chip, dram)),
            f"{power.nominal:.3g} ({span(power)})",
            f"{efficiency[1]:.3g} ({efficiency[0]:.3g} to {efficiency[2]:.3g})",
        )


def ranks(runs: dict[str, Run]) -> Iterator[str]:
    yield row("", *runs)
    yield "|---" * (len(runs) + 1) + "|"
    per_operation = {name: per_dense_operation(one) for name, one in runs.items()}
    for name, terms in per_operation.items():
        others = ("–" if other == name else f"{probability_less(terms, per_operation[other]):.2f}" for other in runs)
        yield row(name, *others)


def per_dense_operation(run: Run) -> list[Term]:
    """Terms of the energy on chip for one dense operation, so that layers of 64 and 128 channels may stand side by side."""
    return [replace(term, count=term.count / dense_operations(run)) for term in run.costs.on_chip_energy.terms]


def relative_areas() -> Iterator[str]:
    """What our tables say of a unit that was synthesised, both over the 16-bit multiply-accumulate unit."""
    tables = technology_tables()

    def area(component: str, bits: int) -> float:
        return next(row.area_um2[1] for row in tables.logic_rows(component) if row.bits == bits)

    def select(words: int) -> float:
        return (words - 1) * 16 * area("mux", 1)

    flip_flop, unit = area("register", 1), area("integer_mac", 16)
    ours = {
        "mac_4_bit": area("integer_mac", 4),
        "mac_8_bit": area("integer_mac", 8),
        "comparator_16_bit": area("comparator", 16),
        "predictor_pe_1_2_4_bit": area("integer_mac", 4) + 25 * flip_flop + 4 * area("mux", 1),
        "predictor_pe_1_4_6_bit": area("integer_mac", 6) + 47 * flip_flop + 18 * area("mux", 1),
        "top_k_stage_16_bit_of_32": area("top_k_cell", 16),
        "two_way_exp_16_bit": area("exp_unit", 16),
        "word_select_32_of_16_bit": select(32),
        "word_select_64_of_16_bit": select(64),
        "reconfigurable_pe_32_keys_16_bit": unit + select(32) + 32 * flip_flop + area("exp_unit", 16),
        "reconfigurable_pe_64_keys_16_bit": unit + select(64) + 32 * flip_flop + area("exp_unit", 16),
    }
    synthesised = {one["name"]: one["area_of_yardstick"] for one in json.loads(RTL_AREAS.read_text(encoding="utf-8"))["units"]}
    yield row("unit of our RTL", "synthesised", "by the tables", "ratio")
    yield "|---" * 4 + "|"
    for name, value in ours.items():
        yield row(name, f"{synthesised[name]:.3f}", f"{value / unit:.3f}", f"{value / unit / synthesised[name]:.2f}")


def span(value: Bar, scale: float = 1.0) -> str:
    return f"{scale * value.low:.3g} to {scale * value.high:.3g}"


def section(title: str, lines: Iterator[str]) -> str:
    return "\n".join((f"\n### {title}\n", *lines, ""))


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
