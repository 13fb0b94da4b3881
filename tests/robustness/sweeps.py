"""A sweep's file and its run store: valid inputs, and the reading of what was made of them."""

from __future__ import annotations

from pathlib import Path

STORE = "out/points.sqlite"  # where a sweep may write
# seen from the root of the repository, where the readers run
SWEEP = """\
machines: [dynax_s, sanger]
traces: [tests/golden/trace_v2]
methods: [native, topk]
layers: 0-1
decode: 2
axes:
  clock_mhz: [400, 500]
  dram:
    - {gigabytes_per_second: 16, latency_ns: 100}
    - {kind: lpddr5_6400, latency_ns: 40}
together:
  - method.prediction.bits: [4, 6]
    area.published_mm2: [1, 2]
error_bars: false
"""
POINTS = 4  # of a damaged sweep are looked at: the first and the last, which hold other values of every axis


def write_sweep(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(SWEEP)


def read_sweep_file(folder: Path) -> None:
    """The sweep, the keys of some points, and what becomes of them."""
    import json
    from itertools import islice

    from xmsim.accel_models.sweep.runs import run_points
    from xmsim.accel_models.sweep.sweep_file import read_sweep
    from xmsim.accel_models.sweep.workers import Workers

    sweep = read_sweep(folder / "sweep.yaml")
    _ = sweep.size, sweep.paths
    points = [*islice(sweep.points(), POINTS), sweep.point([choices - 1 for choices in sweep.shape])]
    for point in points:
        json.dumps(point.config(), allow_nan=False)
    for outcome in run_points(points, Workers("loky", 1), folder / "out" / "masks", done=(), error_bars=False):
        json.dumps(outcome.metrics, allow_nan=False)


def write_store(folder: Path) -> None:
    from xmsim.reports.store import RunStore, StoredPoint

    with RunStore(folder / STORE) as store:
        for number in range(40):
            failed = number % 8 == 0
            metrics = {"total_cycles": 100 + number, "latency_ms": 0.1 * (number + 1), "energy_pj": 5.0 * number + 1, "area_mm2": 0.5}
            store.add(
                [
                    StoredPoint(
                        key=f"{number:064x}",
                        machine="dynax_s",
                        method="xm_32",
                        trace_sha256="0" * 64,
                        config={"clock_mhz": 400 + number},
                        metrics=None if failed else metrics,
                        error="dynax_s: kv.buffer_bytes: too few" if failed else None,
                    )
                ]
            )


def read_store(folder: Path) -> None:
    """As a sweep goes on: what is there, one more point, and the report of all."""
    from xmsim.reports.figures.pareto import DesignPoint, pareto
    from xmsim.reports.store import RunStore, StoredPoint
    from xmsim.reports.sweep import SweptPoint, points_csv

    with RunStore(folder / STORE) as store:
        keys = sorted(store.keys())
        store.keys(failed=False)
        store.add([StoredPoint("next", "dynax_s", "xm_32", "0" * 64, {}, {"latency_ms": 1.0}, None)])
        outcomes = store.outcomes(keys)
    rows = [SweptPoint("dynax_s", "trace", "xm_32", {}, metrics, error, None) for metrics, error in outcomes.values()]
    points_csv(rows).encode()
    designs = [DesignPoint("m", "x", "", row.metrics["latency_ms"], None, None, None) for row in rows if row.metrics]
    if designs:
        pareto(designs, "trace").csv().encode()
