import pytest

from xmsim.configs.errors import ConfigError
from xmsim.configs.technology_tables import technology_tables
from xmsim.sim.dram_energy import DramWork, kind_of_line
from xmsim.sim.dram_preset import load_preset, shipped_kinds

HBM2 = load_preset("hbm2_2000")


def picojoules(work):
    return sum(term.nominal for term in work.terms())


def test_a_channel_with_banks_costs_its_activations_bits_and_refreshes():
    energy = HBM2.energy
    by_hand = 2 * energy.activate_pj[1] + 256 * energy.read_pj_per_bit[1] + 64 * energy.write_pj_per_bit[1] + energy.refresh_pj[1]
    assert picojoules(DramWork(HBM2, {"activate": 2, "row_hit": 9, "read_bits": 256, "write_bits": 64, "refresh": 1})) == pytest.approx(
        by_hand
    )


def test_a_line_costs_the_bits_the_rows_and_the_refreshes_of_its_kind():
    work = DramWork.of_line(HBM2, 32, read_bytes=3000, write_bytes=1000, milliseconds=0.039)
    assert work.actions == pytest.approx({"activate": 4000 / 1024, "read_bits": 24000, "write_bits": 8000, "refresh": 2 * 10})
    reopened = technology_tables().dram.activations_per_row.ratio[1]
    energy = HBM2.energy
    assert picojoules(work) == pytest.approx(
        reopened * 4000 / 1024 * energy.activate_pj[1]
        + 24000 * energy.read_pj_per_bit[1]
        + 8000 * energy.write_pj_per_bit[1]
        + 20 * energy.refresh_pj[1]
    )


@pytest.mark.parametrize("kind", shipped_kinds())
def test_a_line_and_banks_have_one_price_list(kind):
    preset, work = load_preset(kind), {"activate": 1, "read_bits": 1, "write_bits": 1, "refresh": 1}
    of_banks = [term.factors[0] for term in DramWork(preset, work).terms()]
    of_line = [term.factors[0] for term in DramWork.of_line(preset, 1, 1, 1, 1).terms()]
    assert of_banks == of_line and all(factor.source for factor in of_line)


def test_hbm2_lies_around_the_published_energy_of_a_bit_with_its_activations():
    """3.92 pJ, of which 1.21 are activations: O'Connor et al., MICRO 2017."""
    actions = {"read_bits": 1.0, "activate": 1.21 / HBM2.energy.activate_pj[1]}
    low, high = (
        sum(actions.get(term.part, 0) * getattr(term.factors[0].value, end) for term in DramWork(HBM2, actions).terms())
        for end in ("low", "high")
    )
    assert low < 3.92 < high
    assert picojoules(DramWork(HBM2, actions)) == pytest.approx(3.92, rel=0.25)


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"technology\.dram: no kind of DRAM hbm2; did you mean hbm2"):
        kind_of_line("hbm2")
