"""What the command line tells a report about records: costs of layers, and predictions of hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.cli.report_models import costs_at_node, layer_costs, predictions

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RECORDS = GOLDEN / "records"


@pytest.fixture
def record():
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import simulate_trace
    from xmsim.traces.store import open_trace

    return simulate_trace(open_trace(GOLDEN / "trace_v2"), load_accelerator("dynax_s"))


def test_energies_of_the_layers_add_up_to_those_of_the_machine(record):
    layers = layer_costs(record)
    assert list(layers) == sorted({run.layer for run in record.runs}) and len(layers) > 1
    for name in ("on_chip_energy", "dram_energy"):
        whole = getattr(record.costs, name)
        assert sum(getattr(own, name).total.nominal for own in layers.values()) == pytest.approx(whole.total.nominal, rel=1e-9)
        for unit, value in whole.by_unit.items():
            assert sum(getattr(own, name).by_unit[unit].nominal for own in layers.values()) == pytest.approx(value.nominal, rel=1e-9)


def test_a_record_of_other_tables_or_of_none_has_no_energy_of_layers(record):
    energy = replace(record.costs.energy, nominal=1.01 * record.costs.energy.nominal)
    assert layer_costs(replace(record, costs=replace(record.costs, energy=energy))) == {}
    assert layer_costs(replace(record, costs=None)) == {}
    assert layer_costs(replace(record, machine=replace(record.machine, model="of_somebody_else"))) == {}


def test_at_its_own_node_a_machine_costs_what_its_record_says_and_at_a_smaller_one_less(record):
    technology = record.machine.config["technology"]
    assert costs_at_node(record, technology["node_nm"], technology["voltage_v"]).area.total == record.costs.area.total
    small = costs_at_node(record, 22.0, 0.8)
    assert small.node_nm == 22.0 and small.dram_energy.total == record.costs.dram_energy.total
    for name in ("area", "on_chip_energy"):
        assert all(own.nominal < getattr(record.costs, name).by_unit[unit].nominal for unit, own in getattr(small, name).by_unit.items())


def test_a_record_of_other_tables_or_a_node_beyond_them_moves_nowhere(record):
    energy = replace(record.costs.energy, nominal=1.01 * record.costs.energy.nominal)
    assert costs_at_node(replace(record, costs=replace(record.costs, energy=energy)), 22.0, 0.8) is None
    assert costs_at_node(record, 999.0, 0.8) is None


def test_a_calibration_predicts_the_records_of_its_own_processor_only(tmp_path):
    text = (RECORDS / "generation.v2.json").read_text()
    processor = read_cpu(RECORDS / "calibration.v1.json")
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    other.write_text(text)
    own.write_text(text.replace(read_cpu(RECORDS / "generation.v2.json"), processor))
    assert predictions(RECORDS / "calibration.v1.json", [other]) is None
    found = predictions(RECORDS / "calibration.v1.json", [other, own])
    assert found.host.cpu == processor and {one.source for one in (*found.runs, *found.left_out)} == {"own.json"}


def test_a_host_check_predicts_its_own_runs():
    found = predictions(RECORDS / "host_check.v1.json", [])
    assert {one.source for one in (*found.runs, *found.left_out)} == {"host_check.v1.json"}


def read_cpu(path):
    return json.loads(path.read_text())["host"]["cpu"]
