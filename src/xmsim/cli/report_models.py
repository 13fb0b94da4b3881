"""The models of machines and hosts that reports ask, and are handed."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from pathlib import Path

from xmsim.accel_models.host.cross_check import cross_check
from xmsim.accel_models.host.measured_runs import measured_runs
from xmsim.accel_models.machine_file import recorded_accelerator
from xmsim.accel_models.recorded_costs import of_layer, record_costs
from xmsim.configs.costs import Costs
from xmsim.configs.errors import ConfigError
from xmsim.configs.record import record_kind
from xmsim.reports.models import Models
from xmsim.sim.result import SimulationRecord
from xmsim.workloads.measuring.calibration.record import read_calibration
from xmsim.workloads.measuring.host_check_record import CrossCheckRecord


def layer_costs(record: SimulationRecord) -> dict[int, Costs]:
    """Costs of each layer, made as those of the whole record were.

    Empty where that cannot be done again: nothing was estimated, the machine does not come with xmsim, or its tables have changed.
    """
    if record.costs is None:
        return {}
    try:
        machine = recorded_accelerator(record.machine)
        whole = record_costs(machine, record)
    except ConfigError:
        return {}
    if whole is None or not isclose(whole.energy.nominal, record.costs.energy.nominal, rel_tol=1e-9):
        return {}
    found = {layer: record_costs(machine, of_layer(record, layer)) for layer in dict.fromkeys(run.layer for run in record.runs)}
    return {layer: costs for layer, costs in found.items() if costs is not None}


def predictions(constants: Path, measured: Sequence[Path]) -> CrossCheckRecord | None:
    """As `Models.cross_check` says.

    Raises:
        RecordError, ConfigError: a file cannot be used.
    """
    if record_kind(constants) == "host_check":
        return cross_check([constants])
    processor = read_calibration(constants).host.cpu
    of_this_host = [path for path in measured if measured_runs(path)[0].cpu == processor]
    return cross_check(of_this_host, constants) if of_this_host else None


REPORT_MODELS = Models(layer_costs, predictions)
