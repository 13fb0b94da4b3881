"""Every run of a record is predicted or left out with a reason, and errors of committed checks stay within their bounds."""

from __future__ import annotations

import importlib
from itertools import product
from pathlib import Path

import pytest
from tests.accel_models.host.hosts import HOST, calibration, host

from xmsim.accel_models.host.cross_check import cross_check
from xmsim.accel_models.host.host_run import predict, workload_of
from xmsim.accel_models.host.measured_runs import measured_runs
from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reports.cross_check import ALL, accuracies
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.calibration import whole_calls
from xmsim.workloads.measuring.calibration.record import write_calibration
from xmsim.workloads.measuring.host_check_record import (
    CALIBRATED,
    GIVEN_MINUTE,
    ErrorBound,
    HostCheckRecord,
    HostRun,
    Minute,
    read_cross_check,
    read_host_check,
    write_cross_check,
    write_host_check,
)

MEASURED = Path(__file__).resolve().parents[3] / "reports" / "measured"
RECORDS = ("linear_cpu.json", "attention_cpu.json", "masks_cpu.json", "generation_llama_1b_cpu.json")
SHAPE = {"in_features": 1024, "out_features": 1024, "tokens": 1, "sparsity": 0.0}


def run(measured_ms: float, minute: Minute = Minute(None, None), **changes: object) -> HostRun:  # noqa: B008  # frozen
    fields = {"operation": "linear", "kernel": "dense", "element": "bfloat16", "threads": 1, "shape": SHAPE} | changes
    return HostRun(**fields, timing=Timing(5, *[measured_ms] * 5), minute=minute)  # type: ignore[arg-type]


def written(folder: Path, *runs: HostRun) -> Path:
    path = folder / "host_check.json"
    write_host_check(path, HostCheckRecord(calibration(), runs, {CALIBRATED: ErrorBound(0.1, 0.25)}))
    return path


def test_a_run_is_predicted_as_calibrated_and_as_its_minute_was(tmp_path: Path) -> None:
    predicted_ms = (1000 + 32768 * 2.0) / 1e6
    path = written(tmp_path, run(predicted_ms, Minute(read_line_ns=4.0, core_drift=1.5)))
    first, second = cross_check([path]).runs
    assert (first.constants, second.constants) == (CALIBRATED, GIVEN_MINUTE)
    assert first.error == pytest.approx(0, abs=0.01)
    assert second.predicted_ms == pytest.approx((1500 + 32768 * 4.0) / 1e6, rel=0.01)
    assert first.bound_by == "memory"


def test_a_kernel_without_a_model_is_left_out_with_the_reason(tmp_path: Path) -> None:
    mask = {"tokens": 64, "heads": 1, "kv_heads": 1, "head_dim": 64, "bits": 0}
    found = cross_check([written(tmp_path, run(1.0), run(1.0, operation="mask", kernel="topk", shape=mask))])
    assert len(found.runs) == 1
    assert [left.series for left in found.left_out] == [
        "mask, topk bfloat16, 1 threads, tokens 64, heads 1, kv_heads 1, head_dim 64, bits 0"
    ]
    assert "no constant mask (rule topk" in found.left_out[0].reason


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = written(tmp_path, run(0.07, Minute(2.0, 1.0)))
    found = cross_check([path])
    write_cross_check(tmp_path / "cross_check.json", found)
    assert read_cross_check(tmp_path / "cross_check.json") == found
    assert read_host_check(path).calibration.host == HOST


def test_every_series_of_the_committed_records_is_predicted_or_left_out(tmp_path: Path) -> None:
    write_calibration(tmp_path / "host.json", calibration())
    paths = [MEASURED / name for name in RECORDS]
    found = cross_check(paths, tmp_path / "host.json")
    known = sum(len(measured_runs(path)[1]) for path in paths)
    once = [one for one in found.runs if one.constants == CALIBRATED]
    unpredicted = [left for left in found.left_out if "no constant" in left.reason]
    assert len(once) + len(unpredicted) == known
    assert {one.operation for one in once} == {"linear", "prefill", "decode", "prediction", "mask"}
    with_minute = [one for one in found.runs if one.constants == GIVEN_MINUTE]
    assert {one.source for one in with_minute} == {"linear_cpu.json"}  # the one that has plain reads beside its runs
    assert len(once) / (len(once) + len(found.left_out)) > 0.85


def seen_by_the_calibration(run: HostRun) -> bool:
    """Whether a run is one of the whole calls that the calibration times."""
    shape = run.shape
    if run.operation == "linear":
        return (shape["in_features"], shape["out_features"]) in whole_calls.LINEAR_SHAPES
    tokens = {"prefill": whole_calls.PREFILL_TOKENS, "mask": whole_calls.MASK_TOKENS}
    return shape["tokens"] in tokens.get(run.operation, whole_calls.DECODE_KEYS)


@pytest.mark.parametrize("name", RECORDS)
def test_no_committed_run_was_part_of_the_calibration(name: str) -> None:
    assert not [run for run in measured_runs(MEASURED / name)[1] if seen_by_the_calibration(run)]


def test_the_grid_of_the_host_check_is_held_out_and_modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(MEASURED.parents[1] / "benchmarks"))
    check = importlib.import_module("host_check")
    heads = {"heads": check.HEADS, "kv_heads": check.KV_HEADS, "head_dim": check.HEAD_DIM}
    grid = [
        run(1.0, kernel=kernel, element=element, threads=2, shape=SHAPE | {"in_features": i, "out_features": o, "tokens": tokens})
        for (i, o), tokens, (kernel, element, _) in product(check.LINEAR_SHAPES, check.LINEAR_TOKENS, check.LINEAR_KERNELS)
    ]
    for tokens in check.DECODE_TOKENS:
        grid += [run(1.0, operation="decode", kernel=kernel, shape=heads | {"tokens": tokens}) for kernel in ("torch", "dense", "sparse")]
        grid.append(run(1.0, operation="prediction", kernel="xm", shape=heads | {"tokens": tokens, "bits": 4}))
    prefill = {"heads": check.PREFILL_HEADS, "kv_heads": check.PREFILL_KV_HEADS, "head_dim": 64}
    grid += [run(1.0, operation="prefill", kernel="sparse", shape=prefill | {"tokens": t, "kept": 4}) for t in check.PREFILL_TOKENS]
    assert not [one for one in grid if seen_by_the_calibration(one)] and check.MASK_TOKENS not in whole_calls.MASK_TOKENS
    assert all(predict(host(), one).ns > 0 for one in grid)


def test_a_record_needs_constants_from_somewhere() -> None:
    with pytest.raises(XmsimError, match=r"none of the records has a calibration in it; calibrate this host"):
        cross_check([MEASURED / "linear_cpu.json"])
    with pytest.raises(XmsimError, match="no record was given"):
        cross_check([])


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(RecordError, match="holds no kernels of this host"):
        measured_runs(MEASURED / "evaluation_xm_tiny.json")


def test_prefill_and_decode_of_one_run_take_the_workload_of_its_shape() -> None:
    shape = {"tokens": 256, "heads": 4, "kv_heads": 1, "head_dim": 64, "kept": 8}
    sparse, dense = (predict(host(), run(1.0, operation="prefill", kernel=kernel, shape=shape)).ns for kernel in ("sparse", "torch"))
    assert sparse != dense
    assert workload_of("prefill", shape).densities().density == pytest.approx(8 / 64, rel=0.05)


@pytest.mark.parametrize("path", sorted(MEASURED.glob("host_check*.json")), ids=lambda path: path.name)
def test_errors_of_a_committed_check_stay_within_its_bounds(path: Path) -> None:
    record = read_host_check(path)
    assert record.bounds, f"{path.name} states no bound: write it with benchmarks/host_check.py"
    found = {row.constants: row for row in accuracies(cross_check([path])) if row.series == ALL}
    for constants, bound in record.bounds.items():
        assert found[constants].mean <= bound.mean and found[constants].p95 <= bound.p95, f"{found[constants]}; bound {bound}"
