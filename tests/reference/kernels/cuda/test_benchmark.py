"""The checks that benchmarks/gpu.py makes before it times a kernel pass, and fail on a kernel that is wrong."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from xmsim.reference.kernels.cuda import linear  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[4] / "benchmarks"


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_attention
    import gpu_linear

    yield gpu_linear, gpu_attention
    for name in [name for name in sys.modules if name.startswith("gpu_")]:
        del sys.modules[name]


def test_the_checks_of_the_benchmark_pass(checks, device):
    gpu_linear, gpu_attention = checks
    assert set(gpu_linear.check(200, 456, 1, 0.5, device)) == {"torch linear", "own dense", "tca-bme", "macko", "teal", "spdp"}
    assert set(gpu_linear.check(200, 456, 9, 0.5, device)) == {"torch linear", "tca-bme"}
    for checked in (gpu_attention.check_prefill(4, 2, 128, 0.5, device), gpu_attention.check_decode(8, 2, 256, 0.1, device)):
        assert 0 < checked.error < 8e-3 and 0 < checked.largest_error <= checked.allowed_error


def test_prediction_and_masks_of_the_benchmark_are_the_cpu_s(checks, device):
    import gpu_masks

    _, gpu_attention = checks
    assert 0.02 < gpu_attention.check_prediction(4, 1, 512, device) < 0.25
    assert gpu_masks.check(2, 1, 130) == 2 * 2 * 130


def test_a_wrong_kernel_is_not_timed(checks, device, monkeypatch):
    gpu_linear, _ = checks
    right = linear.dense_linear
    monkeypatch.setattr(linear, "dense_linear", lambda x, weight: right(x, weight) * 1.02)
    with pytest.raises(SystemExit, match=r"own dense, 200 x 456, 1 tokens: error .* exceeds"):
        gpu_linear.check(200, 456, 1, 0.5, device)


def test_attention_that_was_timed_becomes_a_measurement_that_compare_reads(checks, tmp_path):
    import gpu_record

    from xmsim.reports.collection import load
    from xmsim.workloads.measurement import Host, Timing, read_measurement

    timing = {name: 4.0 for name in Timing.__dataclass_fields__} | {"n": 50}
    shape = {"tokens": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "bfloat16", **timing}
    error = {"error": 1e-3, "largest_error": 0.01, "allowed_error": 0.02}
    rows = [
        {"name": "copy", "rate": 1.0},
        {"phase": "decode", "kernel": "torch cudnn_attention", "kv_density": 1.0, **shape},
        {"phase": "decode", "kernel": "own dense", "kv_density": 1.0, **shape, **error},
        {"phase": "decode", "kernel": "own xm", "kv_density": 0.1, **shape, **error},
        {"phase": "decode", "kernel": "own xm, prediction alone", "kv_density": 0.1, **shape},
        {"phase": "prefill", "kernel": "torch flash_attention", **shape},
        {"phase": "prefill", "kernel": "own, list given", "live_tiles": 0.2, **shape, **error},
        {"phase": "prefill", "kernel": "torch flash_attention", **shape, "median_ms": 5.0},
        {"phase": "mask", "kernel": "own xm mask, 1:2 4 bits", "density": 0.13, **shape},
    ]
    host = Host("a cpu", 1, (), 1, "a gpu", "Linux", "3.12", {})
    decode, prefill = gpu_record.write_measurements(tmp_path, rows, host)
    runs = read_measurement(decode).runs
    assert [(run.operation, run.method, run.query_tokens, run.density) for run in runs] == [
        ("dense attention", "dense", 1, 1.0),
        ("dense attention", "dense", 1, 1.0),
        ("sparse attention", "xm", 1, 0.1),
        ("mask", "xm", 1, 0.1),
    ]
    assert (runs[1].max_error, runs[1].allowed_error, runs[0].max_error) == (0.01, 0.02, None)
    runs = read_measurement(prefill).runs
    assert [run.backend for run in runs] == ["torch flash_attention", "own, list given, 20% of tiles live", "own xm mask, 1:2 4 bits"]
    assert runs[0].timing.median_ms == 4.0 and runs[1].query_tokens == 4096
    for path in (decode, prefill):
        assert len(load([path]).measured[0].record.runs) >= 3
