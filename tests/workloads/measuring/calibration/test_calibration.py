"""Calibration: steps are told apart, samples do not hold what they should not, and the record comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.measuring.calibration import sampling
from xmsim.workloads.measuring.calibration.calibrate import calibrate, unsteady
from xmsim.workloads.measuring.calibration.core_rates import CoreRates, cache_bytes
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, Constant, read_calibration, write_calibration
from xmsim.workloads.measuring.host import describe_host

needs_avx512 = pytest.mark.skipif(native.offered_isa() not in ("avx512", "amx"), reason="the steps are those of AVX-512")


class Clock:
    """A host on which a pass takes 10 ns and a call 500 ns more."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def run(self, passes: int, threads: int = 1) -> None:
        self.now += 500 * threads + 10 * passes


def test_a_sample_is_long_enough_and_holds_no_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(sampling, "time", clock)
    begin = clock.now
    found = sampling.samples_ns(clock.run, steps=5, after=(2,), offset_ns=1000.0, samples=3)
    assert found == [2.0, 2.0, 2.0]  # 10 ns a pass of 5 steps
    assert clock.now - begin > 3 * sampling.SAMPLE_NS / 2


def test_caches_have_sizes_that_grow() -> None:
    sizes = cache_bytes()
    assert 0 < sizes["l1"] < sizes["l2"] < sizes["l3"]


@needs_avx512
def test_every_step_runs_and_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_NS", 100_000.0)
    monkeypatch.setattr("xmsim.workloads.measuring.calibration.core_rates.MEMORY_SAMPLES", 2)
    monkeypatch.setattr(
        "xmsim.workloads.measuring.calibration.core_rates.cache_bytes", lambda: {"l1": 1 << 15, "l2": 1 << 18, "l3": 1 << 20}
    )
    found = list(CoreRates((1,)).all())
    assert {one.name for one in found} >= {
        "fork",
        "read",
        "chase",
        "gather",
        "burst",
        "row",
        "expand",
        "chunk",
        "pack",
        "finish",
        "attend",
        "list",
        "exponential",
        "select",
        "predict",
        "select_xm",
        "classify_again",
        "rank_again",
    }
    assert all(one.median_ns > 0 and one.n > 1 and one.of["threads"] == 1 for one in found)
    assert len({(one.name, *sorted(map(str, one.of.items()))) for one in found}) == len(found)


@needs_avx512
def test_twelve_tokens_cost_more_than_one() -> None:
    rates = CoreRates((1,))
    rows = {(one.of["element"], one.of["stored"], one.of["group"], one.of["words"]): one.first_quartile_ns for one in rates.rows()}
    for element in ("float32", "bfloat16", "int8"):
        assert rows[element, "whole", 12, "few"] > 2 * rows[element, "whole", 1, "few"]


def test_spread_tells_a_host_that_is_busy() -> None:
    calm = Constant.of_samples("read", {"threads": 1}, "64-byte line", [1.0, 1.01, 1.02, 1.03])
    busy = Constant.of_samples("fork", {"threads": 1}, "call", [1.0, 1.0, 2.0, 9.0])
    assert unsteady(CalibrationRecord(describe_host(), cache_bytes(), (1,), (calm, busy))) == (busy,)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    one = Constant.of_samples("read", {"from": "l1", "threads": 1}, "64-byte line", [1.0, 2.0, 3.0])
    record = CalibrationRecord(describe_host(), cache_bytes(), (1, 2), (one,))
    write_calibration(tmp_path / "host.json", record)
    assert read_calibration(tmp_path / "host.json") == record
    (tmp_path / "other.json").write_text('{"format": "xmsim.result", "version": 1}')
    with pytest.raises(RecordError, match=r"other\.json: this is a xmsim\.result file"):
        read_calibration(tmp_path / "other.json")


def test_more_threads_than_cores_are_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(XmsimError, match="threads: 1, 4096 is not possible here"):
        calibrate((1, 4096))


def test_a_processor_without_avx512_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmsim.workloads.measuring.calibration.core_rates.offered_isa", lambda: "avx2")
    with pytest.raises(XmsimError, match="one of AVX-512, and the kernels offer avx2 here"):
        CoreRates((1,))
