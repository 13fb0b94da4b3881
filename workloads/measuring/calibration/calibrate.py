"""Calibration of this host: every constant of the model, in less than a minute."""

from __future__ import annotations

from collections.abc import Callable

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels import native
from xmsim.workloads.measuring.calibration.core_rates import CoreRates
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, Constant
from xmsim.workloads.measuring.calibration.whole_calls import whole_call_constants
from xmsim.workloads.measuring.host import available_cores, describe_host

WIDE_SPREAD = 0.2  # of the median, between the quartiles


def calibrate(threads: tuple[int, ...] | None = None, progress: Callable[[Constant], None] = lambda constant: None) -> CalibrationRecord:
    """Measure this host's constants; its threads are bound to cores meanwhile.

    Args:
        threads: numbers of threads to know constants for; one and all cores by default.
        progress: is told every constant when it is known.
    Raises:
        XmsimError: no AVX-512 kernels or no torch here, or more threads than cores.
    """
    try:
        import torch
    except ImportError as error:
        raise XmsimError("calibrate: torch's dense kernels are the baseline and torch is missing; pip install 'xmsim[capture]'") from error
    cores = available_cores()
    counts = tuple(sorted(set(threads or (1, cores))))
    if not 1 <= counts[0] <= counts[-1] <= cores:
        raise XmsimError(f"threads: {', '.join(map(str, counts))} is not possible here; choose 1 to {cores}")
    before = torch.get_num_threads()
    torch.set_num_threads(counts[-1])
    native.default_threads()  # shares torch's threads, before they are bound
    constants: list[Constant] = []
    try:
        with native.pinned_threads(counts[-1]):
            rates = CoreRates(counts)
            for source in (rates.all(), whole_call_constants(counts)):
                for constant in source:
                    constants.append(constant)
                    progress(constant)
    finally:
        torch.set_num_threads(before)
    return CalibrationRecord(describe_host(), rates.caches, counts, tuple(constants))


def unsteady(record: CalibrationRecord) -> tuple[Constant, ...]:
    """Constants whose middle half spreads over more than a fifth of the median: other programs ran, and they are not to be trusted."""
    return tuple(one for one in record.constants if one.third_quartile_ns - one.first_quartile_ns > WIDE_SPREAD * one.median_ns)
