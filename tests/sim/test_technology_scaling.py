import pytest

from xmsim.configs.costs import Bar
from xmsim.configs.errors import ConfigError
from xmsim.sim.technology_scaling import (
    Operation,
    area_ratio,
    classical_energy,
    energy_ratio,
    stillmaker_baas_area,
    stillmaker_baas_energy,
    stillmaker_baas_energy_factor,
)


def test_the_example_of_the_authors_erratum_is_met():
    low, high = Operation(65, 1.3), Operation(32, 0.9)
    assert stillmaker_baas_energy_factor(high) == pytest.approx(0.4571, abs=5e-5)
    assert stillmaker_baas_energy_factor(low) == pytest.approx(2.604, abs=2e-3)
    assert stillmaker_baas_energy(low, high) == pytest.approx(0.1755, abs=2e-4)


def test_28_nm_lies_on_the_line_from_20_to_32():
    assert stillmaker_baas_area(45, 28) == pytest.approx(0.21 + 8 / 12 * 0.25)


def test_both_methods_are_the_limits_of_a_ratio():
    ratio = area_ratio(45, 28)
    assert (ratio.low, ratio.high) == (pytest.approx(0.3767, abs=1e-4), pytest.approx((28 / 45) ** 2))
    energies = energy_ratio(Operation(45, 0.9), Operation(28, 0.9))
    assert energies.high == pytest.approx(classical_energy(Operation(45, 0.9), Operation(28, 0.9)))
    assert energies.low < energies.nominal < energies.high


def test_nothing_changes_at_the_same_node_and_voltage():
    assert area_ratio(45, 45) == energy_ratio(Operation(45, 0.9), Operation(45, 0.9)) == Bar(1, 1, 1)


def test_a_node_without_rows_on_both_sides_is_refused():
    with pytest.raises(ConfigError, match="5 nm lies outside of 7 to 65 nm"):
        area_ratio(45, 5)
