"""The difference of two results as a file: `xmsim diff` writes it, and people and programs read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xmsim.configs.codec import encode, json_key
from xmsim.configs.record import write_record

DIFFERENCE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two results."""

    file: str
    machine: str
    method: str
    clock_mhz: float
    total_cycles: int
    total_ms: float
    total_energy_pj: int | None  # of chip and DRAM, nominal; None: not estimated


@dataclass(frozen=True, slots=True)
class CycleStep:
    """One step of the waterfall from B to A."""

    cause: str
    a_cycles: int | None  # None: the step is a part of "useful MACs", which the two sides do not have one by one
    b_cycles: int | None
    step_cycles: int  # A − B; all steps add up to the difference of the totals


@dataclass(frozen=True, slots=True)
class EnergyStep:
    """One unit, which only one of the machines may have, or all units of a phase."""

    phase: str
    unit: str
    a: int = field(metadata=json_key("a_pj"))
    b: int = field(metadata=json_key("b_pj"))
    step: int = field(metadata=json_key("step_pj"))  # A − B, nominal; all steps add up to the difference of the totals
    step_low: float = field(metadata=json_key("step_low_pj"))  # 5th percentile
    step_high: float = field(metadata=json_key("step_high_pj"))  # 95th


@dataclass(frozen=True, slots=True)
class Difference:
    """Why A needs fewer or more cycles and energy than B."""

    a: Side
    b: Side
    trace: dict[str, str]
    cycles: tuple[CycleStep, ...]
    energy: tuple[EnergyStep, ...]  # by unit; empty: not estimated for both
    phases: tuple[EnergyStep, ...]  # the same by phase, `unit` empty
    notes: tuple[str, ...]


def write_difference(path: Path, difference: Difference) -> None:
    """Write a difference file, whole or not at all."""
    write_record(path, "difference", DIFFERENCE_VERSION, encode(difference))
