import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.machine_file import shipped_accelerators
from xmsim.workloads.attention import AttentionWorkload


@pytest.mark.parametrize("name", shipped_accelerators())
def test_every_shipped_machine_has_an_area_and_prices_what_it_does(name):
    machine = load_accelerator(name)
    keep = np.tril(np.ones((1, 256, 256), bool))
    result = machine.simulate(AttentionWorkload.from_keep(keep, head_dim=64))
    costs = machine.costs(result.actions, 1000, result.latency_ms)
    assert costs.area.total.low < costs.area.total.nominal < costs.area.total.high
    priced = {term.unit for term in costs.on_chip_energy.terms if not term.part.endswith("leakage")}
    counted = {unit for unit, counts in result.actions.items() if any(counts.values())}
    assert counted <= priced
    assert sum(unit.nominal for unit in costs.area.by_unit.values()) == pytest.approx(costs.area.total.nominal)


def test_arrays_have_as_many_multipliers_as_published():
    def macs(name):
        return {(part.unit, part.bits): part.instances for part in load_accelerator(name).area().parts if part.component == "integer_mac"}

    assert macs("dynax_s") == {("prediction_array", 4): 1024, ("execute_array", 16): 512}
    assert macs("dynax_l") == {("prediction_array", 6): 2048, ("execute_array", 16): 2048}
    assert macs("salo")["pe_array", 9] == 1088
    assert macs("salo_v2") == {("pe_array", 9): 776, ("matching_array", 4): 4096}
    assert macs("sanger") == {("prediction_array", 4): 4096, ("execute_array", 16): 1024}
