import importlib.util
import os
from pathlib import Path

import pytest

from xmsim.configs.technology_tables import technology_tables

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "technology"
spec = importlib.util.spec_from_file_location("make_sram_grid", FOLDER / "make_sram_grid.py")
make_sram_grid = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_sram_grid)


def test_the_grid_holds_every_point_of_the_script_that_made_it():
    grid = technology_tables().sram_grid
    assert set(grid) == set(make_sram_grid.CELLS)
    script = make_sram_grid
    points = len(script.NODES_NM) * len(script.BANK_BYTES) * len(script.PORT_BITS) * len(script.BANKS)
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


def test_the_components_and_dram_kinds_that_an_inventory_may_name():
    tables = technology_tables()
    assert {"adder", "comparator", "register", "mux", "exp_unit", "divider", "top_k_cell", "float16_mac", "bfloat16_mac"} < set(
        tables.logic.components
    )
    assert set(tables.dram.kinds) == {"ddr4", "lpddr4", "lpddr5", "hbm2", "hbm2e", "hbm3"}
