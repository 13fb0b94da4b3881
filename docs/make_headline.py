"""Compare DynaX-S with Sanger and SALOv2 on BERT-base-shaped attention: python docs/make_headline.py

Prints the table of docs/headline.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.accelerator import Accelerator, DramConfig
from xmsim.sim.result import SimResult
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.synthetic import sink_local_operands

HEADS, TOKENS, HEAD_DIM, SEED = 12, 512, 64, 512003
CLOCK_MHZ = 500  # where clocks are equal
DRAM = DramConfig(gigabytes_per_second=128, latency_ns=100)
# multipliers of a × b bits count a·b/256; execution is taken at 16 bits, prediction and matching have 4
EQUIVALENTS = {
    "dynax_s": 4 * 32 * 4 + 32 * 32 * 16 / 256,
    "sanger": 64 * 16 + 64 * 64 * 16 / 256,
    "sanger_skewed": 64 * 16 + 64 * 64 * 16 / 256,
    "sanger_1ghz": 64 * 16 + 64 * 64 * 16 / 256,
    "salo_v2": 776 + 64 * 64 * 16 / 256,
}
SALO_AT_NINE_BITS = 776 * 81 / 256 + 64 * 64 * 16 / 256
PUBLISHED = {"sanger": 1.99, "salo_v2": 1.50}


@dataclass(frozen=True)
class Run:
    """One machine at its own clock, and at the common one."""

    name: str
    clock_mhz: float
    density: float
    own: SimResult
    common: SimResult


def main() -> None:
    layer = synthetic_layer()
    runs = {name: run_machine(name, layer) for name in EQUIVALENTS}
    columns = ("machine", "MHz", "density", "cycles", "ms", "multipliers", "multipliers and clock equal", "multipliers equal")
    print(f"| {' | '.join((*columns, 'as they are', 'published'))} |")
    print("|---" * (len(columns) + 2) + "|")
    for name, run in runs.items():
        print(row(run, runs["dynax_s"], EQUIVALENTS[name], PUBLISHED.get(name)))
    print(row(runs["salo_v2"], runs["dynax_s"], SALO_AT_NINE_BITS, None))


def synthetic_layer() -> LayerTrace:
    """`sink_local` operands without a causal cut, as a trace of one layer would hold them."""
    operands = sink_local_operands(HEADS, TOKENS, HEAD_DIM, seed=SEED)
    q, k, v = operands.q[None], operands.k[None], operands.v[None]
    maxima = float(np.abs(q).max()), float(np.abs(k).max())
    ids = tuple(range(HEADS))
    return LayerTrace(0, q, k, v, (TOKENS,), operands.scale, Bias("none"), *maxima, ids, ids)


def run_machine(name: str, layer: LayerTrace) -> Run:
    machine = load_accelerator(name)
    workload = workload_of(layer, 0, machine.config.method.load().keep(layer, 0))
    own, common = (changed(machine, clock).simulate(workload) for clock in (machine.config.clock_mhz, CLOCK_MHZ))
    return Run(name, machine.config.clock_mhz, own.densities.density, own, common)


def changed(machine: Accelerator, clock_mhz: float) -> Accelerator:
    """The machine with the common DRAM, at a clock."""
    return type(machine)(machine.name, machine.config.model_copy(update={"dram": DRAM, "clock_mhz": clock_mhz}))


def row(run: Run, dynax: Run, equivalents: float, published: float | None) -> str:
    share = equivalents / EQUIVALENTS["dynax_s"]
    ratios = (
        run.common.cycles / dynax.common.cycles * share,
        run.own.latency_ms / dynax.own.latency_ms * share,
        run.own.latency_ms / dynax.own.latency_ms,
    )
    cells = (
        run.name,
        f"{run.clock_mhz:g}",
        f"{run.density:.3f}",
        str(run.own.cycles),
        f"{run.own.latency_ms:.3f}",
        f"{equivalents:.0f}",
        *(f"{ratio:.2f}×" for ratio in ratios),
        f"{published:.2f}×" if published else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
