"""The component tables of configs/technology, and what a machine says of its own technology."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from xmsim.configs.costs import Bar
from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.schema import Config, PositiveFloat, PositiveInt, read_config

SramCell = Literal["itrs-hp", "itrs-lop", "itrs-lstp"]  # high performance, low operating power, low standby power


def _ascending(limits: tuple[float, float, float]) -> tuple[float, float, float]:
    if not limits[0] <= limits[1] <= limits[2]:
        raise ValueError("low, nominal and high must ascend")
    return limits


Limits = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], AfterValidator(_ascending)]  # low, nominal, high


class TechnologyConfig(Config):
    """What a machine is made in; `dram`, a kind of configs/technology/dram.yaml, prices DRAM that the machine has as a line."""

    node_nm: PositiveFloat
    voltage_v: PositiveFloat
    sram_cell: SramCell
    dram: str


class LogicRow(Config):
    """A component of one width: energy of one operation, area and leakage of one instance."""

    bits: PositiveInt
    node_nm: PositiveFloat
    voltage_v: PositiveFloat
    energy_pj: Limits
    area_um2: Limits
    leakage_uw: Limits
    source: str


class LogicTable(Config):
    """Rows of each component, by ascending width."""

    components: dict[str, list[LogicRow]]
    between_rows: Limits  # ratio for a width that no row has
    beyond_rows: Limits  # ratio for a width below the least or above the greatest


class SramTable(Config):
    """Ratios that turn a number of the grid into one with a bar, and the voltage of each kind of cell by node."""

    read_and_write: Limits
    area: Limits
    leakage: Limits
    beyond_grid: Limits
    unpublished_size: Limits
    voltage_v: dict[SramCell, dict[str, PositiveFloat]]
    source: str


class DramKind(Config):
    """Energy of a bit that comes from or goes to DRAM, activations of streamed rows included."""

    node_nm: PositiveFloat
    voltage_v: PositiveFloat
    energy_pj_per_bit: Limits
    source: str


class DramTable(Config):
    """Kinds of DRAM."""

    kinds: dict[str, DramKind]


class Overhead(Config):
    """A ratio to what the inventory adds up to."""

    ratio: Limits
    source: str


class OverheadTable(Config):
    """What no inventory lists."""

    logic_area: Overhead
    logic_energy: Overhead


@dataclass(frozen=True, slots=True)
class SramPoint:
    """What CACTI says of one array: energies of an access, the rest of all banks together."""

    read_pj: float
    write_pj: float
    leakage_mw: float
    area_mm2: float
    access_ns: float


SramKey = tuple[int, int, int, int]  # node_nm, bank_bytes, port_bits, banks


@dataclass(frozen=True, slots=True)
class TechnologyTables:
    """All tables."""

    logic: LogicTable
    sram: SramTable
    sram_grid: Mapping[SramCell, Mapping[SramKey, SramPoint]]
    dram: DramTable
    overhead: OverheadTable

    def logic_rows(self, component: str) -> list[LogicRow]:
        """Rows of a component.

        Raises:
            ConfigError: no such component.
        """
        if component not in self.logic.components:
            raise ConfigError(f"logic.yaml: no component {component}; {nearest(component, list(self.logic.components))}")
        return self.logic.components[component]

    def dram_kind(self, name: str) -> DramKind:
        """A kind of DRAM.

        Raises:
            ConfigError: no such kind.
        """
        if name not in self.dram.kinds:
            raise ConfigError(f"technology.dram: no kind {name}; {nearest(name, list(self.dram.kinds))}")
        return self.dram.kinds[name]


@cache
def technology_tables() -> TechnologyTables:
    """The tables that come with xmsim."""
    folder = Path(str(files("xmsim.configs"))) / "technology"
    return TechnologyTables(
        logic=read_config(folder / "logic.yaml", LogicTable),
        sram=read_config(folder / "sram.yaml", SramTable),
        sram_grid=read_sram_grid(folder / "sram_grid.csv"),
        dram=read_config(folder / "dram.yaml", DramTable),
        overhead=read_config(folder / "overhead.yaml", OverheadTable),
    )


def read_sram_grid(path: Path) -> dict[SramCell, dict[SramKey, SramPoint]]:
    """The grid that make_sram_grid.py wrote."""
    grid: dict[SramCell, dict[SramKey, SramPoint]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cell: SramCell = row["cell"]  # type: ignore[assignment] # the script writes no other
            key = (int(row["node_nm"]), int(row["bank_bytes"]), int(row["port_bits"]), int(row["banks"]))
            numbers = (float(row[name]) for name in ("read_pj", "write_pj", "leakage_mw", "area_mm2", "access_ns"))
            grid.setdefault(cell, {})[key] = SramPoint(*numbers)
    return grid


def bar(limits: Limits) -> Bar:
    """Limits of a table as a Bar."""
    return Bar(*limits)
