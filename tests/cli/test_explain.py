from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xmsim.cli import main
from xmsim.sim.result import read_result

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
