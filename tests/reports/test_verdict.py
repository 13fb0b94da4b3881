"""The first screen: which accelerator, how much faster than what you have, why, and how sure; every word from the files."""

from __future__ import annotations

import pytest

from xmsim.reports.collection import collect
from xmsim.reports.verdict import HOW_MUCH, HOW_SURE, WHICH, WHY, verdict


def answers(files):
    return {one.question: one.answer for one in verdict(collect(files))}


@pytest.fixture
def machines(simulated, estimated):
    return [
        simulated("s.json", costs=estimated(area_mm2=1.0, chip_uj=5.0)),
        simulated("l.json", machine="dynax_l", head_cycles=1000, costs=estimated(area_mm2=8.0, chip_uj=4.8, own=3.0)),
        simulated("d.json", machine="dense", method="dense", head_cycles=9000, costs=estimated(area_mm2=4.0, chip_uj=9.0)),
    ]


def test_four_questions_are_answered_from_the_numbers(machines, measured):
    said = answers([*machines, measured("m.json")])
    assert list(said) == [WHICH, HOW_MUCH, WHY, HOW_SURE]
    assert said[WHICH].startswith("dynax_l is the fastest: 9.00× dense and needs the least energy")
    assert "dynax_s is the fastest for its size: 18.0" in said[WHICH]  # 4.5 times with a quarter of the area
    # 6 ms of dense, 4.5 ms of sparse with its mask, 13,200 cycles at 500 MHz
    assert "dynax_l needs 0.0264 ms (simulated) where sparse attention xm takes 4.50 ms" in said[HOW_MUCH]
    assert "170× (153 to 188), raw milliseconds of different technologies" in said[HOW_MUCH]
    assert "sparse attention xm is 1.33× as fast as dense, its mask made too" in said[HOW_MUCH]
    assert "no other order of its jobs would gain more than 2.00×" in said[WHY] and "%" in said[WHY]
    assert "dynax_l over dynax_s by energy of chip and DRAM (" in said[HOW_SURE] and "% of draws)" in said[HOW_SURE]
    assert "cost in accuracy is not known here" in said[HOW_SURE] and "Decoding was not simulated." in said[HOW_SURE]


def test_what_is_missing_is_said_with_the_way_to_it(machines, measured):
    assert "Not known: no measurement of the same prefill is here." in answers(machines)[HOW_MUCH]
    assert "No accelerator was simulated" in answers([measured("m.json")])[HOW_MUCH]
    assert answers(machines[:1])[WHICH].startswith("Only dynax_s was simulated: 0.0528 ms.")


def test_a_sample_of_heads_is_an_estimate_and_says_so(simulated):
    assert "an estimate from a sample of heads" in answers([simulated("s.json", sampled_of=4)])[HOW_SURE]


def test_a_machine_is_not_said_to_be_one_times_itself(simulated):
    said = answers([simulated("a.json", machine="a", head_cycles=2000), simulated("b.json", machine="b", head_cycles=3000)])
    assert said[WHICH] == "a is the fastest."
