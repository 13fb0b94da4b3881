"""The stall autopsy: every cycle of every unit has one reason, and the shares that are shown add up to 100.0."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmsim.cli import main
from xmsim.cli.autopsy import tenths_of_a_percent, unit_account
from xmsim.sim.result import read_result

RECORD = Path(__file__).resolve().parents[1] / "golden" / "records" / "result.v3.json"


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12))
def test_shares_add_up_to_the_whole_and_are_off_by_less_than_a_tenth(cycles):
    shares, whole = tenths_of_a_percent(cycles), sum(cycles)
    assert sum(shares) == (1000 if whole else 0)
    assert all(abs(share * whole - 1000 * part) < whole for share, part in zip(shares, cycles, strict=True) if whole)


def test_the_account_of_a_unit_is_all_its_servers_cycles():
    record = read_result(RECORD)
    for unit in record.runs[0].result.servers:
        whole = sum(run.result.servers[unit] * run.result.cycles for run in record.runs)
        assert unit_account(record.runs, unit).total() == whole


def explained(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["xmsim", "explain", str(RECORD), "cycles", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    return shown.out if stopped.value.code == 0 else shown.err


@pytest.mark.parametrize("words", [(), ("--layer", "0")])
def test_explain_cycles_prints_a_row_a_unit_that_ends_in_a_hundred(monkeypatch, capsys, words):
    text = explained(monkeypatch, capsys, *words)
    for unit in read_result(RECORD).runs[0].result.servers:
        assert re.search(rf"^ *{unit.replace('_', ' ')} .* 100\.0 *$", text, re.M), text


@pytest.mark.parametrize(("words", "said"), [(("--head", "0"), "belong to no head"), (("--layer", "99"), "99")])
def test_what_has_no_account_is_refused(monkeypatch, capsys, words, said):
    assert said in explained(monkeypatch, capsys, *words)
