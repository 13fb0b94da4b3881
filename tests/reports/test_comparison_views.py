"""Speed and energy at equal hardware, and how sure an order is, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xmsim.configs.costs import Bar, Costs, Factor, Term
from xmsim.reports.collection import collect, load
from xmsim.reports.comparison_views import (
    comparison_views,
    dense_gops,
    energy_ratios,
    equal_area,
    equal_peak,
    equal_power,
    node_sentences,
    papers_normalisation,
    raw,
)
from xmsim.reports.rank_stability import rank_sentences, rankings
from xmsim.reports.views import view_groups
from xmsim.sim.propagation import quantity

ONE_HEAD = {"layers": (0,), "heads": 1}


def group_of(*files):
    (group,) = view_groups(load(files))
    return group


@pytest.fixture
def pair(simulated, estimated):
    """dense: 12000 cycles at 1 GHz are 0.012 ms, 1024 GMAC/s, 0.5 mm²; dynax_s: 2000 at 500 MHz are 0.004 ms, 256 GMAC/s, 1 mm²."""
    facts = {"machine": "dense", "method": "dense", "head_cycles": 12000, "clock_mhz": 1000.0, "peak_macs_per_cycle": 1024}
    dense = simulated("d.json", costs=estimated(area_mm2=0.5, chip_uj=6.0, time_ms=0.012), **facts, **ONE_HEAD)
    return group_of(dense, simulated("s.json", costs=estimated(area_mm2=1.0, chip_uj=3.0, time_ms=0.004), **ONE_HEAD))


def test_every_view_scales_time_by_what_a_machine_has(pair):
    assert raw(pair).speedups["dynax_s"].nominal == pytest.approx(3)
    assert equal_peak(pair).speedups["dynax_s"].nominal == pytest.approx(12)
    assert equal_area(pair).speedups["dynax_s"].nominal == pytest.approx(1.5)
    assert equal_power(pair).speedups["dynax_s"].nominal == pytest.approx(2)  # half the energy on chip
    assert energy_ratios(pair).speedups["dynax_s"].nominal == pytest.approx(10 / 7)
    for view in comparison_views(pair):
        assert view.speedups["dense"].nominal == pytest.approx(1) and view.baseline == "dense"


def test_the_papers_view_is_that_of_128_multipliers_at_1_ghz_and_states_its_pitfalls(pair):
    view = papers_normalisation(pair)
    assert view.times_ms["dense"].nominal == pytest.approx(0.012 * 1024 / 128)
    assert view.times_ms["dynax_s"].nominal == pytest.approx(0.004 * 512 / 128 * 500 / 1000)
    assert view.speedups["dynax_s"] == equal_peak(pair).speedups["dynax_s"]
    said = " ".join(view.pitfalls)
    assert "clock is taken as free" in said and "those that predict or match do not count" in said


def test_effective_throughput_counts_two_operations_for_each_mac_of_the_dense_attention(pair):
    time_ms = 0.008
    assert dense_gops(pair.members[1], time_ms) == pytest.approx(2 * 2 * 256 * 256 * 64 / (time_ms * 1e-3) / 1e9)


def test_the_bar_of_a_ratio_holds_only_what_two_machines_do_not_share(simulated, estimated):
    dense = simulated("d.json", machine="dense", method="dense", costs=estimated(area_mm2=2.0))
    same_rows = group_of(dense, simulated("s.json", costs=estimated(area_mm2=1.0)))
    ratio = equal_area(same_rows).speedups["dynax_s"]
    assert ratio.low == pytest.approx(ratio.nominal) == pytest.approx(ratio.high)  # 3 times either way, but in both
    own_row = group_of(dense, simulated("s.json", costs=estimated(area_mm2=1.0, own=3.0)))
    ratio = equal_area(own_row).speedups["dynax_s"]
    assert ratio.low < 0.9 * ratio.nominal and ratio.high > 1.1 * ratio.nominal
    assert raw(own_row).speedups["dynax_s"] == Bar(1.0, 1.0, 1.0)


def test_without_estimates_area_power_and_energy_say_so_and_the_other_views_stay(simulated):
    group = group_of(simulated("d.json", machine="dense", method="dense"), simulated("s.json", area_mm2=5.0))
    assert equal_peak(group).speedups["dynax_s"].nominal == pytest.approx(1)
    for view in (equal_area(group), equal_power(group), energy_ratios(group)):
        assert not view.speedups and set(view.missing) == {"dense", "dynax_s"} and "technology" in view.missing["dense"]
    assert rankings(group) == () and rank_sentences(group) == ()


def test_energy_of_a_file_whose_runs_are_not_all_compared_is_left_out_and_its_area_is_not(simulated, estimated):
    group = group_of(simulated("all.json", costs=estimated()), simulated("two.json", machine="dynax_l", layers=(1, 2), costs=estimated()))
    assert set(equal_area(group).speedups) == {"dynax_s", "dynax_l"}
    assert set(equal_power(group).speedups) == {"dynax_l"}
    assert equal_power(group).missing["dynax_s"].startswith("the estimate is of all runs of its file")


def of_two_nodes(simulated, estimated, models):
    """dense at 28 nm and dynax_s at 56, both of 1 mm² and 4 µJ of DRAM, 6 µJ on chip; what `models` say of dynax_s at 28."""
    made = [
        {"config": {"clock_mhz": 500.0, "technology": {"node_nm": node, "voltage_v": volts}}} for node, volts in ((28.0, 0.9), (56.0, 1.1))
    ]
    large = replace(estimated(area_mm2=1.0), node_nm=56.0)
    files = [
        simulated("d.json", machine="dense", method="dense", costs=estimated(area_mm2=1.0), **made[0]),
        simulated("s.json", costs=large, **made[1]),
    ]
    (group,) = view_groups(collect(files, models).main)
    return group


def test_machines_of_two_nodes_stand_side_by_side_at_that_of_the_baseline(simulated, estimated, made_up_models):
    asked = []

    def smaller(record, node_nm, voltage_v):
        asked.append((record.machine.name, node_nm, voltage_v))
        return estimated(area_mm2=0.25, chip_uj=1.0)

    group = of_two_nodes(simulated, estimated, replace(made_up_models, costs_at_node=smaller))
    assert asked == [("dynax_s", 28.0, 0.9)]
    assert equal_area(group).speedups["dynax_s"].nominal == pytest.approx(4)  # as fast, a quarter of the area
    assert equal_power(group).speedups["dynax_s"].nominal == pytest.approx(6)
    assert energy_ratios(group).speedups["dynax_s"].nominal == pytest.approx(10 / 5)
    assert "At 28 nm, for which estimates are made anew of dynax_s (56 nm)" in " ".join(equal_area(group).pitfalls)
    assert {ranking.probabilities[1][0] for ranking in rankings(group)} == {1.0}


def test_a_machine_that_cannot_be_moved_to_the_node_of_the_others_is_named(simulated, estimated, made_up_models):
    group = of_two_nodes(simulated, estimated, made_up_models)  # which move nothing
    assert equal_area(group).speedups["dynax_s"].nominal == pytest.approx(1)
    assert node_sentences(group) == ("Not at one node, as no estimate at 28 nm can be made here: dynax_s (56 nm).",)


def test_an_order_that_shared_rows_decide_is_safe_however_wide_the_bars_are(simulated, estimated):
    group = group_of(
        simulated("d.json", machine="dense", method="dense", costs=estimated(chip_uj=6.0)),
        simulated("s.json", costs=estimated(chip_uj=5.9)),
    )
    energy, area, power = rankings(group)
    assert energy.probabilities[1][0] == power.probabilities[1][0] == 1.0  # 2 % less of the same rows is less in every draw
    assert area.probabilities[0][1] == 0.5  # equal in all: no order
    assert area.unsafe() == (("dense", "dynax_s", 0.5),)
    assert any("Native view: not safe by speed at equal area: dense over dynax_s (50 % of draws)" in line for line in rank_sentences(group))
    assert any("every ranking by energy of chip and DRAM and speed at equal power holds" in line for line in rank_sentences(group))


def test_the_chance_of_the_better_is_the_share_of_draws_in_which_it_is_better(simulated):
    def costs(name: str, value: float) -> Costs:
        def one(unit: str) -> tuple[Term, ...]:
            return (Term(unit, "part", 1.0, (Factor(name, Bar(value / 2, value, value * 2), "pJ", "made up"),)),)

        chip = quantity(one("array"))
        return Costs(chip, chip, quantity(()), chip.total, chip.total, 28.0, ())

    group = group_of(
        simulated("a.json", machine="a", costs=costs("row of a", 1.0)), simulated("b.json", machine="b", costs=costs("row of b", 1.1))
    )
    for ranking in rankings(group):
        better, worse = ranking.probabilities[0][1], ranking.probabilities[1][0]
        assert 0.55 < better < 0.8 and better + worse == pytest.approx(1)
        assert ranking.unsafe()[0][:2] == ("a", "b")
