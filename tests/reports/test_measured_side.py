"""Measured work besides the trace's attention: accepted beside it, in sections of its own, with the right baseline and spread."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reports.benchmark_file import read_benchmark
from xmsim.reports.collection import collect
from xmsim.reports.compare import compare, contents_of
from xmsim.reports.figures.kernel_speedups import kernel_speedups
from xmsim.reports.linear_layers import INPUT, OUTPUT, linear_pairs
from xmsim.reports.measured_tables import kernel_tables, linear_table
from xmsim.reports.measured_work import DECODE, GENERATION, LINEAR, TPOT, TTFT, measured_kernels, read_generated
from xmsim.reports.page import page
from xmsim.reports.summary import collection_summary
from xmsim.reports.verdict import verdict
from xmsim.sim.result import PhaseResult, ProjectionResult, read_result, write_result
from xmsim.workloads.measurement import Timing, read_measurement, write_measurement
from xmsim.workloads.measuring.generation_record import GenerationRecord, GenerationRun, LinearRun, Ratio, write_generation

COMMITTED = Path(__file__).resolve().parents[2] / "reports" / "measured"


def timing(median, n=9):
    return Timing(n, median, 0.9 * median, 1.1 * median, 0.8 * median, 1.5 * median)


def generation(host, *, sparsity=0.5, shapes=((256, 256),), tokens=1):
    def run(kernel, first_ms, token_ms, speedup):
        return GenerationRun(
            kernel, "sdpa", 6, 10**6, timing(first_ms, 5), timing(token_ms, 60), token_ms, 2 * token_ms, speedup, (), None, None, None
        )

    def layer(kernel, shape, ms, speedup):
        return LinearRun(*shape, tokens, kernel, "", "bfloat16", sparsity, 2, 10**5, timing(ms), speedup, 1e-6, 1e-5)

    over = {"torch": Ratio(5, 4.0, 3.5, 4.5), "packed": Ratio(5, 1.6, 1.5, 1.7)}
    conditions = {"dtype": "bfloat16", "batch": 1, "input_tokens": 32, "new_tokens": 8, "sparsity": sparsity, "threads": 2, "include": None}
    return GenerationRecord(
        host=host,
        model={"name": "made-up model", "weights": "trained"},
        conditions=conditions,
        linears=tuple(
            layer(kernel, shape, ms, speedup)
            for shape in shapes
            for kernel, ms, speedup in (("torch", 0.4, {}), ("packed", 0.16, {"torch": over["torch"]}), ("bitmap", 0.1, over))
        ),
        generations=(
            run("torch", 30.0, 12.0, {}),
            run("packed", 24.0, 5.0, {"torch": Ratio(5, 2.4, 2.3, 2.5)}),
            run("bitmap", 20.0, 3.0, over),
        ),
        profiles={},
    )


@pytest.fixture
def host(measured):
    return read_measurement(measured("host.json")).host


@pytest.fixture
def generated(tmp_path, host):
    path = tmp_path / "generation.json"
    write_generation(path, generation(host))
    return path


def test_a_model_that_generates_stands_beside_a_trace_in_a_section_of_its_own(tmp_path, simulated, generated):
    files = [simulated("a.json"), generated, COMMITTED / "linear_cpu.json", COMMITTED / "attention_cpu.json"]
    outcome = compare(files, tmp_path / "report")
    text = outcome.report.read_text()
    assert "1 measured model and 2 kernel benchmarks" in outcome.summary[0]
    assert 'id="section-linear-layers-whole-models-and-other-kernels"' in text
    assert any(line.startswith("Time per output token of made-up model, bitmap") for line in outcome.headlines)
    assert {"kernel_speedups.png", "published_beside_ours.png"} <= {path.name for path in outcome.files}


def test_records_without_any_trace_make_a_report_too(tmp_path, generated):
    outcome = compare([generated], tmp_path / "report")
    assert outcome.summary[0] == "1 measured model."
    assert "1.60× (1.50 to 1.70) as fast as with our dense kernel" in outcome.headlines[1]


def test_speedups_are_those_of_the_record_over_torch_and_over_our_own_dense(generated):
    rows = {(row.work.what, row.kernel): row for row in measured_kernels([read_generated(generated)], [])}
    token = rows[f"{TPOT} of made-up model", "bitmap, attention sdpa"]
    assert (token.over_torch.median, token.over_torch.first_quartile, token.over_dense.median) == (4.0, 3.5, 1.6)
    assert (token.timing.median_ms, token.timing.n) == (3.0, 60)
    first = rows[f"{TTFT} of made-up model", "bitmap, attention sdpa"]
    assert (first.over_torch.median, first.over_torch.first_quartile) == (1.5, None)  # 30 / 20: no pairs were kept
    assert first.over_dense.median == 1.2
    assert rows["256 → 256, 1 token", "torch"].over_torch is None and rows["256 → 256, 1 token", "torch"].dense


def test_every_ratio_of_the_committed_benchmarks_is_shown_with_its_baseline():
    for name, kinds in (("linear_cpu.json", {LINEAR}), ("attention_cpu.json", {DECODE, "attention, prefill"})):
        raw = json.loads((COMMITTED / name).read_text())["runs"]
        rows = measured_kernels([], [read_benchmark(COMMITTED / name)])
        assert {row.work.kind for row in rows} == kinds
        for row in rows:
            (own,) = [
                run
                for run in raw
                if run["name"] == row.kernel
                and run["median_ms"] == row.timing.median_ms
                and f"{run['threads']} thread" in row.work.conditions
            ]
            for ratio, keys in (
                (row.over_torch, ("times_as_fast_as_torch_bfloat16", "times_as_fast_as_torch_sdpa")),
                (row.over_dense, ("times_as_fast_as_dense_bfloat16", "times_as_fast_as_own_dense")),
            ):
                if ratio:
                    assert ratio.median in [own[key]["median"] for key in keys if key in own]
        assert any(row.over_torch for row in rows)


def test_a_benchmark_of_a_gpu_names_its_baseline(tmp_path, host):
    runs = [
        {"name": "linear 8x8, 1 tokens, 0.5 pruned: tca-bme", "kernel": "tca-bme", "in_features": 8, "out_features": 8, "tokens": 1}
        | {"weight_sparsity": 0.5, "baseline": "torch linear", "speedup_median": 1.4, "speedup_first_quartile": 1.3}
        | {"speedup_third_quartile": 1.5, "n": 9, "median_ms": 1.0, "first_quartile_ms": 0.9, "third_quartile_ms": 1.1}
        | {"min_ms": 0.8, "max_ms": 2.0, "dtype": "bfloat16"}
    ]
    from xmsim.configs.codec import encode
    from xmsim.configs.record import write_record

    write_record(tmp_path / "gpu.json", "benchmark", 1, {"host": encode(replace(host, gpu="Made-up GPU")), "runs": runs})
    (row,) = measured_kernels([], [read_benchmark(tmp_path / "gpu.json")])
    assert (row.work.host, row.over_torch.median, row.over_dense, row.sparsity) == ("Made-up GPU", 1.4, None, 0.5)


def test_a_benchmark_without_baselines_is_left_out_in_a_sentence(simulated):
    collection = collect([simulated("a.json"), COMMITTED / "masks_cpu.json"])
    assert collection.left_out == ("masks_cpu.json: left out, none of its kernels was timed beside a baseline.",)
    assert collection.benchmarks == ()


def test_a_benchmark_without_baselines_alone_is_nothing_to_compare():
    with pytest.raises(XmsimError, match=r"engines_cpu\.json alone cannot be compared; name files that simulate"):
        collect([COMMITTED / "engines_cpu.json"])


@pytest.mark.parametrize("old, new", [('"median": 1.6', '"median": 9.6'), ('"median_ms": 3.0', '"median_ms": 0'), ('"n": 60', '"n": 0')])
def test_a_median_outside_its_quartiles_is_refused(generated, old, new):
    text = generated.read_text()
    assert old in text
    generated.write_text(text.replace(old, new))
    with pytest.raises(RecordError, match="between its quartiles"):
        collect([generated])


def test_a_benchmark_that_is_no_table_is_refused():
    with pytest.raises(RecordError, match="has no table of kernels"):
        collect([COMMITTED / "llama_prefill_cpu.json"])


def with_projections(path, *, tokens):
    """Four heads of 64 over two KV heads and a model of width 256: 100 cycles before the attention of each layer, 50 behind."""
    record = read_result(path)

    def phase(cycles, macs):
        return PhaseResult(cycles, 0.0, {}, {}, {}, {}, macs)

    runs = [
        replace(
            run,
            query_tokens=tokens,
            result=replace(run.result, projections=ProjectionResult(phase(100, tokens * 256 * 512), phase(50, tokens * 256 * 256))),
        )
        for run in record.runs
    ]
    write_result(path, replace(record, runs=tuple(runs)))
    return path


def test_projections_meet_measured_layers_of_exactly_their_shapes(tmp_path, simulated, host):
    path = with_projections(simulated("p.json", decoded=(100,)), tokens=1)
    measured_path = tmp_path / "generation.json"
    write_generation(measured_path, generation(host, shapes=((256, 256), (256, 128))))
    collection = collect([path, measured_path])
    pairs = {(pair.phase, pair.kernel): pair for pair in linear_pairs(collection.simulated, collection.kernels)}
    # queries 256 → 256, keys and values 256 → 128 each: three layers of 0.1 ms; 100 cycles at 500 MHz
    assert pairs[INPUT, "bitmap"].shapes == ((256, 256, 1), (256, 128, 1), (256, 128, 1))
    assert pairs[INPUT, "bitmap"].measured.median_ms == pytest.approx(0.3) and pairs[INPUT, "bitmap"].simulated_ms == 0.0002
    assert pairs[OUTPUT, "torch"].ratio == pytest.approx(0.4 / 0.0001)
    assert linear_table(collection) is not None


def test_projections_of_many_tokens_do_not_meet_layers_of_one(tmp_path, simulated, generated):
    path = with_projections(simulated("p.json"), tokens=256)
    collection = collect([path, generated])
    assert linear_pairs(collection.simulated, collection.kernels) == () and linear_table(collection) is None


def test_prefill_and_decode_are_parts_of_one_report_and_never_of_one_figure(tmp_path, simulated, measured):
    decoded = measured("decode.json")
    record = read_measurement(decoded)
    write_measurement(
        decoded, replace(record, runs=tuple(replace(run, query_tokens=1, key_tokens=101, timing=timing(0.2)) for run in record.runs))
    )
    files = [
        measured("prefill.json"),
        decoded,
        simulated("a.json"),
        simulated("b.json", decoded=(100,)),
        simulated("c.json", machine="dense", method="dense", decoded=(100,)),
    ]
    prefill, decode = collect(files).parts
    assert [one.path.name for one in (*prefill.simulated, *prefill.measured)] == ["a.json", "prefill.json"]
    assert [one.path.name for one in (*decode.simulated, *decode.measured)] == ["b.json", "c.json", "decode.json"]
    contents = contents_of(collect(files))
    assert contents.parts[1].figures["simulated_against_measured"].name == "simulated_against_measured_2"
    assert {row.simulated_ms for row in contents.parts[1].figures["simulated_against_measured"].rows} == {0.0528}
    text = page(contents)
    assert 'id="section-decode-of-attention"' in text
    assert len(set(figure.name for figure in contents.figures)) == len(contents.figures)


def test_the_figure_shows_sparse_kernels_and_never_torch_over_ours(generated):
    rows = kernel_speedups(measured_kernels([read_generated(generated)], [])).rows
    assert {row.kernel for row in rows if row.work.startswith(TPOT)} == {"packed, attention sdpa", "bitmap, attention sdpa"}
    assert all(row.first_quartile is None for row in rows if row.work.startswith(TTFT))


def test_tables_name_the_host_the_file_and_the_repetitions_of_every_row(generated):
    for table in kernel_tables(collect([generated])):
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            assert cells["host"] == "Made-up CPU 9000" and cells["file"] == "generation.json" and cells["n"].value > 0
    assert [row.work.kind for row in collect([generated]).kernels][:1] == [GENERATION]


@pytest.mark.parametrize("value", [None, 0, -1, 1e308, "x", [], {}, True, ["lm_head", 3]])
def test_any_value_anywhere_in_a_file_is_read_or_refused_in_a_sentence(generated, value):
    whole = json.loads(generated.read_text())
    damaged = generated.with_name("damaged.json")
    for path in _paths(whole):
        copied = json.loads(generated.read_text())
        place = copied
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        damaged.write_text(json.dumps(copied))
        try:
            collection = collect([damaged])
        except XmsimError:
            continue
        kernel_tables(collection), verdict(collection), collection_summary(collection), kernel_speedups(collection.kernels)


def _paths(value, path=()):
    """To every value of the first of each list, and below the header."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        if (*path, key) not in (("format",), ("version",)):
            yield (*path, key)
            yield from _paths(inner, (*path, key))
