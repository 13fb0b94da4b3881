"""Psum/softmax unit and SRAM against golden vectors."""

import csv
from pathlib import Path

import numpy as np

from xmsim.accel_models.dynax_psum_softmax import partial_sum, row_share
from xmsim.accel_models.dynax_sram import UNDEFINED, trace_sram

GOLDEN = Path(__file__).parents[1] / "golden"


def rows_of(name):
    with (GOLDEN / name).open() as file:
        return [{key: int(value) if value else UNDEFINED for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_psum_softmax_unit_equals_the_golden_vectors():
    rows = rows_of("dynax_rtl_psum_softmax.csv")
    assert {row["s"] for row in rows} == {0, 1} and len(rows) == 180
    for row in rows:
        if row["s"]:
            result = row_share(row["add1"], row["add2"], row["exp"], row["bits"], row["point"])
        else:
            result = partial_sum(row["add1"], row["add2"], row["bits"]), 0
        assert result == (row["out"], row["en"]), row


def test_the_sram_shows_what_the_golden_trace_shows_as_released_and_as_repaired():
    rows = rows_of("dynax_rtl_sram.csv")
    address, data, write, released, repaired = (
        np.array([row[name] for row in rows]) for name in ("addr", "data_in", "write", "out_released", "out_repaired")
    )
    trace = trace_sram(address, data, write, banks=4, words=8)
    assert np.array_equal(trace.released, released) and np.array_equal(trace.repaired, repaired)
    assert (released != repaired).any()
