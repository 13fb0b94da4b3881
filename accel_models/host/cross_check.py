"""Predicted against measured: every run of some records, with the host's constants as calibrated and as that minute had them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xmsim.accel_models.host.constants import HostConstants, MissingConstantError, load_host
from xmsim.accel_models.host.host_run import predict
from xmsim.accel_models.host.measured_runs import measured_runs
from xmsim.accel_models.host.run_shape import check_run
from xmsim.configs.errors import XmsimError
from xmsim.configs.record import record_kind
from xmsim.workloads.measuring.host_check_record import (
    CALIBRATED,
    GIVEN_MINUTE,
    CheckedRun,
    CrossCheckRecord,
    HostRun,
    LeftOut,
    read_host_check,
)


def cross_check(records: Sequence[Path], host: str | Path | None = None) -> CrossCheckRecord:
    """Predict the runs of records of one host.

    Args:
        records: host checks, benchmarks of kernels, generations.
        host: constants, as `load_host` takes them; None: those of the first host check among the records.
    Raises:
        RecordError, ConfigError: a file cannot be used.
        XmsimError: no record, no constants, or records of different processors.
    """
    if not records:
        raise XmsimError("cross-check: no record was given; name files of measured kernels")
    constants = load_host(host) if host is not None else _own_constants(records)
    runs: list[CheckedRun] = []
    left_out: list[LeftOut] = []
    described = None
    for path in records:
        measured_on, measured, left = measured_runs(path)
        described = described or measured_on
        if measured_on.cpu != described.cpu:
            raise XmsimError(f"{path}: measured on {measured_on.cpu}, {records[0]} on {described.cpu}; check one host at a time")
        left_out.extend(left)
        for run in measured:
            try:
                check_run(run, str(path))
                runs.extend(checked(constants, run, path.name))
            except MissingConstantError as error:
                left_out.append(LeftOut(path.name, series_name(run), str(error)))
    assert described is not None
    return CrossCheckRecord(constants.name, constants.validated, described, tuple(runs), tuple(left_out))


def checked(constants: HostConstants, run: HostRun, source: str) -> tuple[CheckedRun, ...]:
    """A run with its prediction, and where its minute is known, with the prediction that this minute's constants give."""
    views = {CALIBRATED: constants}
    if run.minute.read_line_ns is not None:
        views[GIVEN_MINUTE] = constants.drifted(
            core=run.minute.core_drift or 1.0, memory_line_ns=run.minute.read_line_ns, threads=run.threads
        )
    predictions = {view: predict(host, run) for view, host in views.items()}
    timing = run.timing
    return tuple(
        CheckedRun(
            source=source,
            operation=run.operation,
            kernel=run.kernel,
            element=run.element,
            threads=run.threads,
            shape=run.shape,
            constants=view,
            measured_ms=timing.median_ms,
            first_quartile_ms=timing.first_quartile_ms,
            third_quartile_ms=timing.third_quartile_ms,
            predicted_ms=prediction.ms,
            bound_by=prediction.bound_by,
        )
        for view, prediction in predictions.items()
    )


def series_name(run: HostRun) -> str:
    """A run in words."""
    shape = ", ".join(f"{key} {value}" for key, value in run.shape.items())
    return f"{run.operation}, {run.kernel} {run.element}, {run.threads} threads, {shape}"


def _own_constants(records: Sequence[Path]) -> HostConstants:
    for path in records:
        if record_kind(path) == "host_check":
            return HostConstants.of_calibration(read_host_check(path).calibration, path.stem)
    raise XmsimError(
        "cross-check: none of the records has a calibration in it; calibrate this host (xmsim calibrate --out host.json) and name it"
    )
