"""Attention that was timed on a GPU as measurement files, which `xmsim compare` reads: one for each phase and number of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xmsim.workloads.measurement import Host, MeasuredRun, MeasurementRecord, Timing, write_measurement

MODEL = "a Llama-3-8B layer's shape"


def write_measurements(folder: Path, rows: Iterable[dict[str, Any]], host: Host) -> list[Path]:
    """Write what rows of gpu_attention and gpu_masks say of attention and masks; the files."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if "heads" in row:
            groups.setdefault((_phase(row), row["tokens"]), []).append(row)
    paths = []
    for (phase, tokens), each in groups.items():
        path = folder / f"attention_{phase}_{tokens}_gpu.json"
        write_measurement(path, measurement_of(each, phase, tokens, host))
        paths.append(path)
    return paths


def measurement_of(rows: list[dict[str, Any]], phase: str, tokens: int, host: Host) -> MeasurementRecord:
    """Rows of one phase and number of tokens, whose operands are random; of what was timed again beside others, the first."""
    operands = f"random operands, {phase} of {tokens} tokens"
    trace = {"path": "", "sha256": hashlib.sha256(operands.encode()).hexdigest(), "model": MODEL, "text": operands}
    runs: dict[tuple[str, str], MeasuredRun] = {}
    for run in map(_run, rows):
        runs.setdefault((run.operation, run.backend), run)
    method = {"name": "xm" if phase == "decode" else "xm, random tiles"}
    return MeasurementRecord(host, trace, method, {"phase": phase, "calls": "graphs on copies that no cache holds"}, tuple(runs.values()))


def _phase(row: dict[str, Any]) -> str:
    return "decode" if row["phase"] == "decode" else "prefill"


def _run(row: dict[str, Any]) -> MeasuredRun:
    density = row.get("density", row.get("kv_density", row.get("live_tiles", 1.0)))
    if row["phase"] == "mask" or row["kernel"].endswith("prediction alone"):
        operation = "mask"
    else:
        operation = "dense attention" if density == 1.0 else "sparse attention"
    live = f", {row['live_tiles']:.0%} of tiles live" if row.get("live_tiles", 1.0) < 1 else ""
    kept = f", {density:.0%} of keys kept" if row["phase"] == "prefill" and "density" in row else ""
    return MeasuredRun(
        layer=0,
        window=0,
        device="cuda",
        operation=operation,
        method="dense" if operation == "dense attention" else "xm",
        backend=row["kernel"] + live + kept,
        dtype=row["dtype"],
        threads=1,
        query_tokens=1 if _phase(row) == "decode" else row["tokens"],
        key_tokens=row["tokens"],
        heads=row["heads"],
        kv_heads=row["kv_heads"],
        head_dim=row["head_dim"],
        density=density,
        timing=Timing(*(row[name] for name in Timing.__dataclass_fields__)),
        max_error=row.get("largest_error"),
        allowed_error=row.get("allowed_error"),
    )
