from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.recorded_costs import head_costs, of_layer, record_costs
from xmsim.cli import main
from xmsim.sim.result import PREFILL, LayerRun, SimulationRecord, read_result, write_result
from xmsim.workloads.attention import AttentionWorkload

RECORDS = Path(__file__).resolve().parents[1] / "golden" / "records"
RESULT = RECORDS / "result.v3.json"


def explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["xmsim", "explain", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    return shown.out if stopped.value.code == 0 else shown.err


@pytest.mark.parametrize("field", ["area_mm2", "on_chip_energy_pj", "dram_energy_pj", "energy_pj", "power_mw"])
def test_every_estimated_field_is_derived_down_to_its_source(monkeypatch, capsys, field):
    shown = " ".join(explained(monkeypatch, capsys, RESULT, field).split())
    assert ("LPDDR4 less a fifth" in shown) == (field in ("dram_energy_pj", "energy_pj"))
    assert ("Stillmaker-Baas" in shown) == (field != "dram_energy_pj")


def test_a_unit_is_explained_alone(monkeypatch, capsys):
    shown = explained(monkeypatch, capsys, RESULT, "area_mm2.execute_array")
    assert "integer_mac" in shown and "kv_buffer" not in shown


def test_terms_of_a_record_multiply_out_to_its_totals():
    record = read_result(RESULT)
    costs = record.costs
    for quantity in (costs.area, costs.on_chip_energy, costs.dram_energy):
        assert sum(term.nominal for term in quantity.terms) == pytest.approx(quantity.total.nominal)
    assert costs.power.nominal == pytest.approx(costs.on_chip_energy.total.nominal / (1e6 * record.milliseconds(record.cycles)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((RESULT, "area"), "no field area is estimated; did you mean area_mm2?"),
        ((RESULT, "area_mm2.kv_bufer"), "area_mm2 has no unit kv_bufer; did you mean kv_buffer?"),
        ((RECORDS / "result.v2.json", "area_mm2"), "holds no estimate of area and energy"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_sentence(monkeypatch, capsys, words, sentence):
    assert sentence in explained(monkeypatch, capsys, *words)


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory) -> Path:
    """A result of two layers of two heads each, of different density."""
    machine = load_accelerator("dynax_s")
    runs = []
    for layer, density in enumerate((0.1, 0.5)):
        keep = np.tril(np.random.default_rng(layer).random((2, 200, 200)) < density)
        result = machine.simulate(AttentionWorkload.from_keep(keep, head_dim=64))
        runs.append(LayerRun(layer, 0, 200, 200, 64, 2, result))
    source = {"path": "", "sha256": "", "model": "", "text": ""}
    record = SimulationRecord(machine.facts(), {"name": "xm_32"}, "native", PREFILL, source, "compiled", None, tuple(runs))
    path = tmp_path_factory.mktemp("results") / "dynax_s.json"
    write_result(path, replace(record, costs=record_costs(machine, record)))
    return path


def test_layers_add_up_to_the_record_and_heads_to_the_layer(two_layers):
    record, machine = read_result(two_layers), load_accelerator("dynax_s")
    layers = [record_costs(machine, of_layer(record, layer)) for layer in (0, 1)]
    assert sum(costs.energy.nominal for costs in layers) == pytest.approx(record.costs.energy.nominal)
    heads = [head_costs(machine, of_layer(record, 1), head)[0] for head in (0, 1)]
    assert sum(costs.energy.nominal for costs in heads) == pytest.approx(layers[1].energy.nominal)


@pytest.mark.parametrize("field", ["on_chip_energy_pj", "dram_energy_pj", "energy_pj", "power_mw"])
def test_a_layer_and_a_head_are_explained_as_the_whole_is(monkeypatch, capsys, two_layers, field):
    def first_number(*words):
        shown = explained(monkeypatch, capsys, two_layers, field, *words)
        assert "O'Connor" not in shown and ("Stillmaker-Baas" in " ".join(shown.split())) == (field != "dram_energy_pj")
        return float(re.search(r"[\d.]+", shown.removeprefix(field))[0]), shown

    (whole, _), (layer, of_layer_1), (head, of_head) = first_number(), first_number("--layer", 1), first_number("--layer", 1, "--head", 0)
    assert "dynax_s, layer 1, energy" in of_layer_1 and "dynax_s, layer 1, head 0, energy" in of_head
    assert head != layer != whole


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("energy_pj", "--layer", 2), "no layer 2 in the record; it has 0, 1"),
        (("energy_pj", "--layer", 1, "--head", 2), "no head 2 in the record; it has 0, 1"),
        (("energy_pj", "--head", 0), "--head 0 is a head of a layer; give --layer, too"),
        (("area_mm2", "--layer", 0), "the area is the machine's and not a layer's"),
    ],
)
def test_a_part_that_is_not_there_is_said_in_one_sentence(monkeypatch, capsys, two_layers, words, sentence):
    assert sentence in explained(monkeypatch, capsys, two_layers, *words)


def test_a_record_of_other_tables_is_explained_as_a_whole_only(monkeypatch, capsys, two_layers, tmp_path):
    record = read_result(two_layers)
    moved = replace(record.costs, energy=replace(record.costs.energy, nominal=1.01 * record.costs.energy.nominal))
    write_result(tmp_path / "old.json", replace(record, costs=moved))
    assert "other tables" in explained(monkeypatch, capsys, tmp_path / "old.json", "energy_pj", "--layer", 0)
    assert "dynax_s, energy on chip" in explained(monkeypatch, capsys, tmp_path / "old.json", "energy_pj")
