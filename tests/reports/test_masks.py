"""What tiles leave to skip, inside a comparison: from a file that `xmsim trace info --out` wrote."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from xmsim.configs.densities import Densities
from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reports.collection import collect
from xmsim.reports.compare import contents_of
from xmsim.reports.long_table import collection_table
from xmsim.reports.markdown import markdown_report
from xmsim.reports.masks import gpu_table, read_mask_file, tiles_table
from xmsim.reports.page import page
from xmsim.workloads.methods.mask_record import GpuPrediction, LayerMasks, MaskRecord, MaskStatistics, MethodMasks, write_masks

STATISTICS = MaskStatistics(
    densities=Densities(density=0.12, full_density=0.06, kv_density=0.2),
    empty_blocks=0.5,
    low_blocks=0.3,
    live_tiles=(0.5, 0.75),
    unions=(10.0, 40.0),
    group_live_tiles=(0.6,),
    group_unions=(14.5,),
    gather_turns=2.25,
    load_balance=0.7,
)


@pytest.fixture
def masks(tmp_path, simulated):
    """Writes statistics of the method of the fixture's machines, on its trace and its three layers."""
    trace = collect([simulated("first.json")]).simulated[0].record

    def write(name="masks.json", **changes):
        predicted = GpuPrediction(dense_ms=0.003, skipping_ms=0.002)
        layers = tuple(LayerMasks(layer, STATISTICS, predicted) for layer in (0, 1, 2))
        method = MethodMasks(trace.method, 64, layers)
        record = MaskRecord(trace.trace, windows=1, tile_rows=(1, 64), group_rows=(16,), gpu="h200", methods=(method,))
        write_masks(tmp_path / name, replace(record, **changes))
        return tmp_path / name

    return write


def test_page_text_and_table_hold_the_statistics_and_the_prediction_beside_the_machine(simulated, masks):
    contents = contents_of(collect([simulated("a.json"), masks()]))
    shown, text = page(contents), markdown_report(contents)
    assert 'id="section-what-tiles-leave-to-skip"' in shown and "no measurement validates" in shown
    for said in (shown, text):
        assert "masks.json" in said and "0.00900 ms" in said.replace("&nbsp;", " ") and "1.50×" in said
    rows = list(csv.DictReader(io.StringIO(collection_table(contents.collection))))
    live = [row for row in rows if row["metric"] == "live tiles of 64 queries"]
    assert [(row["layer"], float(row["value"]), row["source"]) for row in live] == [(str(layer), 0.75, "counted") for layer in (0, 1, 2)]
    predicted = [row for row in rows if row["source"] == "predicted, not validated"]
    assert {row["machine"] for row in predicted} == {"h200"} and len(predicted) == 6


def test_a_row_has_means_over_the_layers(masks):
    one = read_mask_file(masks())
    (row,), columns = tiles_table(one).rows, tiles_table(one).columns
    cells = dict(zip(columns, row, strict=True))
    assert (cells["β(64)"].value, cells["U(64)"].value, cells["turns of 8 banks"].value) == (0.75, 40, 2.25)
    assert cells["U(16), heads of a KV head"].text == "14.5"


def test_a_machine_stands_beside_the_prediction_of_its_own_method_layers_and_windows_alone(simulated, masks):
    comparison = collect([simulated("a.json")]).main
    (row,) = gpu_table(read_mask_file(masks()), comparison).rows
    assert row[-1].startswith(f"{comparison.simulated[0].label} ")
    (row,) = gpu_table(read_mask_file(masks("more.json", windows=2)), comparison).rows
    assert row[-1] == "none"


def test_without_a_gpu_there_is_no_prediction(masks):
    one = read_mask_file(masks(gpu=None))
    assert gpu_table(one, None) is None


def test_masks_of_another_trace_are_left_out_with_a_sentence(simulated, masks):
    path = masks(trace={"sha256": "b" * 64})
    collection = collect([simulated("a.json"), path])
    assert not collection.masks
    assert "masks.json: left out, its masks are those of another trace." in collection.left_out


def test_masks_alone_are_nothing_to_compare(masks):
    with pytest.raises(XmsimError, match=r"masks\.json alone cannot be compared; name files that simulate"):
        collect([masks()])


@pytest.mark.parametrize(
    ("field", "value"), [("live_tiles", (0.5, 1.5)), ("unions", (10.0,)), ("group_unions", (65.0,)), ("gather_turns", 9.0)]
)
def test_statistics_that_no_mask_has_are_refused(masks, tmp_path, field, value):
    layer = LayerMasks(3, replace(STATISTICS, **{field: value}), None)
    path = masks(methods=(MethodMasks({"name": "xm"}, 64, (layer,)),))
    with pytest.raises(RecordError, match=r"masks\.json: layer 3: a share, a union or a time is none"):
        read_mask_file(path)
