"""A page stays small enough for a phone, whatever it is given; what goes is named, and is in the CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest

from xmsim.reports.collection import collect
from xmsim.reports.compare import contents_of
from xmsim.reports.long_table import collection_table
from xmsim.reports.page import page
from xmsim.reports.page_detail import MOST_PAGE_BYTES, STEPS, Detail, fitted


def test_a_page_of_many_machines_layers_and_heads_stays_below_3_megabytes_and_says_what_it_leaves_out(simulated, estimated):
    files = [
        simulated(f"{n}.json", machine=f"machine_{n}", layers=range(24), heads=32, costs=estimated(chip_uj=n + 1.0)) for n in range(14)
    ]
    collection = collect(files)
    text = page(contents_of(collection))
    assert len(text.encode()) <= MOST_PAGE_BYTES
    (said,) = re.findall(r"this page leaves out ([^<]*): report.csv has them", text)
    assert "the heads of each layer" in said
    rows = list(csv.DictReader(io.StringIO(collection_table(collection))))
    heads = {(row["machine"], row["layer"], row["head"]) for row in rows if row["head"]}
    assert len(heads) == 14 * 24 * 32
    assert sum("[a made-up table]" in row["basis"] for row in rows) > 14  # terms
    assert sum(row["unit"] == "probability" for row in rows) == 3 * 14 * 13


def test_a_small_page_leaves_out_nothing(simulated):
    text = page(contents_of(collect([simulated("one.json")])))
    assert "this page leaves out" not in text and "Layer 0: heads" in text


@pytest.mark.parametrize("most_bytes", [0, 45, 55, 95, 1000])
def test_detail_goes_step_by_step_then_the_largest_figure(most_bytes):
    def make(detail):
        parts = 6 - len(detail.left_out)
        figures = {"small": 10, "large": 30}
        return "x" * (10 * parts + sum(size for name, size in figures.items() if name not in detail.figures_left_out))

    text = fitted(make, [("small", 10), ("large", 30)], most_bytes)
    # 100 whole; a step takes 10, then the large figure 30
    assert len(text) == {0: 0, 45: 40, 55: 50, 95: 90, 1000: 100}[most_bytes]


def test_every_step_leaves_out_one_thing_more():
    detail, left = Detail(), 0
    for step in STEPS:
        detail = step(detail)
        assert len(detail.left_out) == (left := left + 1)
