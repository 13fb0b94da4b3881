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
    assert gpu_attention.check_prefill(4, 2, 128, 0.5, device) > 0
    assert gpu_attention.check_decode(8, 2, 256, 0.1, device) > 0


def test_a_wrong_kernel_is_not_timed(checks, device, monkeypatch):
    gpu_linear, _ = checks
    right = linear.dense_linear
    monkeypatch.setattr(linear, "dense_linear", lambda x, weight: right(x, weight) * 1.02)
    with pytest.raises(SystemExit, match=r"own dense, 200 x 456, 1 tokens: error .* exceeds"):
        gpu_linear.check(200, 456, 1, 0.5, device)
