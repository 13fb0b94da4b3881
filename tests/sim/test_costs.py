from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xmsim.sim.costs
from xmsim.configs.costs import Bar, Factor, Term
from xmsim.configs.errors import ConfigError
from xmsim.configs.technology_tables import SramPoint, TechnologyConfig, technology_tables
from xmsim.sim.costs import estimate_costs, grid_axes, nominal_costs, sram_point
from xmsim.sim.dram_energy import DramWork
from xmsim.sim.dram_preset import load_preset
from xmsim.sim.inventory import ComponentCounts, Memory, Part
from xmsim.sim.propagation import probability_less, quantity, samples

AT_45_NM = TechnologyConfig(node_nm=45, voltage_v=0.9, sram_cell="itrs-lop", dram="hbm2_2000")
MACS = ComponentCounts((Part("array", "integer_mac", 8, 1000, {"mac": 1}),), ())
BOTH = ComponentCounts(MACS.parts, (Memory.of_width("buffer", 8192, 128),))
NO_DRAM = DramWork(load_preset("hbm2_2000"), {})
COUNTS = {"array": {"mac": 10**6}, "buffer": {"read_bytes": 16 * 1000, "write_bytes": 16 * 500}}


def test_area_and_energy_are_instances_and_actions_times_the_row():
    row = technology_tables().logic_rows("integer_mac")[2]
    over = technology_tables().overhead
    costs = estimate_costs(MACS, AT_45_NM, 500, COUNTS, NO_DRAM, time_ms=0)
    assert costs.area.total.nominal == pytest.approx(1000 * row.area_um2[1] * 1e-6 * over.logic_area.ratio[1])
    assert costs.on_chip_energy.total.nominal == pytest.approx(10**6 * row.energy_pj[1] * over.logic_energy.ratio[1])


def test_leakage_is_power_times_time():
    row = technology_tables().logic_rows("integer_mac")[2]
    costs = estimate_costs(MACS, AT_45_NM, 500, {}, NO_DRAM, time_ms=2)
    milliwatts = 1000 * row.leakage_uw[1] * 1e-3 * technology_tables().overhead.logic_area.ratio[1]
    assert costs.power.nominal == pytest.approx(milliwatts)
    assert costs.on_chip_energy.total.nominal == pytest.approx(2e6 * milliwatts)


def test_an_sram_of_the_grid_costs_what_cacti_says():
    point = technology_tables().sram_grid["itrs-lop"][45, 8192, 128, 1]
    costs = estimate_costs(BOTH, AT_45_NM, 500, COUNTS, NO_DRAM, time_ms=0)
    assert costs.area.by_unit["buffer"].nominal == pytest.approx(point.area_mm2)
    assert costs.on_chip_energy.by_unit["buffer"].nominal == pytest.approx(1000 * point.read_pj + 500 * point.write_pj)
    assert costs.notes == ()


def test_dram_takes_no_area_and_no_power_of_the_chip():
    work = DramWork(load_preset("hbm2_2000"), {"read_bits": 8 * 100})
    costs = estimate_costs(ComponentCounts((), ()), AT_45_NM, 500, {}, work, time_ms=1)
    assert costs.dram_energy.total.nominal == costs.energy.nominal > 0
    assert costs.area.total.nominal == costs.power.nominal == 0


def test_the_nominal_values_alone_are_those_of_the_estimate():
    work = DramWork(load_preset("hbm2_2000"), {"read_bits": 8 * 100, "activate": 3})
    both = [cost(BOTH, AT_45_NM, 500, COUNTS, work, 2.0) for cost in (estimate_costs, nominal_costs)]
    assert both[1].area_mm2 == pytest.approx(both[0].area.total.nominal)
    assert both[1].on_chip_energy_pj == pytest.approx(both[0].on_chip_energy.total.nominal)
    assert both[1].dram_energy_pj == pytest.approx(both[0].dram_energy.total.nominal)


def test_nominal_values_alone_need_no_draws(monkeypatch):
    def drawn(terms):
        raise AssertionError("a sweep of 10 000 points has no time for this")

    monkeypatch.setattr(xmsim.sim.costs, "samples", drawn)
    monkeypatch.setattr(xmsim.sim.costs, "quantity", drawn)
    assert nominal_costs(BOTH, AT_45_NM, 500, COUNTS, NO_DRAM, 1.0).area_mm2 > 0


@given(first=st.integers(0, 10**9), second=st.integers(0, 10**9))
def test_energy_is_additive_over_actions_and_units(first, second):
    def energy(macs):
        return estimate_costs(BOTH, AT_45_NM, 500, COUNTS | {"array": {"mac": macs}}, NO_DRAM, 0).on_chip_energy

    memory = energy(0).total.nominal
    both = energy(first + second)
    assert both.total.nominal + memory == pytest.approx(energy(first).total.nominal + energy(second).total.nominal)
    assert both.total.nominal == pytest.approx(sum(unit.nominal for unit in both.by_unit.values()))


@given(clock_mhz=st.floats(10, 900), time_ms=st.floats(1e-3, 1e3))
def test_halving_the_clock_leaves_dynamic_energy_unchanged(clock_mhz, time_ms):
    def dynamic(mhz, ms):
        terms = estimate_costs(BOTH, AT_45_NM, mhz, COUNTS, NO_DRAM, ms).on_chip_energy.terms
        return [term for term in terms if not term.part.endswith("leakage")]

    assert dynamic(clock_mhz, time_ms) == dynamic(clock_mhz / 2, 2 * time_ms)


@given(low=st.floats(0.1, 1), high=st.floats(1, 10), count=st.integers(1, 10**6))
def test_a_bar_lies_within_the_limits_of_its_only_factor(low, high, count):
    total = quantity([Term("a", "b", count, (Factor("f", Bar(low, 1, high), "pJ", ""),))]).total
    assert low * count <= total.low * (1 + 1e-9) and total.high <= high * count * (1 + 1e-9)
    assert total.low <= total.nominal * (1 + 1e-9) and total.nominal <= total.high * (1 + 1e-9)


def test_what_two_machines_share_does_not_decide_between_them():
    wide = Factor("multiplier", Bar(0.1, 1, 10), "pJ", "")
    assert probability_less([Term("a", "x", 10, (wide,))], [Term("b", "y", 11, (wide,))]) == 1
    other = replace(wide, name="divider")
    assert 0.4 < probability_less([Term("a", "x", 10, (wide,))], [Term("b", "y", 10, (other,))]) < 0.6


def test_equal_terms_have_equal_samples():
    term = Term("a", "x", 3, (Factor("multiplier", Bar(1, 2, 3), "pJ", ""),))
    assert np.array_equal(samples([term]), samples([term]))


def test_a_memory_slower_than_the_clock_is_refused():
    slow = ComponentCounts((), (Memory.of_width("buffer", 1 << 20, 128),))
    with pytest.raises(ConfigError, match=r"buffer: SRAM 4 × 131072 bytes, .* takes .* ns, a cycle at 1000 MHz 1.00"):
        estimate_costs(slow, AT_45_NM.model_copy(update={"sram_cell": "itrs-lstp"}), 1000, {}, NO_DRAM, 0)


def test_a_width_or_an_array_beyond_the_tables_widens_the_bar_and_says_so():
    outside = ComponentCounts((Part("array", "integer_mac", 32, 1, {}),), (Memory.of_width("buffer", 64, 16),))
    costs = estimate_costs(outside, AT_45_NM, 500, {}, NO_DRAM, 0)
    assert len(costs.notes) == 2 and all("bar widened" in note for note in costs.notes)
    inside = estimate_costs(ComponentCounts((Part("array", "integer_mac", 16, 1, {}),), ()), AT_45_NM, 500, {}, NO_DRAM, 0)
    relative = [one.area.by_unit["array"].high / one.area.by_unit["array"].nominal for one in (costs, inside)]
    assert relative[0] > relative[1]


def test_an_array_between_points_of_the_grid_is_interpolated_in_logarithms():
    grid = {
        (node, size, port, banks): SramPoint(size * port, 1, 1, node, 1)
        for node in (22, 32)
        for size in (2, 8)
        for port in (1, 4)
        for banks in (1, 4)
    }
    between = sram_point(grid, grid_axes(grid), (22, 4, 2, 1))
    assert (between.read_pj, between.area_mm2) == (pytest.approx(8), pytest.approx(22))


def test_an_unknown_component_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no component integer_mack; did you mean integer_mac"):
        estimate_costs(ComponentCounts((Part("a", "integer_mack", 8, 1, {}),), ()), AT_45_NM, 500, {}, NO_DRAM, 0)
