"""The rows behind the figures, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from xmsim.reports.collection import load
from xmsim.reports.figures.cycle_account import cycle_account
from xmsim.reports.figures.density_map import density_map
from xmsim.reports.figures.layer_latency import layer_latency
from xmsim.reports.figures.roofline import roofline
from xmsim.reports.figures.simulated_against_measured import simulated_against_measured
from xmsim.reports.figures.speedup_measured import speedup_measured
from xmsim.reports.figures.speedup_simulated import speedup_simulated
from xmsim.reports.totals import machine_totals
from xmsim.sim.result import read_result, write_result

ONE_HEAD = {"layers": (0,), "heads": 1}


def bar(figure, machine, normalisation):
    (row,) = [row for row in figure.rows if (row.machine, row.normalisation) == (machine, normalisation)]
    return row


def test_time_scales_with_peak_macs_and_with_the_estimated_area_whatever_was_published(simulated, estimated):
    figure = speedup_simulated(
        load(
            [
                # 2000 cycles at 500 MHz = 0.004 ms; peak 512 × 500 MHz = 256 GMAC/s
                simulated("s.json", machine="dynax_s", head_cycles=2000, costs=estimated(area_mm2=1.0), area_mm2=7.0, **ONE_HEAD),
                # 12000 cycles at 1000 MHz = 0.012 ms; peak 1024 × 1000 MHz = 1024 GMAC/s
                simulated(
                    "d.json",
                    machine="dense",
                    method="dense",
                    head_cycles=12000,
                    clock_mhz=1000.0,
                    peak_macs_per_cycle=1024,
                    costs=estimated(area_mm2=0.5),
                    area_mm2=None,
                    **ONE_HEAD,
                ),
            ]
        )
    )
    raw = bar(figure, "dynax_s", "raw")
    assert (raw.time_ms, raw.speedup, raw.baseline) == (pytest.approx(0.004), pytest.approx(3), "dense")
    peak = bar(figure, "dynax_s", "equal peak MACs")  # with 4 times its multipliers: 0.001 ms
    assert (peak.time_ms, peak.speedup) == (pytest.approx(0.001), pytest.approx(12))
    assert peak.reference == "1,024 GMAC/s, that of dense"
    area = bar(figure, "dynax_s", "equal area")  # with half its area: 0.008 ms
    assert (area.time_ms, area.speedup) == (pytest.approx(0.008), pytest.approx(1.5))
    for normalisation in ("raw", "equal peak MACs", "equal area"):
        assert bar(figure, "dense", normalisation).speedup == 1
        assert bar(figure, "dense", normalisation).time_ms == pytest.approx(0.012)


def test_a_machine_without_an_estimate_is_left_out_of_that_panel_with_the_reason(simulated, estimated):
    figure = speedup_simulated(
        load(
            [
                simulated("d.json", machine="dense", method="dense", area_mm2=3.0),
                simulated("s.json", machine="dynax_s", costs=estimated(area_mm2=1.0)),
                simulated("l.json", machine="dynax_l", costs=estimated(area_mm2=4.0)),
            ]
        )
    )
    unknown = bar(figure, "dense", "equal area")
    assert unknown.time_ms is None and unknown.speedup is None
    assert unknown.remark == "equal area not known: the machine's YAML has no technology"
    assert f"dense: {unknown.remark}." in figure.notes
    assert bar(figure, "dynax_l", "equal area").speedup == pytest.approx(0.25)  # as fast as dynax_s, with 4 times its area
    assert bar(figure, "dynax_l", "equal area").baseline == "dynax_s"


def test_the_claim_says_when_the_advantage_is_gone_at_equal_peak(simulated):
    dense = simulated("d.json", machine="dense", method="dense", head_cycles=4000, peak_macs_per_cycle=512)
    figure = speedup_simulated(load([dense, simulated("l.json", machine="dynax_l", head_cycles=2000, peak_macs_per_cycle=2048)]))
    assert "dynax_l 2.00× (0.500× at equal peak MACs)" in figure.claim
    assert "advantage of dynax_l is gone" in figure.claim


def test_views_never_share_a_bar_group(simulated):
    figure = speedup_simulated(
        load(
            [
                simulated("a.json", machine="dynax_s"),
                simulated("b.json", machine="dense", method="dense", head_cycles=9000),
                simulated("c.json", machine="dynax_s", method="xm", view="same mask", head_cycles=1000),
                simulated("d.json", machine="dense", method="xm", view="same mask", head_cycles=3000),
                simulated("e.json", machine="dense", method="topk", view="same mask", head_cycles=5000),
            ]
        )
    )
    groups: dict[str, set[tuple[str, str]]] = {}
    for row in figure.rows:
        groups.setdefault(row.view, set()).add((row.machine, row.method))
    assert groups == {
        "native view: each machine with its own method": {("dynax_s", "xm_32"), ("dense", "dense")},
        "same mask view: every machine given xm": {("dynax_s", "xm"), ("dense", "xm")},
        "same mask view: every machine given topk": {("dense", "topk")},
    }
    shared = [row for row in figure.rows if row.view.endswith("given xm") and row.normalisation == "raw"]
    assert {row.machine: row.speedup for row in shared} == {"dynax_s": pytest.approx(3), "dense": 1}  # 3000 / 1000, not 9000 / 1000


def test_the_fastest_dense_machine_is_the_baseline(simulated):
    figure = speedup_simulated(
        load(
            [
                simulated("slow.json", machine="dense", method="dense", head_cycles=9000),
                simulated("causal.json", machine="dense_causal", method="dense", head_cycles=5000),
                simulated("s.json"),
            ]
        )
    )
    assert {row.baseline for row in figure.rows if row.speedup} == {"dense_causal"}


def test_measured_speedup_is_shown_with_and_without_the_making_of_the_mask(measured):
    dense, given, made = speedup_measured(load([measured("cpu.json", dense_ms=2.0, sparse_ms=1.0, mask_ms=0.5)])).rows
    assert (dense.time_ms, dense.speedup, dense.n) == (6.0, 1.0, 20)  # three layers
    assert (given.time_ms, given.mask_ms, given.speedup) == (3.0, 0.0, 2.0)
    assert (made.time_ms, made.attention_ms, made.mask_ms) == (4.5, 3.0, 1.5)
    assert made.speedup == pytest.approx(4 / 3)
    assert made.first_quartile_ms == pytest.approx(0.9 * 4.5) and made.third_quartile_ms == pytest.approx(1.1 * 4.5)


def test_hosts_and_thread_counts_are_not_compared_with_each_other(measured):
    figure = speedup_measured(load([measured("one.json", threads=1, dense_ms=8.0), measured("two.json", threads=2)]))
    dense = [row for row in figure.rows if row.what == "dense attention"]
    assert {row.host: row.speedup for row in dense} == {
        "measured on Made-up CPU 9000, 1 thread": 1.0,
        "measured on Made-up CPU 9000, 2 threads": 1.0,
    }


def test_the_ratio_of_the_two_kinds_is_raw_and_says_so(simulated, measured):
    comparison = load([simulated("s.json", **ONE_HEAD), measured("cpu.json", dense_ms=2.0, sparse_ms=1.0, mask_ms=0.5, **ONE_HEAD)])
    over_dense, over_sparse = simulated_against_measured(comparison).rows
    assert over_dense.speedup == pytest.approx(2.0 / 0.004)
    assert over_sparse.speedup == pytest.approx(1.5 / 0.004)
    assert "mask made too" in over_sparse.measured
    drawn = " ".join(text.get_text() for text in _texts(simulated_against_measured(comparison)))
    assert "Simulated accelerator against measured CPU, raw milliseconds; different technologies, see note" in drawn


def _texts(figure):
    from matplotlib.text import Text

    return figure.draw().findobj(Text)


@pytest.mark.parametrize("make", [speedup_simulated, speedup_measured, layer_latency, roofline, cycle_account])
def test_every_axis_says_whether_its_numbers_are_simulated_or_measured(make, simulated, measured):
    canvas = make(load([simulated("s.json"), measured("cpu.json")])).draw()
    for axes in canvas.axes:
        words = f"{axes.get_xlabel()} {axes.get_ylabel()} {axes.get_title(loc='left')} {canvas.get_supxlabel()}".lower()
        assert "simulated" in words or "measured" in words or "mm²" in words
        assert not ("simulated" in words and "measured" in words)


def test_a_layer_takes_the_time_of_all_its_windows(simulated, measured):
    rows = layer_latency(load([simulated("s.json", windows=2), measured("cpu.json", windows=2)])).rows
    times = {(row.source, row.series, row.layer): row.time_ms for row in rows}
    assert times["simulated", "dynax_s", 1] == pytest.approx(2 * 4 * 2200 / 500e3)
    assert times["measured", "dense attention, torch sdpa, flash, float32", 1] == pytest.approx(4.0)


def test_densities_of_one_method_are_drawn_once_and_dense_is_not_drawn(simulated):
    figure = density_map(
        load([simulated("a.json", machine="one"), simulated("b.json", machine="two"), simulated("d.json", machine="dense", method="dense")])
    )
    assert [(row.method, row.layer, row.head) for row in figure.rows] == [("xm_32", layer, head) for layer in range(3) for head in range(4)]
    assert figure.rows[-1].density == pytest.approx(0.05 + 0.02 + 0.06)


def test_there_is_no_density_map_where_everything_is_kept(simulated):
    assert density_map(load([simulated("d.json", method="dense")])) is None


def test_a_dot_of_the_roofline_is_useful_macs_over_bytes_and_over_time(simulated):
    (dot,) = roofline(load([simulated("s.json", **ONE_HEAD)])).rows
    useful = 2 * 64 * round(0.05 * 256 * 257 / 2)  # 5 % of the causal pairs
    assert dot.useful_macs == useful
    assert dot.intensity_macs_per_byte == pytest.approx(useful / (40 * 2000))
    assert dot.rate_gmac_per_s == pytest.approx(useful / 0.004e-3 / 1e9)
    assert (dot.peak_gmac_per_s, dot.dram_gb_per_s) == (256, 64)
    assert dot.rate_gmac_per_s < dot.roof_gmac_per_s


def test_the_shares_of_every_unit_add_up_to_one(simulated):
    rows = cycle_account(load([simulated("s.json")])).rows
    units = {row.stage for row in rows} - {"DRAM"}
    assert units == {"prediction_array", "scheduler", "execution_arrays", "divider"}
    for unit in units:
        assert sum(row.share for row in rows if row.stage == unit) == pytest.approx(1)
    assert {(row.stage, row.kind) for row in rows if row.cause in ("dram", "execution_arrays_full")} == {
        ("prediction_array", "next unit full"),
        ("scheduler", "next unit full"),
        ("execution_arrays", "waiting for data"),
    }


def test_a_machine_is_bound_by_the_unit_or_channel_that_works_most(simulated):
    (one,) = load([simulated("s.json")]).simulated
    totals = machine_totals(one.record)
    assert (totals.busiest_unit.name, round(totals.busiest_unit.share, 6)) == ("prediction_array", 0.85)
    assert totals.bound_by == "prediction array"
    machine = one.record.machine
    narrow = replace(one.record, machine=replace(machine, dram_bytes_per_cycle=42.0))
    assert machine_totals(narrow).bound_by == "DRAM"  # 40 bytes a cycle on a channel of 42
    assert machine_totals(narrow).bottleneck.share == pytest.approx(40 / 42)


@pytest.mark.parametrize(
    "make", [speedup_simulated, speedup_measured, simulated_against_measured, layer_latency, density_map, roofline, cycle_account]
)
def test_the_csv_of_a_figure_is_its_rows(make, simulated, measured):
    figure = make(load([simulated("s.json"), simulated("d.json", machine="dense", method="dense", area_mm2=None), measured("cpu.json")]))
    lines = list(csv.DictReader(io.StringIO(figure.csv())))
    assert len(lines) == len(figure.rows) > 0
    for line, row in zip(lines, figure.rows, strict=True):
        assert line == {name: "" if (value := getattr(row, name)) is None else str(value) for name in line}


def test_a_head_that_was_not_drawn_has_no_cell_and_the_map_is_drawn_all_the_same(tmp_path, simulated):
    path = simulated("sample.json", layers=(0, 1), heads=4, sampled_of=4)
    record = read_result(path)
    other = replace(
        record.runs[1],
        sampled_kv_heads=(1, 3),
        result=replace(record.runs[1].result, heads=tuple(replace(one, head=one.head + 2) for one in record.runs[1].result.heads)),
    )
    write_result(path, replace(record, runs=(record.runs[0], other)))
    figure = density_map(load([path]))
    assert [(row.layer, row.head) for row in figure.rows] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (1, 4), (1, 5)]
    figure.save_png(tmp_path / "map.png")
    assert any("estimated from a sample of heads" in note for note in figure.notes)


def test_one_machine_with_two_methods_has_an_account_of_each(simulated):
    files = [simulated(f"{n}.json", view="same mask", method=f"m{n}", head_cycles=1000 * n) for n in (1, 2)]
    canvas = cycle_account(load(files)).draw()
    titles = [axes.get_title() for axes in canvas.axes]
    assert len(titles) == 2 and "m1" in titles[0] and "m2" in titles[1]
