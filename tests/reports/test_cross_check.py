"""What a cross-check says of errors, and how it is drawn."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError
from xmsim.reports.cross_check import ALL, accuracies, accuracy, coverage, markdown, write_report
from xmsim.reports.figures.predicted_against_measured import predicted_against_measured
from xmsim.workloads.measurement import Host
from xmsim.workloads.measuring.host_check_record import CALIBRATED, GIVEN_MINUTE, CheckedRun, CrossCheckRecord, LeftOut

HOST = Host("a processor", 2, (), 1 << 34, "", "Linux 6.1 x86_64", "3.11.7", {})


def checked(measured_ms: float, predicted_ms: float, *, kernel: str = "dense", constants: str = CALIBRATED) -> CheckedRun:
    shape = {"in_features": 64, "out_features": 64, "tokens": 1, "sparsity": 0.5}
    return CheckedRun(
        "a.json", "linear", kernel, "bfloat16", 2, shape, constants, measured_ms, measured_ms, measured_ms, predicted_ms, "memory"
    )


def record(*runs: CheckedRun, left_out: int = 0) -> CrossCheckRecord:
    return CrossCheckRecord("this host", True, HOST, runs, tuple(LeftOut("a.json", f"series {i}", "no model") for i in range(left_out)))


def test_bias_keeps_signs_and_the_mean_does_not() -> None:
    found = accuracy(CALIBRATED, ALL, [0.1, -0.1, 0.3, -0.3])
    assert (found.bias, found.mean, found.p95, found.n) == (0, pytest.approx(0.2), 0.3, 4)


def test_the_95th_percentile_leaves_out_one_of_twenty() -> None:
    assert accuracy(CALIBRATED, ALL, [0.01] * 19 + [0.9]).p95 == 0.01
    assert accuracy(CALIBRATED, ALL, [0.01] * 18 + [0.9] * 2).p95 == 0.9


def test_constants_and_kernels_are_told_apart() -> None:
    runs = (checked(1, 1.2), checked(1, 0.9, kernel="torch"), checked(1, 1.0, constants=GIVEN_MINUTE))
    rows = {(row.constants, row.series): row for row in accuracies(record(*runs))}
    assert rows[CALIBRATED, ALL].n == 2 and rows[GIVEN_MINUTE, ALL].n == 1
    assert rows[CALIBRATED, "linear, torch bfloat16"].bias == pytest.approx(-0.1)


def test_coverage_counts_a_run_once() -> None:
    runs = (checked(1, 1), checked(2, 2), checked(1, 1, constants=GIVEN_MINUTE))
    assert coverage(record(*runs, left_out=2)) == 0.5


def test_stated_constants_are_called_not_validated() -> None:
    stated = replace(record(checked(1, 1.5), left_out=3), validated=False, model="h200")
    assert "stated and not validated" in markdown(stated) and "3 series not predicted: no model" in markdown(stated)
    assert "not validated" in predicted_against_measured(stated).claim


def test_the_claim_counts_points_in_the_band() -> None:
    claim = predicted_against_measured(record(checked(1, 1.19), checked(1, 0.79))).claim
    assert "1 of 2 as calibrated" in claim


def test_table_figure_and_its_data_are_written(tmp_path: Path) -> None:
    runs = (checked(1, 1.1), checked(3, 2.9, kernel="torch"), checked(1, 1.0, constants=GIVEN_MINUTE))
    table, image, data = write_report(record(*runs), tmp_path)
    assert "| as calibrated | all | 2 | +3.3 % | 6.7 % | 10.0 % |" in table.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO(data.read_text())))
    assert [row["constants"] for row in rows] == [CALIBRATED, CALIBRATED, GIVEN_MINUTE]
    assert float(rows[0]["error"]) == pytest.approx(0.1)


def test_nothing_predicted_is_said() -> None:
    with pytest.raises(RecordError, match="none of the measured runs can be predicted"):
        predicted_against_measured(record(left_out=2))
