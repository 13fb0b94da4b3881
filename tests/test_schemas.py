"""The published schemas are those of the code, and our own files obey them."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

from xmsim.sim.result import read_result
from xmsim.workloads.attachment.greedy_record import read_greedy
from xmsim.workloads.evaluation import read_evaluation, read_splits_record
from xmsim.workloads.measurement import read_measurement
from xmsim.workloads.measuring.calibration.record import read_calibration
from xmsim.workloads.measuring.generation_record import read_generation
from xmsim.workloads.measuring.host_check_record import read_cross_check, read_host_check
from xmsim.workloads.methods.mask_record import read_masks
from xmsim.workloads.pruning.record import read_pruning
from xmsim.workloads.tuning.record import read_tuning

DOCS = Path(__file__).resolve().parents[1] / "docs"
spec = importlib.util.spec_from_file_location("make_schemas", DOCS / "make_schemas.py")
make_schemas = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_schemas)


def test_published_schemas_are_made_from_the_classes():
    for name, schema in make_schemas.schemas().items():
        assert json.loads((DOCS / "schemas" / name).read_text()) == json.loads(json.dumps(schema))


def test_every_published_schema_has_a_golden_file_that_obeys_it():
    assert {path.name for path in (DOCS / "schemas").glob("*.json")} == set(GOLDEN) >= set(make_schemas.schemas())


GOLDEN = {
    "result.v1.json": "records/result.v1.json",
    "result.v2.json": "records/result.v2.json",
    "result.v3.json": "records/result.v3.json",
    "measurement.v1.json": "records/measurement.v1.json",
    "measurement.v2.json": "records/measurement.v2.json",
    "evaluation.v1.json": "records/evaluation.v1.json",
    "evaluation.v2.json": "records/evaluation.v2.json",
    "evaluation.v3.json": "records/evaluation.v3.json",
    "splits.v1.json": "records/splits.v1.json",
    "greedy.v1.json": "records/greedy.v1.json",
    "generation.v1.json": "records/generation.v1.json",
    "generation.v2.json": "records/generation.v2.json",
    "tuning.v1.json": "records/tuning.v1.json",
    "pruning.v1.json": "records/pruning.v1.json",
    "difference.v1.json": "records/difference.v1.json",
    "calibration.v1.json": "records/calibration.v1.json",
    "host_check.v1.json": "records/host_check.v1.json",
    "cross_check.v1.json": "records/cross_check.v1.json",
    "masks.v1.json": "records/masks.v1.json",
    "trace.v1.json": "trace_v1/manifest.json",
    "trace.v2.json": "trace_v2/manifest.json",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_of_each_version_obeys_its_schema(name):
    golden = json.loads((Path(__file__).parent / "golden" / GOLDEN[name]).read_text())
    schema = json.loads((DOCS / "schemas" / name).read_text())
    jsonschema.validate(golden, schema)
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: value for k, value in golden.items() if k != key}, schema)


def test_golden_records_stay_readable(tmp_path):
    records = Path(__file__).parent / "golden" / "records"
    first, second, third = (read_result(records / f"result.v{version}.json") for version in (1, 2, 3))
    assert first.cycles == sum(run.result.cycles for run in first.runs) > 0
    assert (first.phase, first.sampling, first.runs[0].sampled_kv_heads) == ("prefill", None, None)
    assert (second.phase, second.sampling.kv_heads, second.runs[0].sampled_kv_heads) == ("decode", 2, (0, 1))
    assert first.costs is second.costs is None and third.costs.area.total.nominal > 0
    prefill, decode = (read_measurement(records / f"measurement.v{version}.json") for version in (1, 2))
    assert prefill.runs[0].timing.n >= 5 and prefill.conditions == {}
    assert (decode.conditions["decoded_tokens"], decode.runs[-1].query_tokens, decode.runs[-1].key_tokens) == (2, 1, 6)
    dense, skipping = (read_generation(records / f"generation.v{version}.json").generations[1] for version in (1, 2))
    assert (dense.speedup["torch"].n, dense.static_sparsity) == (2, None)
    assert (skipping.kernel, round(skipping.static_sparsity, 2), 0.7 < skipping.total_sparsity < 0.8) == ("spdp", 0.5, True)
    assert [run.label for run in read_evaluation(records / "evaluation.v1.json").runs] == ["dense", "xm_32", "xm, 6-bit 1:4"]
    greedy = read_evaluation(records / "evaluation.v2.json").runs[2]
    assert greedy.label == "xm_32, activations 0.02 greedy teal" and 0 < greedy.activations.total_sparsity < 0.05
    solved, unreached = read_evaluation(records / "evaluation.v3.json").runs[1:]
    assert (solved.label, solved.solved_for.target_relative, solved.solved_for.reached) == ("nm_plus0.5", 0.005, True)
    assert (unreached.solved_for.reached, unreached.solved_for.value) == (False, 1) and greedy.solved_for is None
    assert read_greedy(records / "greedy.v1.json").sparsities(0.02).keys() >= {"model.layers.5.mlp.up_proj"}
    store = read_splits_record(records / "splits.v1.json")
    assert [(row.s1, row.s2) for row in store.splits] == [(0, 0), (0, 0.5)] and store.timings[0].TPOT_samples == 160
    assert read_calibration(records / "calibration.v1.json").threads == (1, 2)
    assert read_host_check(records / "host_check.v1.json").bounds["as calibrated"].mean == 0.1
    assert read_cross_check(records / "cross_check.v1.json").runs[0].bound_by == "memory"
    pruned, dense = read_masks(records / "masks.v1.json").methods
    assert (pruned.method["name"], dense.layers[0].statistics.live_tiles, dense.layers[0].gpu.dense_ms > 0) == ("xm", (1.0,) * 5, True)
    (tmp_path / "tuning.json").write_bytes((records / "tuning.v1.json").read_bytes())
    assert read_tuning(tmp_path).steps == 100
    (tmp_path / "pruning.json").write_bytes((records / "pruning.v1.json").read_bytes())
    assert read_pruning(tmp_path).pattern == "2:4" and read_pruning(tmp_path).reached_sparsity == 0.5
