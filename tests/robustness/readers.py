"""Everything that reads a file somebody else may have written: valid inputs of each reader, and the reading, to the last number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tests.robustness.hosts import (
    predict_by_host,
    predict_file,
    read_stated_gpu,
    read_stated_host,
    with_calibration,
    write_benchmark_and_calibration,
    write_host_check,
)
from tests.robustness.models import (
    CHECKPOINT,
    MODEL_FILES,
    PACKED_FILES,
    go_on_with_checkpoint,
    load_and_run,
    write_checkpoint,
    write_model_folder,
    write_packed_model,
)
from tests.robustness.sweeps import STORE, read_store, read_sweep_file, write_store, write_sweep
from tests.robustness.tables import (
    read_areas,
    read_experiments_table,
    read_greedy,
    read_grid,
    read_histogram_file,
    read_nsys_tables,
    read_packed,
    read_plain_text,
    read_split_rows,
    write_experiments_table,
    write_greedy,
    write_histogram_file,
    write_nsys,
    write_packed,
    write_plain_text,
    write_splits,
    write_sram_grid,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
RECORDS = GOLDEN / "records"
CONFIGS = ROOT / "configs"
RECORD_READERS = {  # kinds of record that anything of ours reads
    "result": ("xmsim.sim.result", "read_result"),
    "evaluation": ("xmsim.workloads.evaluation", "read_evaluation"),
    "splits": ("xmsim.workloads.evaluation", "read_splits_record"),
    "measurement": ("xmsim.workloads.measurement", "read_measurement"),
    "generation": ("xmsim.workloads.measuring.generation_record", "read_generation"),
    "calibration": ("xmsim.workloads.measuring.calibration.record", "read_calibration"),
    "host_check": ("xmsim.workloads.measuring.host_check_record", "read_host_check"),
    "cross_check": ("xmsim.workloads.measuring.host_check_record", "read_cross_check"),
    "pruning": ("xmsim.workloads.pruning.record", "read_pruning"),
    "masks": ("xmsim.workloads.methods.mask_record", "read_masks"),
    "greedy": ("xmsim.workloads.attachment.greedy_record", "read_greedy"),
    "tuning": ("xmsim.workloads.tuning.record", "read_tuning"),
}


@dataclass(frozen=True, slots=True)
class Reader:
    """One way into the program.

    `prepare` fills a folder with a valid input; `files` names those in it that are then damaged; `read` reads the folder, and may write
    under its `out`.
    """

    prepare: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], object]


def all_readers() -> dict[str, Reader]:
    """Every reader under fuzz, by name."""
    readers = {}
    for path in sorted((CONFIGS / "accelerators").glob("*.yaml")):
        readers[f"machine {path.stem}"] = _one_file(path, _machine)
    for path in sorted((CONFIGS / "methods").glob("*.yaml")):
        readers[f"method {path.stem}"] = _one_file(path, _method)
    readers["method of the artifact"] = Reader(_write_artifact_preset, ("preset.json",), lambda folder: _method(folder / "preset.json"))
    readers["dram"] = _one_file(CONFIGS / "dram" / "hbm2_2000.yaml", _dram)
    readers["shape"] = _one_file(CONFIGS / "shapes" / "llama-3.2-1b.yaml", _shape)
    readers["sweep"] = Reader(write_sweep, ("sweep.yaml",), read_sweep_file)
    readers["run store"] = Reader(write_store, (STORE,), read_store)
    readers["recipe"] = _one_file(CONFIGS / "recipes" / "lora.yaml", _recipe)
    readers["pruning preset"] = _one_file(CONFIGS / "pruning" / "xm-tiny.yaml", _proxsparse_preset)
    for name in ("logic", "sram", "dram", "overhead"):
        readers[f"technology {name}"] = _one_file(CONFIGS / "technology" / f"{name}.yaml", partial(_technology, f"{name.title()}Table"))
    readers["technology areas of rtl"] = _one_file(CONFIGS / "technology" / "rtl_areas.csv", read_areas)
    readers["technology grid of sram"] = Reader(write_sram_grid, ("sram_grid.csv",), read_grid)
    readers["host of documents"] = _one_file(CONFIGS / "hosts" / "sapphire_rapids_32.yaml", read_stated_host)
    readers["gpu of documents"] = _one_file(CONFIGS / "hosts" / "h200.yaml", read_stated_gpu)
    readers["experiments"] = Reader(write_experiments_table, ("experiments.csv",), read_experiments_table)
    readers["greedy table"] = Reader(write_greedy, ("results.csv",), read_greedy)
    readers["splits table"] = Reader(write_splits, ("splits.csv",), read_split_rows)
    readers["histograms"] = Reader(write_histogram_file, ("activations.safetensors",), read_histogram_file)
    readers["nsys export"] = Reader(write_nsys, ("run.sqlite",), read_nsys_tables)
    readers["text"] = Reader(write_plain_text, ("text.txt",), read_plain_text)
    readers["packed text"] = Reader(write_packed, ("text.txt.xz",), read_packed)
    for name in ("linear", "attention"):
        readers[f"benchmark {name}"] = Reader(partial(_write_benchmark, name), ("benchmark.json",), _benchmark)
    for path in sorted(RECORDS.glob("*.json")):
        kind = path.name.partition(".")[0]
        if kind not in RECORD_READERS:
            continue
        place = f"{kind}.json"  # as in the folder of a model that was pruned or tuned
        readers[f"record {path.stem}"] = Reader(partial(_copy, path, place), (place,), partial(_record, kind))
    readers["compare"] = Reader(_two_records, ("result.json", "measurement.json"), _compare)
    readers["compare at equal accuracy"] = Reader(_evaluated_result, ("result.json", "evaluation.json"), _compare_accuracy)
    readers["compare a model"] = _one_file(RECORDS / "generation.v2.json", _compare_whole)
    readers["compare a cross check"] = _one_file(RECORDS / "cross_check.v1.json", _compare_whole)
    readers["predict host check"] = Reader(write_host_check, ("host_check.json",), lambda folder: predict_file(folder / "host_check.json"))
    readers["predict generation"] = Reader(with_calibration("generation.v2.json"), ("record.json", "host.json"), predict_by_host)
    readers["predict benchmark"] = Reader(write_benchmark_and_calibration, ("record.json", "host.json"), predict_by_host)
    readers["explain"] = _one_file(RECORDS / "result.v3.json", _explain)
    trace = tuple(sorted(path.name for path in (GOLDEN / "trace_v2").iterdir()))
    readers["trace"] = Reader(partial(_copy_trace, "trace_v2"), tuple(f"trace/{name}" for name in trace), _trace)
    readers["trace of version 1"] = Reader(partial(_copy_trace, "trace_v1"), ("trace/manifest.json",), _trace)
    readers["resumed extraction"] = Reader(
        partial(_copy_trace, "trace_v2"), ("trace/manifest.json", "trace/layer_000.safetensors"), _resumed
    )
    for name in ("bitmap", "tcabme", "spdp", "2:4", "macko", "packed"):
        readers[f"weights {name}"] = Reader(partial(_write_weights, name), ("weights.safetensors",), _weights)
    readers["unfinished pruning"] = Reader(
        _write_part, ("out.part/plan.json", "out.part/block_0000.json", "out.part/block_0000.safetensors"), _part
    )
    readers["tuning checkpoint"] = Reader(write_checkpoint, (CHECKPOINT,), go_on_with_checkpoint)
    readers["model folder"] = Reader(write_model_folder, MODEL_FILES, partial(load_and_run, "model"))
    readers["packed model folder"] = Reader(write_packed_model, PACKED_FILES, partial(load_and_run, "packed"))
    return readers


def _copy(source: Path, name: str, folder: Path) -> None:
    shutil.copy(source, folder / name)


def _one_file(source: Path, read: Callable[[Path], object]) -> Reader:
    return Reader(partial(_copy, source, source.name), (source.name,), lambda folder: read(folder / source.name))


# --- configuration ---


def _machine(path: Path) -> None:
    """A machine, and what it makes of a small trace: its numbers must hold in the arithmetic that they go into."""
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import simulate_trace
    from xmsim.sim.result import write_result
    from xmsim.traces.store import open_trace

    record = simulate_trace(open_trace(GOLDEN / "trace_v2"), load_accelerator(path), layers=[0])
    write_result(path.parent / "out" / "result.json", record)


def _method(path: Path) -> None:
    from xmsim.traces.store import open_trace
    from xmsim.workloads.methods.library import load_method

    method = load_method(path)
    layer = open_trace(GOLDEN / "trace_v2").read_layer(0)
    method.keep(layer, 0)
    method.mask(layer, 0)


_ARTIFACT_PRESET = {
    "is_sparse": True,
    "sparse_methed": "xm",
    "threshold_0": 1.0,
    "threshold_1": 0.1,
    "is_quant": True,
    "quant_methed": "1_4_6bit",
}


def _write_artifact_preset(folder: Path) -> None:
    (folder / "preset.json").write_text(json.dumps(_ARTIFACT_PRESET))


def _dram(path: Path) -> None:
    from fractions import Fraction

    from xmsim.sim.dram_preset import bank_model, load_preset

    preset = load_preset(path)
    bank_model(preset, preset.channels, Fraction(1000))


def _shape(path: Path) -> None:
    from xmsim.workloads.models.shape import load_shape

    load_shape(path)


def _recipe(path: Path) -> None:
    from xmsim.workloads.tuning.recipe import load_recipe

    _ = load_recipe(path).parameters


def _proxsparse_preset(path: Path) -> None:
    from xmsim.workloads.pruning.proxsparse_preset import load_preset

    _ = load_preset(path).parameters


def _technology(table: str, path: Path) -> None:
    from xmsim.configs import technology_tables
    from xmsim.configs.schema import read_config

    read_config(path, getattr(technology_tables, table))


# --- records ---


def _record(kind: str, folder: Path) -> None:
    from xmsim.cli.calibrate import constants_table
    from xmsim.reports.cross_check import write_report
    from xmsim.reports.evaluation import write_evaluation_report

    module, function = RECORD_READERS[kind]
    read = getattr(import_module(module), function)
    record = read(folder if kind in ("pruning", "tuning") else folder / f"{kind}.json")
    if kind == "evaluation":
        write_evaluation_report(record, folder / "out")
    if kind == "cross_check":
        write_report(record, folder / "out")
    if kind == "calibration":
        constants_table(record)
    if kind == "greedy":
        record.sparsities(0.02)


def _two_records(folder: Path) -> None:
    shutil.copy(RECORDS / "result.v3.json", folder / "result.json")
    shutil.copy(RECORDS / "measurement.v1.json", folder / "measurement.json")


def _compare(folder: Path) -> None:
    """What compare takes from its files; figures take seconds each."""
    from xmsim.reports.collection import load
    from xmsim.reports.long_table import long_table
    from xmsim.reports.summary import summary

    for names in (("result.json",), ("measurement.json",), ("result.json", "measurement.json")):
        comparison = load([folder / name for name in names])
        long_table(comparison)
        summary(comparison)


def _evaluated_result(folder: Path) -> None:
    """A result whose method the evaluation solved."""
    shutil.copy(RECORDS / "evaluation.v3.json", folder / "evaluation.json")
    result = json.loads((RECORDS / "result.v3.json").read_bytes())
    evaluation = json.loads((RECORDS / "evaluation.v3.json").read_bytes())
    result["method"] = next(run["method"] for run in evaluation["runs"] if run["solved_for"])
    result["trace"]["model"] = evaluation["model"]["name"]
    (folder / "result.json").write_text(json.dumps(result))


def _compare_accuracy(folder: Path) -> None:
    from xmsim.reports.collection import collect
    from xmsim.reports.equal_accuracy import accuracy_groups, unused_targets
    from xmsim.reports.quality import qualities_of

    main = collect([folder / "result.json", folder / "evaluation.json"]).main
    assert main
    accuracy_groups(main)
    unused_targets(main)
    [qualities_of(one, main) for one in main.simulated]


def _compare_whole(path: Path) -> None:
    """The texts of a report of one file; figures take seconds each."""
    from xmsim.reports.collection import collect
    from xmsim.reports.long_table import collection_table
    from xmsim.reports.measured_tables import claims_table, kernel_tables, linear_table, own_values_table
    from xmsim.reports.summary import collection_summary
    from xmsim.reports.verdict import verdict

    collection = collect([path])
    collection_table(collection)
    kernel_tables(collection), claims_table(collection), own_values_table(collection), linear_table(collection)
    collection_summary(collection)
    verdict(collection)


def _write_benchmark(name: str, folder: Path) -> None:
    """The runs of one shape and number of threads of a committed record."""
    record = json.loads((ROOT / "reports" / "measured" / f"{name}_cpu.json").read_bytes())
    record["runs"] = record["runs"][:8] if name == "linear" else [run for run in record["runs"] if run["head_dim"] == 128][:20]
    (folder / "benchmark.json").write_text(json.dumps(record))


def _benchmark(folder: Path) -> None:
    _compare_whole(folder / "benchmark.json")


def _explain(path: Path) -> None:
    import contextlib
    import io

    from xmsim.cli.explain import explain

    with contextlib.redirect_stdout(io.StringIO()):
        explain(path, "energy_pj")
        explain(path, "power_mw")


# --- traces ---


def _copy_trace(name: str, folder: Path) -> None:
    shutil.copytree(GOLDEN / name, folder / "trace")


def _trace(folder: Path) -> None:
    from xmsim.traces.store import open_trace
    from xmsim.workloads.attention import workload_of
    from xmsim.workloads.methods.library import load_method

    trace = open_trace(folder / "trace")
    trace.source()
    for layer in trace.layers:
        captured = trace.read_layer(layer)
        facts = trace.manifest.facts(layer)
        for mask in facts.masks:
            trace.read_mask(layer, mask)
        if facts.weights:
            trace.read_weights(layer)
        method = load_method("xm_32")
        for window in range(trace.windows):
            workload_of(captured, window, method.keep(captured, window))


def _resumed(folder: Path) -> None:
    from dataclasses import replace

    from xmsim.traces.manifest import read_manifest
    from xmsim.traces.writer import TraceWriter

    plan = replace(read_manifest(GOLDEN / "trace_v2"), layers=())
    writer = TraceWriter(folder / "trace", plan)
    _ = writer.missing


# --- packed weights and unfinished prunings ---


def _write_weights(name: str, folder: Path) -> None:
    from xmsim.reference.formats.format_file import FORMATS, write_format

    matrix = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    matrix.reshape(32, 16, 4)[..., :2] = 0
    matrix = (matrix.view("<u4") >> 16).astype("<u2") if name != "bitmap" else matrix
    kind: Any = FORMATS[name]
    options = {"dtype": "bfloat16"} if name != "bitmap" else {}
    try:
        packed = kind.from_dense(matrix, **options)
    except TypeError:
        packed = kind.from_dense(matrix)
    write_format(folder / "weights.safetensors", {"layer": packed})


def _weights(folder: Path) -> None:
    from xmsim.reference.formats.format_file import read_format

    for matrix in read_format(folder / "weights.safetensors").values():
        _ = matrix.nbytes
        matrix.to_dense()


_PLAN = {"model": "xm-tiny", "method": "wanda", "sparsity": 0.5}


def _write_part(folder: Path) -> None:
    import torch

    from xmsim.workloads.pruning.part import UnfinishedPruning
    from xmsim.workloads.pruning.record import PrunedLayer

    part = UnfinishedPruning(folder / "out", _PLAN)
    part.begin([0.5, 0.5])
    layer = PrunedLayer("w", block=0, out_features=4, in_features=4, target_sparsity=0.5, sparsity=0.5, sparsity_before=0.0)
    part.write(0, {"model.layers.0.w": torch.ones(4, 4)}, [layer])


def _part(folder: Path) -> None:
    from xmsim.workloads.pruning.part import UnfinishedPruning

    part = UnfinishedPruning(folder / "out", _PLAN)
    _ = part.sparsities
    if part.has(0):
        part.read(0)
