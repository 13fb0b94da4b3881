import importlib.util
import json
import os
from math import prod
from pathlib import Path

import pytest

from xmsim.configs.schema import read_config
from xmsim.configs.technology_tables import LogicTable, read_rtl_areas, technology_tables

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "technology"
RTL_AREAS = FOLDER.parents[1] / "reports" / "measured" / "rtl_areas_osu018.json"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_sram_grid, make_rtl_areas = script("make_sram_grid"), script("make_rtl_areas")


def test_the_grid_holds_every_point_of_the_script_that_made_it():
    grid = technology_tables().sram_grid
    assert set(grid) == set(make_sram_grid.CELLS)
    axes = (make_sram_grid.NODES_NM, make_sram_grid.BANK_BYTES, make_sram_grid.PORT_BITS, make_sram_grid.BANKS)
    points = prod(map(len, axes))
    assert {len(of_cell) for of_cell in grid.values()} == {points}


@pytest.mark.skipif("XMSIM_CACTI" not in os.environ, reason="XMSIM_CACTI names no CACTI; make_sram_grid.py says how to get one")
@pytest.mark.parametrize("point", [(45, "itrs-lop", 8192, 128, 1), (22, "itrs-hp", 2048, 32, 4), (32, "itrs-lstp", 32768, 512, 1)])
def test_cacti_gives_the_numbers_of_the_grid(point):
    node_nm, cell, *rest = point
    found = make_sram_grid.query(Path(os.environ["XMSIM_CACTI"]), *point)
    stored = technology_tables().sram_grid[cell][(node_nm, *rest)]
    assert found == pytest.approx((stored.read_pj, stored.write_pj, stored.leakage_mw, stored.area_mm2, stored.access_ns), rel=1e-4)


@pytest.mark.parametrize("component", ["integer_multiplier", "integer_mac"])
def test_every_width_of_the_machines_has_a_row(component):
    assert [row.bits for row in technology_tables().logic_rows(component)] == [4, 6, 8, 16]


def test_the_areas_of_our_rtl_are_those_of_its_record():
    made = {(component, bits): float(area) for component, bits, area, _ in make_rtl_areas.rtl_areas(json.loads(RTL_AREAS.read_text()))}
    assert made == read_rtl_areas(FOLDER / "rtl_areas.csv")


def test_every_row_with_a_synthesised_unit_lies_between_both_sources_of_its_area_and_no_other_row_moves():
    of_unit, first = read_rtl_areas(FOLDER / "rtl_areas.csv"), read_config(FOLDER / "logic.yaml", LogicTable).components
    yardstick_um2 = next(row.area_um2[1] for row in first["integer_mac"] if row.bits == 16)
    for component, rows in technology_tables().logic.components.items():
        for row, alone in zip(rows, first[component], strict=True):
            if (component, row.bits) not in of_unit:
                assert row == alone
                continue
            synthesised = of_unit[component, row.bits] * yardstick_um2
            assert row.area_um2[1] == pytest.approx((alone.area_um2[1] * synthesised) ** 0.5)
            assert row.area_um2[0] == min(alone.area_um2[0], synthesised) and row.area_um2[2] == max(alone.area_um2[2], synthesised)
            assert "own RTL" in row.area_source and row.source == alone.source and row.energy_pj == alone.energy_pj


def test_the_components_that_an_inventory_may_name():
    named = {"adder", "comparator", "register", "mux", "exp_unit", "divider", "top_k_cell", "float16_mac", "bfloat16_mac"}
    assert named < set(technology_tables().logic.components)
