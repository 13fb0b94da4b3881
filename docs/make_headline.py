"""Compare DynaX-S with Sanger and SALOv2 on BERT-base-shaped attention and on MiniLM's: python docs/make_headline.py

Prints the tables of docs/headline.md; those of MiniLM where it is installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.accelerator import Accelerator, DramConfig
from xmsim.sim.result import SimResult
from xmsim.traces.manifest import Bias
from xmsim.traces.store import LayerTrace
from xmsim.workloads.attention import workload_of
from xmsim.workloads.models.loading import MINILM, LoadedModel, ModelError, load_model
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
PHASE_STAGES = {  # (prediction or matching, execution)
    "dynax_s": ("predictor", "execute"),
    "sanger": ("predictor", "execute"),
    "sanger_skewed": ("predictor", "execute"),
    "salo_v2": ("matching", "pe_array"),
}


@dataclass(frozen=True)
class Run:
    """All layers on one machine, one result a layer, at the machine's own clock and at the common one."""

    machine: Accelerator
    own: tuple[SimResult, ...]
    common: tuple[SimResult, ...]

    @property
    def own_ms(self) -> float:
        return sum(result.latency_ms for result in self.own)

    @property
    def common_cycles(self) -> int:
        return sum(result.cycles for result in self.common)

    @property
    def density(self) -> float:
        return fmean(result.densities.density for result in self.own)  # layers have equally many pairs

    def busy(self, stage: str) -> float:
        """Share of a stage's server-cycles in which it works, at the common clock."""
        return sum(result.busy[stage] / result.servers[stage] for result in self.common) / self.common_cycles

    @property
    def useful(self) -> float:
        """Share of the execution's multiplier-cycles that kept pairs need, at the common clock."""
        return sum(result.useful_macs for result in self.common) / (self.machine.peak_macs_per_cycle() * self.common_cycles)


def main() -> None:
    print_tables("synthetic operands", [synthetic_layer()])
    try:
        model = load_model(MINILM)
    except ModelError as error:
        print(f"\n{error}; its tables are left out")
        return
    print_tables("MiniLM", minilm_layers(model))


def print_tables(name: str, layers: Sequence[LayerTrace]) -> None:
    runs = {machine: run_machine(machine, layers) for machine in EQUIVALENTS}
    print(f"\n{name}\n", *comparison(runs), "", *phases(runs), sep="\n")


def synthetic_layer() -> LayerTrace:
    """`sink_local` operands without a causal cut, as a trace of one layer would hold them."""
    operands = sink_local_operands(HEADS, TOKENS, HEAD_DIM, seed=SEED)
    q, k, v = operands.q[None], operands.k[None], operands.v[None]
    maxima = float(np.abs(q).max()), float(np.abs(k).max())
    ids = tuple(range(HEADS))
    return LayerTrace(0, q, k, v, (TOKENS,), operands.scale, Bias("none"), *maxima, ids, ids)


def minilm_layers(model: LoadedModel) -> list[LayerTrace]:
    """All layers of MiniLM on the first window of the shipped text."""
    from xmsim.workloads.extraction.extract import extract_trace

    with tempfile.TemporaryDirectory() as folder:
        trace = extract_trace(model, out=Path(folder) / "trace", tokens=TOKENS)
        return [trace.read_layer(layer) for layer in trace.layers]


def run_machine(name: str, layers: Sequence[LayerTrace]) -> Run:
    machine = load_accelerator(name)
    method = machine.config.method.load()
    workloads = [workload_of(layer, 0, method.keep(layer, 0)) for layer in layers]
    own, common = (
        tuple(changed(machine, clock).simulate(workload) for workload in workloads) for clock in (machine.config.clock_mhz, CLOCK_MHZ)
    )
    return Run(machine, own, common)


def changed(machine: Accelerator, clock_mhz: float) -> Accelerator:
    """The machine with the common DRAM, at a clock."""
    return type(machine)(machine.name, machine.config.model_copy(update={"dram": DRAM, "clock_mhz": clock_mhz}))


def comparison(runs: dict[str, Run]) -> Iterator[str]:
    """How many times as long as DynaX-S each machine takes."""
    columns = ("machine", "MHz", "density", "cycles", "ms", "multipliers", "multipliers and clock equal", "multipliers equal")
    yield row(*columns, "as they are", "published")
    yield "|---" * (len(columns) + 2) + "|"
    for name, run in runs.items():
        yield ratios(run, runs["dynax_s"], EQUIVALENTS[name], PUBLISHED.get(name))
    yield ratios(runs["salo_v2"], runs["dynax_s"], SALO_AT_NINE_BITS, None)


def ratios(run: Run, dynax: Run, equivalents: float, published: float | None) -> str:
    share = equivalents / EQUIVALENTS["dynax_s"]
    times = (run.common_cycles / dynax.common_cycles * share, run.own_ms / dynax.own_ms * share, run.own_ms / dynax.own_ms)
    return row(
        run.machine.name,
        f"{run.machine.config.clock_mhz:g}",
        f"{run.density:.3f}",
        str(sum(result.cycles for result in run.own)),
        f"{run.own_ms:.3f}",
        f"{equivalents:.0f}",
        *(f"{ratio:.2f}×" for ratio in times),
        f"{published:.2f}×" if published else "",
    )


def phases(runs: dict[str, Run]) -> Iterator[str]:
    """Where the cycles at the common clock go."""
    yield row("machine", "prediction or matching busy, %", "execution busy, %", "multipliers of the execution on kept pairs, %")
    yield "|---" * 4 + "|"
    for name, (prediction, execution) in PHASE_STAGES.items():
        run = runs[name]
        yield row(name, *(f"{100 * share:.1f}" for share in (run.busy(prediction), run.busy(execution), run.useful)))


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
