"""The component tables of configs/technology, and what a machine says of its own technology."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from xmsim.configs.costs import Bar
from xmsim.configs.errors import ConfigError, nearest
from xmsim.configs.files import open_table
from xmsim.configs.schema import Config, PositiveFloat, PositiveInt, read_config

Row = TypeVar("Row")
LEAST_NUMBER = 1e-12  # in a table, and its reciprocal the greatest: what lies beyond is no unit's
YARDSTICK = ("integer_mac", 16)  # what areas of our own RTL are multiples of
NodeNm = Annotated[float, Field(ge=1, le=1000)]
Voltage = Annotated[float, Field(ge=0.1, le=10)]
SramCell = Literal["itrs-hp", "itrs-lop", "itrs-lstp"]  # high performance, low operating power, low standby power


def _ascending(limits: tuple[float, float, float]) -> tuple[float, float, float]:
    if not limits[0] <= limits[1] <= limits[2]:
        raise ValueError("low, nominal and high must ascend")
    return limits


Limits = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], AfterValidator(_ascending)]  # low, nominal, high


class TechnologyConfig(Config):
    """What a machine is made in; `dram`, a kind of configs/dram, prices DRAM that the machine has as a line."""

    node_nm: NodeNm
    voltage_v: Voltage
    sram_cell: SramCell
    dram: str


class LogicRow(Config):
    """A component of one width: energy of one operation, area and leakage of one instance."""

    bits: PositiveInt
    node_nm: NodeNm
    voltage_v: Voltage
    energy_pj: Limits
    area_um2: Limits
    leakage_uw: Limits
    source: str
    area_source: str | None = None  # where the area has one more than the others


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


class Ratio(Config):
    """A factor without a unit."""

    ratio: Limits
    source: str


class DramTable(Config):
    """What prices DRAM that a machine has as a line, besides its kind in configs/dram."""

    activations_per_row: Ratio


class OverheadTable(Config):
    """What no inventory lists, as a ratio to what it adds up to."""

    logic_area: Ratio
    logic_energy: Ratio


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


@cache
def technology_tables() -> TechnologyTables:
    """The tables that come with xmsim."""
    folder = Path(str(files("xmsim.configs"))) / "technology"
    logic = read_config(folder / "logic.yaml", LogicTable)
    return TechnologyTables(
        logic=with_rtl_areas(logic, read_rtl_areas(folder / "rtl_areas.csv")),
        sram=read_config(folder / "sram.yaml", SramTable),
        sram_grid=read_sram_grid(folder / "sram_grid.csv"),
        dram=read_config(folder / "dram.yaml", DramTable),
        overhead=read_config(folder / "overhead.yaml", OverheadTable),
    )


def read_rtl_areas(path: Path) -> dict[tuple[str, int], float]:
    """Areas that make_rtl_areas.py wrote, {(component, bits): multiples of the 16-bit multiply-accumulate unit's}.

    Raises:
        ConfigError: not readable, or not such a table.
    """
    return dict(_rows(path, lambda row: ((row["component"], int(row["bits"])), _positive(row["of_mac_16_bit"]))))


def with_rtl_areas(table: LogicTable, areas: Mapping[tuple[str, int], float]) -> LogicTable:
    """The table with a synthesised area as one more source of a row's: the limits hold both, and nominal is their geometric mean."""
    component, bits = YARDSTICK
    yardstick_um2 = next(row.area_um2[1] for row in table.components[component] if row.bits == bits)

    def with_area(component: str, row: LogicRow) -> LogicRow:
        if (component, row.bits) not in areas:
            return row
        ratio = areas[component, row.bits]
        low, nominal, high = row.area_um2
        rtl = ratio * yardstick_um2
        limits = (min(low, rtl), (nominal * rtl) ** 0.5, max(high, rtl))
        return row.model_copy(
            update={"area_um2": limits, "area_source": f"{row.source}; own RTL, {ratio:.3g} of a 16-bit MAC (docs/rtl.md)"}
        )

    components = {component: [with_area(component, row) for row in rows] for component, rows in table.components.items()}
    return table.model_copy(update={"components": components})


def read_sram_grid(path: Path) -> dict[SramCell, dict[SramKey, SramPoint]]:
    """The grid that make_sram_grid.py wrote.

    Raises:
        ConfigError: not readable, or not such a table.
    """
    grid: dict[SramCell, dict[SramKey, SramPoint]] = {}
    for cell, key, point in _rows(path, _sram_row):
        grid.setdefault(cell, {})[key] = point
    return grid


def _sram_row(row: dict[str, str]) -> tuple[SramCell, SramKey, SramPoint]:
    cell: SramCell = row["cell"]  # type: ignore[assignment] # the script writes no other
    key = (int(row["node_nm"]), int(row["bank_bytes"]), int(row["port_bits"]), int(row["banks"]))
    return cell, key, SramPoint(*(_positive(row[name]) for name in ("read_pj", "write_pj", "leakage_mw", "area_mm2", "access_ns")))


def _rows(path: Path, read: Callable[[dict[str, str]], Row]) -> list[Row]:
    """What `read` makes of each row of a table that a script of this folder wrote."""
    try:
        return [read(row) for row in csv.DictReader(open_table(path))]
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a table that a script of configs/technology wrote ({error!r}); make it again") from error


def _positive(text: str) -> float:
    value = float(text)
    if not LEAST_NUMBER <= value <= 1 / LEAST_NUMBER:
        raise ValueError(f"{text} lies beyond {LEAST_NUMBER:g} to {1 / LEAST_NUMBER:g}")
    return value


def bar(limits: Limits) -> Bar:
    """Limits of a table as a Bar."""
    return Bar(*limits)
