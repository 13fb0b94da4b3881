import csv
from pathlib import Path

import pytest

from xmsim.accel_models.salo import published_model_v1, published_model_v2
from xmsim.accel_models.salo_matching import scoring_cycles, window_search_cycles
from xmsim.accel_models.salo_published import published_matching_cycles

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name):
    with (GOLDEN / name).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_first_model_equals_the_authors():
    rows = golden("salo_v1.csv")
    assert len(rows) == 240
    for row in rows:
        array = {"pe_rows": int(row["pe_rows"]), "pe_cols": int(row["pe_cols"]), "pe_globals": int(row["pe_glbs"])}
        workload = [int(row[name]) for name in ("seq_len", "window_size", "dim", "num_heads")]
        estimate = published_model_v1(*workload, **array, clock_ghz=row["freq"])
        assert estimate.cycles == round(row["latency_ms"] * 1e6 * row["freq"])
        assert estimate.seconds * 1e3 == pytest.approx(row["latency_ms"], rel=1e-12)
        assert estimate.utilisation == pytest.approx(row["utilization"], rel=1e-12)


def test_the_second_model_equals_the_authors():
    rows = golden("salo.csv")
    assert len(rows) == 216
    for row in rows:
        whole = {name: int(value) for name, value in row.items() if value == int(value)}
        estimate = published_model_v2(
            *(whole[name] for name in ("seq_len", "window_size", "dim", "num_heads")),
            block=whole["block_size"],
            globals=whole["nums_global"],
            randoms=whole["nums_random"],
            pe_rows=whole["pe_rows"],
            pe_cols=whole["pe_cols"],
            pe_globals=whole["pe_glbs"],
            pe_randoms=whole["pe_randoms"],
            clock_ghz=row["freq"],
        )
        assert estimate.cycles == row["sparse_cycles"]
        found = {
            "qkv_sparse_s": estimate.seconds,
            "utilization": estimate.utilisation,
            "qkv_proj_s": estimate.parts["qkv_projection_seconds"],
            "out_proj_s": estimate.parts["output_projection_seconds"],
            "matching_s": estimate.parts["matching_seconds"],
            "lat_128mac_ms": estimate.parts["printed_ms"],
        }
        assert found == pytest.approx({name: row[name] for name in found}, rel=1e-12)


def test_the_published_headline_is_the_printed_figure_and_not_the_undivided_one():
    estimate = published_model_v2(384, 8, 768, 16)
    assert estimate.cycles == 57_034 and estimate.parts["matching_cycles"] == 28_929
    assert estimate.parts["printed_ms"] == pytest.approx(0.96179, abs=5e-6)
    assert estimate.parts["undivided_ms"] == pytest.approx(2.2238, abs=5e-5)


def test_projections_count_in_full_where_the_unexplained_factor_is_one():
    published, full = (published_model_v2(384, 8, 768, 12, projection_factor=factor) for factor in (0.14, 1.0))
    for name in ("qkv_projection_seconds", "output_projection_seconds"):
        assert full.parts[name] * 0.14 == pytest.approx(published.parts[name])
    assert full.cycles == published.cycles


def test_tokens_that_fill_no_whole_block_count_in_part_unless_rounded_up():
    assert published_model_v2(96, 8, 768, 12).parts["passes"] == 1.5**2 * 12
    assert published_model_v2(96, 8, 768, 12, round_blocks_up=True).cycles == published_model_v2(128, 8, 768, 12).cycles


def test_the_matching_stages_add_up_to_the_published_matching():
    blocks = 8 * 8 * 12
    assert scoring_cycles(64) * blocks + window_search_cycles() == published_matching_cycles(512, 768, 12)
