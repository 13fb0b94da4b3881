"""Records made by hand for the tests of reports. Nothing here was simulated or measured: the numbers are round on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.costs import Bar, Costs, Factor, Term
from xmsim.reports.models import Models
from xmsim.sim.propagation import quantity
from xmsim.sim.result import Densities, HeadResult, HeadSampling, LayerRun, MachineFacts, SimResult, SimulationRecord, write_result
from xmsim.workloads.measurement import Host, MeasuredRun, MeasurementRecord, Timing, write_measurement
from xmsim.workloads.measuring.host_check_record import CALIBRATED, GIVEN_MINUTE, CheckedRun, CrossCheckRecord, LeftOut

TRACE = {"path": "tests/made-up", "sha256": "a" * 64, "model": "made-up model", "text": "made-up.txt"}
TOKENS, HEAD_DIM, KV_HEADS = 256, 64, 2

HOST = Host(
    cpu="Made-up CPU 9000",
    cores=2,
    cpu_features=("avx2", "avx512f"),
    memory_bytes=24 * 10**9,
    gpu="",
    system="Linux 6.1",
    python="3.11.7",
    packages={"torch": "2.13.0", "numba": "0.68.1"},
)

STAGES = {  # {stage: (servers, {stall cause: share}, {idle cause: share})}, shares of server-cycles; the rest is busy
    "prediction_array": (1, {"execution_arrays_full": 0.05}, {"drain": 0.10}),
    "scheduler": (1, {"execution_arrays_full": 0.20}, {"fill": 0.10, "starved": 0.55, "drain": 0.05}),
    "execution_arrays": (4, {"dram": 0.10}, {"fill": 0.12, "starved": 0.16, "drain": 0.02}),
    "divider": (1, {}, {"fill": 0.15, "starved": 0.80}),
}


def density_of(layer: int, head: int) -> float:
    return 0.05 + 0.01 * layer + 0.02 * head


def simulation(
    machine: str = "dynax_s",
    *,
    method: str = "xm_32",
    view: str = "native",
    trace: dict[str, Any] | None = None,
    layers: Sequence[int] = (0, 1, 2),
    windows: int = 1,
    heads: int = 4,
    head_cycles: int = 2000,
    clock_mhz: float = 500.0,
    peak_macs_per_cycle: int = 512,
    area_mm2: float | None = 1.08,
    area_source: str = "made up",
    config: dict[str, Any] | None = None,
    decoded: Sequence[int] = (),
    sampled_of: int | None = None,
    costs: Costs | None = None,
) -> SimulationRecord:
    """A record whose layer l takes heads × head_cycles × (10 + l) / 10 cycles; decoded: of each of these tokens.

    sampled_of: the heads are those of two of so many KV heads, and the second head takes a tenth less, the last a tenth more.
    """
    runs = [
        _layer_run(layer, window, heads, head_cycles * (10 + layer) // 10, dense=method == "dense")
        for layer in layers
        for window in range(windows)
    ]
    if decoded:
        runs = [replace(run, query_tokens=1, key_tokens=token + 1) for run in runs for token in decoded]
    if sampled_of:
        runs = [_sampled(run, sampled_of) for run in runs]
    facts = MachineFacts(
        machine, "made_up", clock_mhz, peak_macs_per_cycle, 128.0, area_mm2, area_source, config or {"clock_mhz": clock_mhz}
    )
    return SimulationRecord(
        machine=facts,
        method={"name": method, "block": 32},
        view=view,
        phase="decode" if decoded else "prefill",
        trace=trace or TRACE,
        engine="event",
        sampling=HeadSampling(KV_HEADS, seed=0) if sampled_of else None,
        runs=tuple(runs),
        costs=costs,
    )


def made_up_costs(*, area_mm2: float = 2.0, chip_uj: float = 6.0, dram_uj: float = 4.0, time_ms: float = 0.0528, own: float = 1.0) -> Costs:
    """An estimate whose rows are "shared" by all machines, a third to three times nominal; half of chip and area has a row of its own.

    own: how far the bar of that row goes, up and down; 1: it is certain.
    """
    shared = Factor("shared row", Bar(1 / 3, 1.0, 3.0), "pJ", "a made-up table")
    of_its_own = Factor(f"row of {area_mm2} mm2", Bar(1 / own, 1.0, own), "pJ", "another made-up table")

    def halves(unit_a: str, unit_b: str, whole: float) -> tuple[Term, ...]:
        return Term(unit_a, "integer_mac 16-bit", whole / 2, (shared,)), Term(unit_b, "integer_mac 4-bit", whole / 2, (shared, of_its_own))

    area = quantity(halves("execute_array", "prediction_array", area_mm2))
    chip = quantity(halves("execute_array", "prediction_array", 1e6 * chip_uj))
    dram = quantity([Term("dram", "bits", 1e6 * dram_uj, (Factor("bit", Bar(0.5, 1.0, 2.0), "pJ", "a made-up DRAM"),))])
    power = Bar(*(1e-6 * value / time_ms for value in (chip.total.low, chip.total.nominal, chip.total.high)))
    return Costs(area, chip, dram, quantity((*chip.terms, *dram.terms)).total, power, 28.0, ("a row was left",))


@pytest.fixture(scope="session")
def estimated() -> Callable[..., Costs]:
    """A made-up estimate of area and energy."""
    return made_up_costs


def _sampled(run: LayerRun, kv_heads: int) -> LayerRun:
    cycles = [one.cycles for one in run.result.heads]
    cycles[1], cycles[-1] = cycles[1] - cycles[1] // 10, cycles[-1] + cycles[1] // 10
    heads = tuple(replace(one, cycles=own) for one, own in zip(run.result.heads, cycles, strict=True))
    return replace(run, kv_heads=kv_heads, sampled_kv_heads=(0, 1), result=replace(run.result, heads=heads))


def _layer_run(layer: int, window: int, heads: int, head_cycles: int, *, dense: bool) -> LayerRun:
    results = tuple(_head(layer, head, head_cycles, 1.0 if dense else density_of(layer, head)) for head in range(heads))
    cycles = heads * head_cycles
    busy, stalls, idle = {}, {}, {}
    for stage, (servers, stalled, idled) in STAGES.items():
        whole = servers * cycles
        stalls[stage] = {cause: round(part * whole) for cause, part in stalled.items()}
        idle[stage] = {cause: round(idled.get(cause, 0) * whole) for cause in ("fill", "starved", "drain")}
        busy[stage] = whole - sum(stalls[stage].values()) - sum(idle[stage].values())
    density = sum(head.densities.density for head in results) / heads
    result = SimResult(
        cycles=cycles,
        latency_ms=0.0,
        servers={stage: servers for stage, (servers, *_) in STAGES.items()},
        busy=busy,
        stalls=stalls,
        idle=idle,
        traffic={"dram": {"read_bytes": 30 * cycles, "write_bytes": 10 * cycles}},
        actions={},
        heads=results,
        densities=Densities(density, density / 2, min(1.0, 2 * density)),
        useful_macs=sum(head.useful_macs for head in results),
        roofline_cycles=cycles // 2,
        serial_cycles=3 * cycles,
        metrics={"packing_efficiency": 0.9 - 0.01 * layer},
    )
    return LayerRun(layer, window, TOKENS, TOKENS, HEAD_DIM, KV_HEADS, result)


def _head(layer: int, head: int, cycles: int, density: float) -> HeadResult:
    kept = round(density * TOKENS * (TOKENS + 1) / 2)
    densities = Densities(density, density / 2, min(1.0, 2 * density))
    return HeadResult(
        head, cycles, 0.0, {}, {}, {"dram": {"read_bytes": 30 * cycles, "write_bytes": 10 * cycles}}, {}, densities, 2 * kept * HEAD_DIM
    )


def measurement(
    *,
    trace: dict[str, Any] | None = None,
    layers: Sequence[int] = (0, 1, 2),
    windows: int = 1,
    heads: int = 4,
    host: Host = HOST,
    threads: int = 2,
    dense_ms: float = 2.0,
    sparse_ms: float = 1.0,
    mask_ms: float | None = 0.5,
    method: str = "xm",
    decoded: Sequence[int] = (),
    device: str = "cpu",
) -> MeasurementRecord:
    """A record whose layers take dense_ms, sparse_ms and mask_ms each, quartiles 10 % below and above; decoded: each of these tokens."""
    kernels = [
        ("dense attention", "dense", "torch sdpa, flash", dense_ms, 1.0),
        ("sparse attention", method, "numba gather", sparse_ms, 0.1),
    ]
    if mask_ms is not None:
        kernels.append(("mask", method, "numpy", mask_ms, 0.1))
    runs = [
        MeasuredRun(
            layer=layer,
            window=window,
            device=device,
            operation=operation,
            method=its_method,
            backend=backend,
            dtype="float32",
            threads=threads,
            query_tokens=1 if decoded else TOKENS,
            key_tokens=token + 1,
            heads=heads,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            density=density,
            timing=Timing(20, median, 0.9 * median, 1.1 * median, 0.8 * median, 1.5 * median),
            max_error=None if operation == "mask" else 1e-6,
            allowed_error=None if operation == "mask" else 4e-6,
        )
        for operation, its_method, backend, median, density in kernels
        for layer in layers
        for window in range(windows)
        for token in decoded or (TOKENS - 1,)
    ]
    phase = "decode" if decoded else "prefill"
    return MeasurementRecord(host, trace or TRACE, {"name": method, "block": 64}, {"phase": phase}, tuple(runs))


def _write_simulated(path: Path, **facts: Any) -> Path:
    write_result(path, simulation(**facts))
    return path


def _write_measured(path: Path, **facts: Any) -> Path:
    write_measurement(path, measurement(**facts))
    return path


@pytest.fixture(scope="session")
def write_simulated() -> Callable[..., Path]:
    """Write a made-up result file: write_simulated(path, machine=..., ...) returns the path."""
    return _write_simulated


@pytest.fixture(scope="session")
def write_measured() -> Callable[..., Path]:
    """Write a made-up measurement file."""
    return _write_measured


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[..., Path]:
    """The same by name, in this test's folder: simulated("name.json", machine=..., ...)."""
    return lambda name, **facts: _write_simulated(tmp_path / name, **facts)


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, **facts: _write_measured(tmp_path / name, **facts)


def predictions(*, off: float = 0.1) -> CrossCheckRecord:
    """Of two kernels on the made-up host, as calibrated so much too long; given that minute's bandwidth right. One series has none."""
    shape = {"in_features": 64, "out_features": 64, "tokens": 1, "sparsity": 0.5}
    runs = [
        CheckedRun("kernels.json", "linear", kernel, "bfloat16", 2, shape, constants, ms, ms, ms, predicted * ms, "memory")
        for constants, predicted in ((CALIBRATED, 1 + off), (GIVEN_MINUTE, 1.0))
        for kernel, ms in (("dense", 1.0), ("torch", 3.0))
    ]
    return CrossCheckRecord("made-up host", True, HOST, tuple(runs), (LeftOut("kernels.json", "a series", "no model of this kernel"),))


@pytest.fixture(scope="session")
def predicted() -> Callable[..., CrossCheckRecord]:
    """A made-up cross-check."""
    return predictions


@pytest.fixture(scope="session")
def made_up_models() -> Models:
    """Models for which every layer costs 3 µJ on chip and 1 µJ of DRAM, and every host is 10 % faster than its model."""
    return Models(
        layer_costs=lambda record: {layer: made_up_costs(chip_uj=3.0, dram_uj=1.0) for layer in {run.layer for run in record.runs}},
        costs_at_node=lambda record, node_nm, voltage_v: None,
        cross_check=lambda constants, measured: predictions() if measured or "check" in constants.name else None,
    )
