"""What a report asks models of machines and hosts. It holds none itself: whoever calls hands them in, or the report leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.costs import Costs
from xmsim.configs.errors import RecordError
from xmsim.sim.result import SimulationRecord
from xmsim.workloads.measuring.host_check_record import CrossCheckRecord


@dataclass(frozen=True, slots=True)
class Models:
    """Functions of records."""

    layer_costs: Callable[[SimulationRecord], Mapping[int, Costs]]  # by layer; empty: not estimated, or with other tables than today's
    costs_at_node: Callable[[SimulationRecord, float, float], Costs | None]
    """Of the whole record as if its machine were made at this node (nm) and voltage (V); None where that cannot be estimated."""
    cross_check: Callable[[Path, Sequence[Path]], CrossCheckRecord | None]
    """What a host's constants predict of measured kernels.

    Of a host check its own runs; of a calibration those records, of the others given, that were measured on its processor. None: no such
    record is among them.
    """


def _no_costs(record: SimulationRecord) -> Mapping[int, Costs]:
    return {}


def _no_costs_at_node(record: SimulationRecord, node_nm: float, voltage_v: float) -> Costs | None:
    return None


def _no_predictions(constants: Path, measured: Sequence[Path]) -> CrossCheckRecord | None:
    raise RecordError(f"{constants}: to predict from these constants a model of the host is needed; use xmsim calibrate --predict first")


NO_MODELS = Models(_no_costs, _no_costs_at_node, _no_predictions)


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions beside measurements, and the file they come from."""

    path: Path
    software: str
    record: CrossCheckRecord
