"""xmsim explain: where an estimated number of a result comes from, down to the rows of the component tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xmsim.configs.errors import XmsimError, nearest


def explain(
    result: Annotated[Path, typer.Argument(help="A result file that xmsim simulate wrote.")],
    field: Annotated[str, typer.Argument(help="area_mm2, on_chip_energy_pj, dram_energy_pj, energy_pj or power_mw; or FIELD.UNIT.")],
) -> None:
    """Print the derivation of an area, an energy or a power: every term, its factors, their bars and sources."""
    from xmsim.cli.tables import bar_text, table_console, terms_table
    from xmsim.sim.result import read_result

    record = read_result(result)
    costs = record.costs
    if costs is None:
        raise XmsimError(f"{result}: holds no estimate of area and energy; give the machine's YAML a technology, and simulate it again")
    name, _, unit = field.partition(".")
    energy = {"energy on chip": costs.on_chip_energy, "energy of DRAM": costs.dram_energy}
    fields = {
        "area_mm2": (costs.area.total, "mm²", {"area": costs.area}),
        "on_chip_energy_pj": (costs.on_chip_energy.total, "pJ", {"energy on chip": costs.on_chip_energy}),
        "dram_energy_pj": (costs.dram_energy.total, "pJ", {"energy of DRAM": costs.dram_energy}),
        "energy_pj": (costs.energy, "pJ", energy),
        "power_mw": (costs.power, "mW", {"energy on chip": costs.on_chip_energy}),
    }
    if name not in fields:
        raise XmsimError(f"explain: no field {name} is estimated; {nearest(name, list(fields))}")
    total, sign, quantities = fields[name]
    units = [of_quantity for quantity in quantities.values() for of_quantity in quantity.by_unit]
    if unit and unit not in units:
        raise XmsimError(f"explain: {name} has no unit {unit}; {nearest(unit, units)}")
    console = table_console()
    if name == "power_mw":
        time_ms = record.milliseconds(record.cycles)
        console.print(f"power {bar_text(total)} mW = energy on chip / {time_ms:.4g} ms, of which:", highlight=False)
    elif not unit:
        console.print(f"{name} {bar_text(total)} {sign}, nominal and distance to the 5th and 95th percentile", highlight=False)
    for label, quantity in quantities.items():
        if not unit or unit in quantity.by_unit:
            measure = "mm²" if label == "area" else "pJ"
            console.print(terms_table(f"{record.machine.name}, {label} in {measure}", quantity, unit))
    for note in costs.notes:
        console.print(f"note: {note}", highlight=False)
