"""xmsim explain: where an estimated number of a result comes from, down to the rows of the component tables, and where the cycles went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from xmsim.configs.errors import XmsimError, nearest

if TYPE_CHECKING:
    from xmsim.configs.costs import Costs
    from xmsim.sim.result import SimulationRecord


CYCLES = "cycles"


def explain(
    result: Annotated[Path, typer.Argument(help="A result file that xmsim simulate wrote.")],
    field: Annotated[
        str,
        typer.Argument(help="cycles; or area_mm2, on_chip_energy_pj, dram_energy_pj, energy_pj, power_mw, also as FIELD.UNIT."),
    ],
    layer: Annotated[int | None, typer.Option(help="Of this layer alone, with all its windows or decoded tokens.")] = None,
    head: Annotated[int | None, typer.Option(help="Of this query head of the layer alone.")] = None,
) -> None:
    """Print what every unit did in each cycle, or the derivation of an area, an energy or a power: terms, factors, bars and sources."""
    from xmsim.cli.tables import bar_text, table_console, terms_table
    from xmsim.sim.result import read_result

    record = read_result(result)
    if field == CYCLES:
        _print_autopsy(record, layer, head)
        return
    if record.costs is None:
        raise XmsimError(f"{result}: holds no estimate of area and energy; give the machine's YAML a technology, and simulate it again")
    scope = _Scope(record.machine.name, record.costs, record.milliseconds(record.cycles))
    name, _, unit = field.partition(".")
    if layer is not None or head is not None:
        scope = _part(result, record, name, layer, head)
    costs = scope.costs
    energy = {"energy on chip": costs.on_chip_energy, "energy of DRAM": costs.dram_energy}
    fields = {
        "area_mm2": (costs.area.total, "mm²", {"area": costs.area}),
        "on_chip_energy_pj": (costs.on_chip_energy.total, "pJ", {"energy on chip": costs.on_chip_energy}),
        "dram_energy_pj": (costs.dram_energy.total, "pJ", {"energy of DRAM": costs.dram_energy}),
        "energy_pj": (costs.energy, "pJ", energy),
        "power_mw": (costs.power, "mW", {"energy on chip": costs.on_chip_energy}),
    }
    if name not in fields:
        raise XmsimError(f"explain: no field {name} is estimated; {nearest(name, ['cycles', *fields])}")
    total, sign, quantities = fields[name]
    units = [of_quantity for quantity in quantities.values() for of_quantity in quantity.by_unit]
    if unit and unit not in units:
        raise XmsimError(f"explain: {name} has no unit {unit}; {nearest(unit, units)}")
    console = table_console()
    if name == "power_mw":
        console.print(f"power {bar_text(total)} mW = energy on chip / {scope.time_ms:.4g} ms, of which:", highlight=False)
    elif not unit:
        console.print(f"{name} {bar_text(total)} {sign}, nominal and distance to the 5th and 95th percentile", highlight=False)
    for label, quantity in quantities.items():
        if not unit or unit in quantity.by_unit:
            measure = "mm²" if label == "area" else "pJ"
            console.print(terms_table(f"{scope.title}, {label} in {measure}", quantity, unit))
    for note in costs.notes:
        console.print(f"note: {note}", highlight=False)


def _print_autopsy(record: SimulationRecord, layer: int | None, head: int | None) -> None:
    """Where the cycles of the units went, in a layer or in all.

    Raises:
        XmsimError: a head, whose idle time nobody can tell from others', or no such layer.
    """
    from xmsim.accel_models.recorded_costs import of_layer
    from xmsim.cli.autopsy import autopsy_table
    from xmsim.cli.tables import table_console

    if head is not None:
        raise XmsimError("explain: cycles are those of a layer's units, and idle ones belong to no head; leave --head out")
    runs = record.runs if layer is None else of_layer(record, layer).runs
    title = record.machine.name if layer is None else f"{record.machine.name}, layer {layer}"
    table_console().print(autopsy_table(title, runs))


class _Scope(NamedTuple):
    """What is explained: a whole record, a layer of it, or a head of a layer."""

    title: str
    costs: Costs
    time_ms: float


def _part(result: Path, record: SimulationRecord, name: str, layer: int | None, head: int | None) -> _Scope:
    """Costs of a layer or a head, estimated from the actions that the record holds for it, as those of the record were.

    Raises:
        XmsimError: a head without a layer, the area of a part, no such layer or head, or a record whose costs are not made again.
    """
    from math import isclose

    from xmsim.accel_models.machine_file import recorded_accelerator
    from xmsim.accel_models.recorded_costs import head_costs, of_layer, record_costs

    if layer is None:
        raise XmsimError(f"explain: --head {head} is a head of a layer; give --layer, too")
    if name == "area_mm2":
        raise XmsimError("explain: the area is the machine's and not a layer's; leave --layer and --head out")
    machine = recorded_accelerator(record.machine)
    whole, stored = record_costs(machine, record), record.costs
    assert stored is not None  # asked before
    if whole is None or not isclose(whole.energy.nominal, stored.energy.nominal, rel_tol=1e-9):
        raise XmsimError(f"{result}: was estimated with other tables than those of this xmsim; simulate it again to explain a part of it")
    part, title = of_layer(record, layer), f"{record.machine.name}, layer {layer}"
    if head is None:
        costs, time_ms = record_costs(machine, part), part.milliseconds(part.cycles)
    else:
        costs, time_ms = head_costs(machine, part, head)
        title += f", head {head}"
    assert costs is not None  # as the whole has them
    return _Scope(title, costs, time_ms)
