"""Published speedups: a series of their own, with conditions, beside our values of the same quantity where there are some."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.codec import encode
from xmsim.configs.costs import Bar, Costs, Factor, Term
from xmsim.configs.record import write_record
from xmsim.reports.collection import collect
from xmsim.reports.figures.published_beside_ours import PUBLISHED, published_beside_ours
from xmsim.reports.long_table import collection_table
from xmsim.reports.measured_tables import claims_table
from xmsim.reports.own_values import FINDERS, compared_claims, multiplier_equivalents
from xmsim.reports.published import CLAIMS
from xmsim.sim.propagation import quantity
from xmsim.sim.result import read_result, write_result
from xmsim.workloads.measurement import Timing, read_measurement, write_measurement

COMMITTED = Path(__file__).resolve().parents[2] / "reports" / "measured"
FILES = [COMMITTED / name for name in ("linear_cpu.json", "attention_cpu.json", "generation_llama_1b_cpu.json")]


def multipliers(*counted):
    """An estimate of a machine of these multipliers: (unit, bits, how many)."""
    row = (Factor("row", Bar(0.5, 1.0, 2.0), "mm2", "a made-up table"),)
    terms = quantity([Term(unit, f"integer_mac {bits}-bit", count, row) for unit, bits, count in counted])
    return Costs(terms, terms, terms, terms.total, terms.total, 28.0, ())


def test_every_claim_states_its_conditions_its_source_and_how_ours_differ():
    for claim in CLAIMS:
        assert claim.value > 1 and claim.conditions and claim.source and claim.quantity
        assert bool(claim.ours) == bool(claim.difference)
    assert {claim.ours for claim in CLAIMS if claim.ours} == set(FINDERS)


def test_multipliers_count_by_their_bits_where_they_predict_and_as_16_where_they_execute(simulated):
    costs = multipliers(("prediction_array", 4, 1024), ("execute_array", 16, 512), ("weighted_sum", 16, 130))
    (one,) = collect([simulated("a.json", costs=costs)]).simulated
    assert multiplier_equivalents(one) == 576  # 1024 × 16 / 256 + 512: as in the headline's table
    nine = multipliers(("matching_array", 4, 4096), ("pe_array", 9, 776))
    (one,) = collect([simulated("b.json", costs=nine)]).simulated
    assert multiplier_equivalents(one) == 1032


def test_dynax_over_sanger_is_given_as_simulated_and_at_equal_multipliers_and_clock(simulated):
    files = [
        simulated("a.json", machine="dynax_s", head_cycles=1000, costs=multipliers(("execute_array", 16, 500))),
        simulated("b.json", machine="sanger", head_cycles=2000, clock_mhz=1000.0, costs=multipliers(("execute_array", 16, 1000))),
    ]
    values = {own.name: own.value for own in compared_claims(collect(files))[0].ours}
    # as many milliseconds; twice the multipliers; twice the cycles
    assert values == {
        "as simulated": pytest.approx(1.0),
        "multipliers equal": pytest.approx(2.0),
        "multipliers and clock equal": pytest.approx(4.0),
    }


def test_energies_of_two_nodes_are_given_as_made_and_at_one(simulated, estimated, made_up_models):
    nodes = ({"node_nm": 28.0, "voltage_v": 0.9}, {"node_nm": 55.0, "voltage_v": 1.0})
    own, others = ({"clock_mhz": 500.0, "technology": technology} for technology in nodes)
    files = [
        simulated("a.json", machine="dynax_s", costs=estimated(chip_uj=1.0), config=own),
        simulated("b.json", machine="sanger", costs=replace(estimated(chip_uj=6.0), node_nm=55.0), config=others),
    ]
    models = replace(made_up_models, costs_at_node=lambda record, node_nm, voltage_v: estimated(chip_uj=2.0))
    values = {own.name: own.value for own in compared_claims(collect(files, models))[1].ours}
    assert values == {
        "chip alone, at 28 and 55 nm": pytest.approx(6.0),
        "chip and DRAM, at 28 and 55 nm": pytest.approx(2.0),  # 4 µJ of DRAM each
        "chip alone, both at 28 nm": pytest.approx(2.0),
        "chip and DRAM, both at 28 nm": pytest.approx(1.2),
    }


def test_a_machine_of_the_other_view_is_not_what_a_paper_compares(simulated):
    files = [simulated("a.json", machine="dynax_s"), simulated("b.json", machine="sanger", view="same mask")]
    assert compared_claims(collect(files))[0].ours == ()


def test_sparamx_stands_beside_half_sparse_layers_over_torch_and_over_our_own_dense():
    compared = {one.claim.subject: one for one in compared_claims(collect(FILES))}
    ours = compared["SparAMX over stock PyTorch"].ours
    assert {own.kind for own in ours} == {"measured"}
    assert [own.name.rpartition(", ")[2] for own in ours if own.name.startswith("llama")] == ["over torch", "over our dense"]
    assert any(own.name.startswith("linear layers on AMD EPYC, 2 threads, over torch") for own in ours)
    assert all(own.low <= own.value <= own.high for own in ours)
    assert compared["SparAMX, KV cache"].ours and not compared["TEAL over a dense model"].ours


def test_published_numbers_are_points_of_their_own_and_no_part_of_ours():
    collection = collect(FILES)
    figure = published_beside_ours(collection)
    published = [row for row in figure.rows if row.source == PUBLISHED]
    assert {row.speedup for row in published} == {1.42, 1.14}
    assert all(row.low == row.speedup == row.high for row in published)
    rows = list(csv.DictReader(io.StringIO(collection_table(collection))))
    claims = [row for row in rows if row["source"] == "published"]
    assert len(claims) == len(CLAIMS) and all(row["basis"] and row["view"] for row in claims)
    assert not any(row["source"] == "measured" and row["value"] in ("1.42", "1.14") for row in rows)


def test_without_a_value_of_ours_there_is_a_table_and_no_figure(simulated):
    collection = collect([simulated("a.json")])
    assert published_beside_ours(collection) is None
    cells = [row[3] for row in claims_table(collection).rows]
    assert set(cells) == {
        "not in these files",
        "we have no such value",
        "no GPU was measured; the record of benchmarks/gpu.py would fill this in",
        "no GPU was measured; xmsim measure TRACE --device cuda would fill this in",
    }


def gpu_record(path, host):
    """As benchmarks/gpu.py writes it: one layer and one token, half of the weights pruned, torch 2 ms."""
    runs = [
        {
            "name": f"linear 4096x4096, 1 tokens, 0.5 pruned: {kernel}",
            "kernel": kernel,
            "out_features": 4096,
            "in_features": 4096,
            "tokens": 1,
            "weight_sparsity": 0.5,
            "active_inputs": 0.5 if kernel in ("teal", "spdp") else 1.0,
            "dtype": "bfloat16",
            "baseline": "torch",
            "error": 1e-3,
            **encode(Timing(50, ms, 0.9 * ms, 1.1 * ms, 0.8 * ms, 1.5 * ms)),
            **{f"speedup_{name}": part * 2.0 / ms for name, part in (("median", 1.0), ("first_quartile", 0.9), ("third_quartile", 1.1))},
        }
        for kernel, ms in (("torch", 2.0), ("tca-bme", 1.25), ("spdp", 1.0), ("teal", 0.8))
    ]
    write_record(path, "benchmark", 1, {"host": encode(replace(host, gpu="Made-up GPU")), "runs": runs})
    return path


def test_a_record_of_a_gpu_fills_in_the_claims_about_gpus(tmp_path, simulated, measured):
    host = read_measurement(measured("cpu.json")).host
    collection = collect([simulated("a.json"), gpu_record(tmp_path / "kernels_gpu.json", host)])
    assert collection.measured_gpus == ("Made-up GPU",)
    found = {one.claim.ours: [(own.name, own.value) for own in one.ours] for one in compared_claims(collection)}
    name = "on Made-up GPU, one token"
    assert found["tca-bme over torch on a gpu"] == [(name, pytest.approx(1.6))]
    assert found["teal over torch on a gpu"] == [(name, pytest.approx(2.5))]
    assert found["spdp over tca-bme on a gpu"] == [(name, pytest.approx(1.25))]
    cells = {row[0]: row[3] for row in claims_table(collection).rows}
    assert cells["DynaX over a GPU"] == "measured on Made-up GPU, but not this"
    assert cells["SPDP over SpInfer"] == "1 value in the table below"


def test_attention_of_the_trace_on_a_gpu_fills_in_dynax_over_a_gpu(simulated, measured):
    path = measured("gpu.json", device="cuda", dense_ms=1.056)
    record = read_measurement(path)
    write_measurement(path, replace(record, host=replace(record.host, gpu="Made-up GPU")))
    simulation = simulated("a.json")
    result = read_result(simulation)
    write_result(simulation, replace(result, machine=replace(result.machine, model="dynax")))
    found = {one.claim.subject: one.ours for one in compared_claims(collect([simulation, path]))}
    assert [(own.name, own.value) for own in found["DynaX over a GPU"]] == [("simulated over Made-up GPU measured", pytest.approx(60.0))]
