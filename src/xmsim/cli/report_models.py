"""The models of machines and hosts that reports ask, and are handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isclose
from pathlib import Path

from xmsim.accel_models.accelerator import Accelerator
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
    machine = _estimated_alike(record)
    if machine is None:
        return {}
    found = {layer: record_costs(machine, of_layer(record, layer)) for layer in dict.fromkeys(run.layer for run in record.runs)}
    return {layer: costs for layer, costs in found.items() if costs is not None}


def costs_at_node(record: SimulationRecord, node_nm: float, voltage_v: float) -> Costs | None:
    """As `Models.costs_at_node` says: logic is scaled, memories are taken from the grid at that node; cells, clock and DRAM stay."""
    if _estimated_alike(record) is None:
        return None
    technology = {**record.machine.config["technology"], "node_nm": node_nm, "voltage_v": voltage_v}
    moved = replace(record.machine, config={**record.machine.config, "technology": technology})
    try:
        return record_costs(recorded_accelerator(moved), record)
    except ConfigError:
        return None


def _estimated_alike(record: SimulationRecord) -> Accelerator | None:
    """The machine of a record, if it comes with xmsim and today's tables say of it what the record says; else None."""
    if record.costs is None:
        return None
    try:
        machine = recorded_accelerator(record.machine)
        whole = record_costs(machine, record)
    except ConfigError:
        return None
    alike = whole is not None and isclose(whole.energy.nominal, record.costs.energy.nominal, rel_tol=1e-9)
    return machine if alike else None


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


REPORT_MODELS = Models(layer_costs, costs_at_node, predictions)
