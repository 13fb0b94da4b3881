"""What must hold of the area and the energy of every shipped machine, and of its bytes when it gets more SRAM."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmsim.accel_models import load_accelerator, shipped_accelerators
from xmsim.accel_models.errors import WorkloadError
from xmsim.sim.costs import LEAKAGE
from xmsim.workloads.attention import AttentionWorkload

every_machine = pytest.mark.parametrize("name", shipped_accelerators())


@st.composite
def workloads(draw):
    tokens, heads = draw(st.integers(1, 200)), draw(st.sampled_from([1, 4]))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    keep = np.tril(random.random((heads, tokens, tokens)) < draw(st.sampled_from([0.05, 0.3, 1.0])))
    return AttentionWorkload.from_keep(keep, head_dim=64, kv_heads=draw(st.sampled_from([1, heads])))


def with_config(machine, **update):
    return type(machine)(machine.name, machine.config.model_copy(update=update))


def buffers(config, path=()):
    """Where a configuration says how many bytes a buffer has."""
    for name, value in config:
        if hasattr(value, "model_dump"):
            yield from buffers(value, (*path, name))
        elif name.endswith("buffer_bytes"):
            yield (*path, name), value


def resized(config, path, value):
    if len(path) == 1:
        return config.model_copy(update={path[0]: value})
    return config.model_copy(update={path[0]: resized(getattr(config, path[0]), path[1:], value)})


@every_machine
@settings(max_examples=8, deadline=None)
@given(workload=workloads())
def test_more_sram_never_raises_dram_bytes(name, workload):
    machine = load_accelerator(name)
    found = list(buffers(machine.config))
    assert found
    for path, shipped in found:
        sizes = []
        for size in (shipped // 64, shipped // 8, shipped, 8 * shipped):
            try:
                result = type(machine)("other", resized(machine.config, path, size)).simulate(workload)
            except WorkloadError:  # too small for one tile
                assert size < shipped
                continue
            sizes.append(sum(result.traffic["dram"].values()))
        assert sizes == sorted(sizes, reverse=True), path


@every_machine
@settings(max_examples=5, deadline=None)
@given(workload=workloads())
def test_halving_the_clock_leaves_the_dynamic_energy_as_it_is(name, workload):
    def dynamic(clock_mhz):
        machine = with_config(load_accelerator(name), clock_mhz=clock_mhz)
        result = machine.simulate(workload)
        costs = machine.costs(result.actions, result.traffic, result.latency_ms)
        on_chip = [term for term in costs.on_chip_energy.terms if not term.part.endswith(LEAKAGE)]
        return on_chip, [term for term in costs.dram_energy.terms if term.part != "refresh"]

    shipped_mhz = load_accelerator(name).config.clock_mhz
    assert dynamic(shipped_mhz) == dynamic(shipped_mhz / 2)


@every_machine
@settings(max_examples=5, deadline=None)
@given(first=workloads(), second=workloads())
def test_energy_and_area_add_up_over_units_and_runs(name, first, second):
    machine = load_accelerator(name)
    results = [machine.simulate(workload) for workload in (first, second)]

    def added(pick):
        one, other = (pick(result) for result in results)
        return {unit: {key: count + other[unit][key] for key, count in counts.items()} for unit, counts in one.items()}

    alone = [machine.nominal_costs(result.actions, result.traffic, result.latency_ms) for result in results]
    time_ms = sum(result.latency_ms for result in results)
    both = machine.costs(added(lambda result: result.actions), added(lambda result: result.traffic), time_ms)
    for quantity, parts in (
        (both.on_chip_energy, [one.on_chip_energy_pj for one in alone]),
        (both.dram_energy, [one.dram_energy_pj for one in alone]),
        (both.area, [alone[0].area_mm2]),
    ):
        assert quantity.total.nominal == pytest.approx(sum(parts))
        assert quantity.total.nominal == pytest.approx(sum(unit.nominal for unit in quantity.by_unit.values()))


@every_machine
@settings(max_examples=5, deadline=None)
@given(workload=workloads())
def test_the_heads_of_a_layer_add_up_to_its_energy(name, workload):
    machine = load_accelerator(name)
    result = machine.simulate(workload)
    whole = machine.nominal_costs(result.actions, result.traffic, result.latency_ms)
    heads = [machine.nominal_costs(head.actions, head.traffic, head.latency_ms) for head in result.heads]
    assert sum(head.on_chip_energy_pj for head in heads) == pytest.approx(whole.on_chip_energy_pj)
    assert sum(head.dram_energy_pj for head in heads) == pytest.approx(whole.dram_energy_pj)
