import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.machine_file import shipped_accelerators
from xmsim.workloads.attention import AttentionWorkload

every_machine = pytest.mark.parametrize("name", shipped_accelerators())


def priced_actions(machine):
    inventory = machine.area()
    of_parts = {(part.unit, action) for part in inventory.parts for action in part.uses}
    return of_parts | {(access.unit, access.action) for memory in inventory.memories for access in memory.accesses}


@every_machine
def test_every_shipped_machine_has_an_area_with_a_bar(name):
    machine = load_accelerator(name)
    area = machine.costs({}, {}, 0.0).area
    assert area.total.low < area.total.nominal < area.total.high


@every_machine
@pytest.mark.parametrize("projections", ["none", "simulated"])
def test_every_action_that_a_machine_counts_has_a_price(name, projections):
    machine = load_accelerator(name)
    machine = type(machine)(name, machine.config.model_copy(update={"projections": projections}))
    keep = np.tril(np.ones((1, 256, 256), bool))
    counted = machine.simulate(AttentionWorkload.from_keep(keep, head_dim=64)).actions
    assert {(unit, action) for unit, counts in counted.items() for action, count in counts.items() if count} <= priced_actions(machine)


@every_machine
def test_every_part_and_memory_works_in_an_action_that_the_machine_counts(name):
    machine = load_accelerator(name)
    keep = np.tril(np.ones((1, 256, 256), bool))
    counted = machine.simulate(AttentionWorkload.from_keep(keep, head_dim=64)).actions
    assert all(counted[unit][action] > 0 for unit, action in priced_actions(machine))
    inventory = machine.area()
    assert all(part.uses for part in inventory.parts) and all(memory.accesses for memory in inventory.memories)


@every_machine
@pytest.mark.parametrize("projections", ["none", "simulated"])
def test_what_comes_from_dram_is_written_into_a_buffer(name, projections):
    machine = load_accelerator(name)
    machine = type(machine)(name, machine.config.model_copy(update={"projections": projections}))
    keep = np.tril(np.random.default_rng(0).random((4, 200, 200)) < 0.2)
    result = machine.simulate(AttentionWorkload.from_keep(keep, head_dim=64, kv_heads=2))
    loaded = ("query_buffer", "key_buffer", "kv_buffer")
    assert sum(result.actions.get(unit, {}).get("write_bytes", 0) for unit in loaded) == result.traffic["dram"]["read_bytes"]


def test_the_merge_of_salo_multiplies_twice_adds_once_and_divides_for_two_weights_a_row():
    """Passes of 33 rows (one of them global) and 64 channels, each merged."""
    machine = load_accelerator("salo")
    result = machine.simulate(AttentionWorkload.from_keep(np.ones((1, 64, 64), bool), head_dim=64, causal=False))
    rows = machine.config.pe_array.rows + machine.config.pe_array.global_rows
    passes = result.metrics["passes"]
    actions = result.actions
    assert actions["weighted_sum"] == {"mac": passes * 2 * rows * 64, "divide": passes * 2 * rows}
    assert actions["pe_array"]["divide"] == passes * rows
    energy = machine.costs(actions, result.traffic, result.latency_ms).on_chip_energy
    counts = {term.part: term.count for term in energy.terms if term.unit == "weighted_sum"}
    assert counts["integer_multiplier 18-bit, mac"] == 2 * counts["adder 18-bit, mac"] == passes * 2 * rows * 64


def test_arrays_have_as_many_multipliers_as_published():
    def macs(name):
        return {(part.unit, part.bits): part.instances for part in load_accelerator(name).area().parts if part.component == "integer_mac"}

    assert macs("dynax_s") == {("prediction_array", 4): 1024, ("execute_array", 16): 512}
    assert macs("dynax_l") == {("prediction_array", 6): 2048, ("execute_array", 16): 2048}
    assert macs("salo")["pe_array", 9] == 1088
    assert macs("salo_v2") == {("pe_array", 9): 776, ("matching_array", 4): 4096}
    assert macs("sanger") == {("prediction_array", 4): 4096, ("execute_array", 16): 1024}
