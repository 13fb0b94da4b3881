"""benchmarks/gpu.py and the scripts beside it: every section runs on stand-ins for a GPU, and none that fails takes others down."""

import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from xmsim.configs.codec import encode  # noqa: E402
from xmsim.reference.kernels.cuda import build, linear, native  # noqa: E402

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[3] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a module of the benchmarks."""
    for folder in (BENCHMARKS, HERE):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in [name for name in sys.modules if name == "gpu" or name.startswith("gpu_")]:
        del sys.modules[name]
    for name in ("compare_records", "record", "make_cuda_predictions", "stand_in_gpu"):
        sys.modules.pop(name, None)


@pytest.fixture
def small(script):
    """The smallest shapes that go through every line."""
    return replace(
        script("gpu_shapes").FULL,
        **{"rounds": 2, "short_calls": 2, "copied_elements": 1 << 10, "product_size": 32, "heads": 2, "kv_heads": 1, "most_copies": 2},
        **{
            "decode_tokens": (128,),
            "prefill_tokens": (64,),
            "flex_tokens": (64,),
            "mask_tokens": (64,),
            "live_shares": (0.3, 1.0),
            "linear": ((64, 72),),
        },
        **{
            "sparsities": (0.5,),
            "linear_tokens": (1, 8),
            "checked_prefill_tokens": 64,
            "kept_shares": (0.2,),
            "checked_decode_tokens": 128,
            "decode_batches": ((2, 64),),
            "checked_mask_tokens": 70,
            "rate_rounds": 8,
        },
        **{"read_bytes": 1 << 14, "gathered_shares": (0.0, 0.5), "host_bytes": 1 << 12, "host_tokens": 16},
    )


@pytest.fixture
def stand_ins(script, monkeypatch):
    """torch.cuda as far as the benchmark uses it."""
    stand_in = script("stand_in_gpu")
    for name in ("Event", "Stream", "CUDAGraph", "graph", "current_stream", "stream", "synchronize", "get_device_properties", "_sleep"):
        monkeypatch.setattr(torch.cuda, name, getattr(torch.cuda, name))  # put back after the test
    stand_in.put_in_place(torch.cuda)
    monkeypatch.setattr(script("gpu_flex"), "compiled", uncompiled)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight)
    return stand_in


def uncompiled(q, k, v, block_mask, enable_gqa, kernel_options):
    """Attention that a graph can hold on the CPU; which keys are kept is tested beside it."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=enable_gqa)


@pytest.fixture(scope="module")
def emulated_rates(tmp_path_factory):
    if build.find_cxx() is None:
        pytest.skip("no C++ compiler")
    return build.build_emulator(tmp_path_factory.mktemp("rates"), [build.SOURCES / "device.cu", BENCHMARKS / "gpu_rates.cu"])


def kernels_for(section, request, monkeypatch):
    """The emulator of the kernels that a section calls."""
    rates = section in ("ceilings", "rates")
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(request.getfixturevalue("emulated_rates" if rates else "emulator")))
    native.cuda_library.cache_clear()


def test_the_checks_of_the_benchmark_pass(script, small, device):
    for name, check in script("gpu_section").CHECKS.items():
        said = list(check(small, device, ()))
        assert said and all(name.split()[0] in line for line in said)


TIMED = ("host", "ceilings", "time decode", "time linear", "time prefill", "time masks", "rates")


@pytest.mark.parametrize("section", TIMED)
def test_a_section_runs_from_its_job_to_its_rows(script, small, stand_ins, request, monkeypatch, tmp_path, section):
    kernels_for(section, request, monkeypatch)
    gpu, gpu_section = script("gpu"), script("gpu_section")
    (tmp_path / "job").write_text(json.dumps(encode(gpu_section.Job(section, "cpu", small, ()))))
    monkeypatch.setattr(sys, "argv", ["gpu_section.py", str(tmp_path / "job"), str(tmp_path / "rows")])
    gpu_section.main()
    native.cuda_library.cache_clear()
    rows = gpu.rows_of(tmp_path / "rows")
    assert len(rows) >= 2 and not [row for row in rows if "is not timed" in row]
    gpu.shown(gpu.Section(section, "done", 1.0, {}, rows))
    gpu.keep(tmp_path / "out", [gpu.Section(section, "done", 1.0, {"sm_clock_median_mhz": 1980.0}, rows)])
    timed = json.loads((tmp_path / "out" / "kernels_gpu.json").read_text())["runs"]
    compare = script("compare_records")
    assert len(compare.numbers({"runs": timed})) == len(timed) > 0  # each has a name of its own
    from xmsim.reports.benchmark_file import read_benchmark

    assert len(read_benchmark(tmp_path / "out" / "kernels_gpu.json").rows) == len(timed)
    if section in ("ceilings", "rates"):
        assert all(row["predicted_rate"] > 0 and row["rate"] and row["unit"] for row in timed)


def test_the_driver_knows_the_sections_and_what_they_need(script):
    gpu, gpu_section = script("gpu"), script("gpu_section")
    assert tuple(gpu_section.CHECKS) == gpu.CHECKS
    assert {"host", *gpu.TIMED} == set(gpu_section.TIMED) == set(TIMED)


def test_a_kernel_that_is_wrong_or_left_out_is_not_timed(script, small, stand_ins, request, monkeypatch):
    kernels_for("time linear", request, monkeypatch)
    gpu_linear, right = script("gpu_linear"), linear.dense_linear
    monkeypatch.setattr(linear, "dense_linear", lambda x, weight: right(x, weight) * 1.02)
    rows = list(gpu_linear.measure(replace(small, linear_tokens=(1,)), "cpu", ("teal",)))
    assert [row["kernel"] for row in rows if isinstance(row, dict)] == ["torch linear", "2:4, torch", "tca-bme", "macko", "spdp"]
    (sentence,) = [row for row in rows if isinstance(row, str)]
    assert "own dense is not timed on 64 x 72: WrongResult: own dense, 64 x 72, 1 tokens: error" in sentence
    native.cuda_library.cache_clear()


def test_attention_is_timed_without_the_kernels_whose_checks_failed(script, small, stand_ins, request, monkeypatch):
    kernels_for("time decode", request, monkeypatch)
    gpu_attention = script("gpu_attention")

    def timed(measure, *left_out):
        return [
            row["kernel"]
            for row in measure(replace(small, live_shares=(0.5,), decode_batches=()), "cpu", left_out)
            if isinstance(row, dict)
        ]

    dense = ["torch flash_attention", "torch flex_attention"]
    prefill = 2 * [*dense, "flex_attention, tiles skipped"]
    assert timed(gpu_attention.measure_decode, "prediction") == [*dense, "own dense", "own xm, keys given"]
    assert timed(gpu_attention.measure_decode, "decode") == [*dense, "own xm, prediction alone"]
    assert timed(gpu_attention.measure_prefill, "prefill", "shared masks") == prefill
    assert timed(script("gpu_masks").measure, "masks") == []
    monkeypatch.setattr(gpu_attention, "ALLOWED_ERROR", 0.0)
    monkeypatch.setattr(
        gpu_attention, "check_prediction", lambda *sizes: gpu_attention._checked("prediction", torch.ones(2), torch.zeros(2))
    )
    assert timed(gpu_attention.measure_decode) == dense and timed(gpu_attention.measure_prefill) == prefill
    native.cuda_library.cache_clear()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_keeps_the_keys_of_the_words(script, monkeypatch):
    gpu_attention, gpu_flex = script("gpu_attention"), script("gpu_flex")
    monkeypatch.setattr(gpu_flex, "compiled", torch.nn.attention.flex_attention.flex_attention)
    q, k, v = gpu_attention.operands(4, 2, 192, 192, "cpu")
    for words in (gpu_attention.tile_words(4, 192, 0.4, "cpu"), gpu_attention.key_words(2, 192, 0.2, "cpu")):
        out = gpu_flex.attend(q, k, v, gpu_flex.mask_of(words, 4))
        kept = (words != 0).any(-1).repeat_interleave(4 // len(words), 0)  # what flex gives where nothing is kept is its own
        gpu_attention._checked("flex", out[kept], gpu_attention.judged(q, k, v, words)[kept])
    every = torch.full((1, 192, 3), -1)
    seen = gpu_attention.tile_words(1, 192, 1.0, "cpu")
    for mask, words in ((None, every), (gpu_flex.causal_mask(192, "cpu"), seen)):
        gpu_attention._checked("flex", gpu_flex.attend(q, k, v, mask), gpu_attention.judged(q, k, v, words))


def test_two_of_four_keeps_the_largest(script):
    kept = script("gpu_linear").two_of_four(torch.tensor([[1.0, -4.0, 0.5, 2.0, 0.0, 0.0, 3.0, 0.0]]))
    assert kept.tolist() == [[0.0, -4.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0]]


def test_a_contender_that_cannot_be_captured_does_not_stop_the_others(script, small, stand_ins):
    timing = script("gpu_timing")
    x = torch.ones(2)
    samples, failures = timing.timed_by_turns(
        [timing.Contender("waits", (lambda: x.sum().item(),)), timing.Contender("runs", (x.sum,))], small
    )
    assert list(samples) == ["runs"] and len(samples["runs"]) == small.rounds
    assert failures == ["waits is not timed: AssertionError: aten::_local_scalar_dense cannot be captured"]
    with pytest.raises(RuntimeError, match="no baseline could be timed"):
        timing.fastest({})


FAKE_SECTION = """
import json, sys, time
job = json.load(open(sys.argv[1]))
rows = open(sys.argv[2], "w")
print(json.dumps({"name": "copy", "n": 2, "median_ms": 1.0, "first_quartile_ms": 1.0, "third_quartile_ms": 1.0, "min_ms": 1.0,
                  "max_ms": 1.0, "rate": 1.0, "unit": "GB/s", "left_out": job["left_out"]}), file=rows, flush=True)
print('{"cut', file=rows, flush=True)
if job["section"] == "time decode":
    print("decode begins", flush=True)
    time.sleep(60)
if job["section"] == "time linear":
    import os, signal
    os.kill(os.getpid(), signal.SIGSEGV)
if job["section"] in ("macko", "time masks"):
    raise RuntimeError("an illegal memory access was encountered")
"""


def test_what_fails_hangs_or_finds_no_time_is_a_sentence_of_the_record(script, monkeypatch, tmp_path):
    gpu = script("gpu")
    for name in ("kernels", "rates"):
        (tmp_path / "built" / name).mkdir(parents=True)
    (tmp_path / "built" / "kernels" / "library.so").touch()
    (tmp_path / "fake.py").write_text(FAKE_SECTION)
    monkeypatch.setattr(gpu, "TIMED", dict(gpu.TIMED, **{"time decode": 1}))
    run = gpu.Runner((sys.executable, tmp_path / "fake.py"), "cuda", script("gpu_shapes").QUICK, tmp_path, time.monotonic() + 60)
    failed = gpu.measure_all(run, [gpu.Section("build rates", "nvcc failed", 1.0)], tmp_path / "out")
    outcomes = {section.name: section.outcome for section in failed}
    assert outcomes == {
        "build rates": "nvcc failed",
        "macko": "RuntimeError: an illegal memory access was encountered",
        "ceilings": "not run: its kernels were not built",
        "time decode": "stopped at its limit of 1 s",
        "time linear": "ended by SIGSEGV: without a word",
        "time masks": "RuntimeError: an illegal memory access was encountered",
        "rates": "not run: its kernels were not built",
    }
    record = json.loads((tmp_path / "out" / "kernels_gpu.json").read_text())
    assert {one["name"]: one["outcome"] for one in record["sections"] if one["outcome"] != "done"} == outcomes
    assert len(record["runs"]) == 1 + len(gpu.CHECKS) + 4  # what was written before a section ended is kept
    assert record["runs"][-1]["left_out"] == ["build rates", "macko"]  # and a kernel whose check failed is not run again
    late = replace(run, ends=time.monotonic())
    assert {section.outcome for section in gpu.measure_all(late, [], None)} == {"not run: the time was up"}


def test_a_section_is_a_process_of_its_own(script, small, request, tmp_path):
    gpu = script("gpu")
    (tmp_path / "built" / "kernels").mkdir(parents=True)
    (tmp_path / "built" / "kernels" / "library.so").symlink_to(request.getfixturevalue("emulator"))
    run = gpu.Runner((sys.executable, HERE / "stand_in_gpu.py"), "cpu", small, tmp_path, time.monotonic() + 300)
    section = run("own dense", 250, ())
    assert section.outcome == "done" and section.rows[0].startswith("own dense, 1 tokens: error")


def test_a_build_that_fails_is_a_section_that_failed(script, tmp_path):
    def build_with(folder, sources):
        if sources:
            raise build.BuildError("nvcc failed on gpu_rates.cu:\n  an error")

    (failed,) = script("gpu").built(tmp_path, build_with)
    assert (failed.name, failed.outcome) == ("build rates", "nvcc failed on gpu_rates.cu: an error")


@pytest.mark.parametrize(("options", "device"), [(["--emulated"], "cpu"), (["--quick"], "cuda")])
def test_the_command_says_which_sections_failed(script, monkeypatch, options, device):
    gpu, seen = script("gpu"), []
    wrong = gpu.Section("macko", "WrongResult: macko", 1.0)
    monkeypatch.setattr(gpu, "built", lambda folder, build_with: [])
    monkeypatch.setattr(gpu, "check_all", lambda run: seen.append(run.device) or [wrong])
    monkeypatch.setattr(gpu, "measure_all", lambda run, failures, out: seen.append(run.device) or [wrong])
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    with pytest.raises(SystemExit, match="1 sections did not do what they should: macko"):
        gpu.main()
    assert seen == [device]


def test_clocks_are_read_from_what_nvidia_smi_wrote(script, monkeypatch, tmp_path):
    gpu_clocks = script("gpu_clocks")
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho '1980, 650.5, 61'\necho '1500, [N/A], 60'\necho '1740, 400.0, 64'\nexec sleep 30\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with gpu_clocks.sampled(tmp_path / "log"):
        while (tmp_path / "log").read_text().count("\n") < 3:
            time.sleep(0.01)
    assert gpu_clocks.clocks(tmp_path / "log") == {
        "sm_clock_median_mhz": 1860.0,
        "sm_clock_least_mhz": 1740.0,
        "power_most_w": 650.5,
        "temperature_most_c": 64.0,
    }
    assert gpu_clocks.clocks(tmp_path / "none") == {}


def test_files_of_tests_run_from_the_simplest_on_and_on_their_own(script, monkeypatch, tmp_path, capsys):
    gpu_tests = script("gpu_tests")
    names = [file.name for file in gpu_tests.files()]
    assert names[:2] == ["test_native.py", "test_emulator.py"] and "test_build.py" not in names
    assert {file.name for file in HERE.glob("test_*.py")} == {*names, "test_build.py", "test_weights.py"}
    (tmp_path / "test_one.py").write_text("print('FAILED test_one.py::test - wrong')\nprint('1 failed')\nraise SystemExit(1)")
    (tmp_path / "test_two.py").write_text("print('2 passed')")
    monkeypatch.setattr(gpu_tests, "files", lambda: [tmp_path / "test_one.py", tmp_path / "test_two.py"])
    ends = time.monotonic() + 60
    for file, fails in (("test_one.py", True), ("test_two.py", False)):
        assert gpu_tests.tested((sys.executable,), tmp_path / file, tmp_path / "library.so", tmp_path, ends) == fails
    assert gpu_tests.tested((sys.executable,), tmp_path / "test_two.py", tmp_path / "library.so", tmp_path, time.monotonic())
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("test_one.py: 1 failed, FAILED test_one.py::test - wrong") and said[1].startswith("test_two.py: 2 passed")
    assert said[2] == "test_two.py: not run: the time was up"
    monkeypatch.setattr(gpu_tests.build, "build_library", lambda folder: folder / "library.so")
    monkeypatch.setattr(gpu_tests, "tested", lambda command, file, *rest: file.name == "test_one.py")
    monkeypatch.setattr(sys, "argv", ["gpu_tests.py", "--out", str(tmp_path / "logs")])
    with pytest.raises(SystemExit, match=r"1 files failed: test_one\.py"):
        gpu_tests.main()


def test_checks_run_under_the_sanitizer(script, monkeypatch, tmp_path):
    gpu_sanitize, seen = script("gpu_sanitize"), []
    gpu = script("gpu")

    def check_all(run, seconds):
        seen.append([str(word) for word in run.command])
        return [gpu.Section("macko", "========= ERROR SUMMARY: 3 errors" if "racecheck" in seen[-1] else "done", 1.0)]

    monkeypatch.setattr(gpu_sanitize, "check_all", check_all)
    monkeypatch.setattr(gpu_sanitize, "built", lambda folder, build_with: [])
    monkeypatch.setattr(sys, "argv", ["gpu_sanitize.py", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu_sanitize.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="no compute-sanitizer"):
        gpu_sanitize.main()
    monkeypatch.setattr(gpu_sanitize.shutil, "which", lambda name: "/compute-sanitizer")
    with pytest.raises(SystemExit, match="something is wrong: racecheck of macko"):
        gpu_sanitize.main()
    assert [command[:3] for command in seen] == [["/compute-sanitizer", "--tool", tool] for tool in ("memcheck", "racecheck")]


def test_attention_that_was_timed_becomes_a_measurement_that_compare_reads(script, tmp_path):
    gpu_record = script("gpu_record")
    from xmsim.reports.collection import load
    from xmsim.workloads.measurement import Host, Timing, read_measurement

    timing = {name: 4.0 for name in Timing.__dataclass_fields__} | {"n": 50}
    shape = {"tokens": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "bfloat16", **timing}
    error = {"error": 1e-3, "largest_error": 0.01, "allowed_error": 0.02}
    rows = [
        {"name": "copy", "rate": 1.0},
        {"phase": "decode", "kernel": "torch cudnn_attention", "kv_density": 1.0, **shape},
        {"phase": "decode", "kernel": "own dense", "kv_density": 1.0, **shape, **error},
        {"phase": "decode", "kernel": "own xm", "kv_density": 0.1, **shape, **error},
        {"phase": "decode", "kernel": "own xm, prediction alone", "kv_density": 0.1, **shape},
        {"phase": "prefill", "kernel": "torch flash_attention", **shape},
        {"phase": "prefill", "kernel": "own, list given", "live_tiles": 0.2, **shape, **error},
        {"phase": "prefill", "kernel": "torch flash_attention", **shape, "median_ms": 5.0},
        {"phase": "mask", "kernel": "own xm mask, 1:2 4 bits", "density": 0.13, **shape},
    ]
    host = Host("a cpu", 1, (), 1, "a gpu", "Linux", "3.12", {})
    decode, prefill = gpu_record.write_measurements(tmp_path, rows, host)
    runs = read_measurement(decode).runs
    assert [(run.operation, run.method, run.query_tokens, run.density) for run in runs] == [
        ("dense attention", "dense", 1, 1.0),
        ("dense attention", "dense", 1, 1.0),
        ("sparse attention", "xm", 1, 0.1),
        ("mask", "xm", 1, 0.1),
    ]
    assert (runs[1].max_error, runs[1].allowed_error, runs[0].max_error) == (0.01, 0.02, None)
    runs = read_measurement(prefill).runs
    assert [run.backend for run in runs] == ["torch flash_attention", "own, list given, 20% of tiles live", "own xm mask, 1:2 4 bits"]
    assert runs[0].timing.median_ms == 4.0 and runs[1].query_tokens == 4096
    for path in (decode, prefill):
        assert len(load([path]).measured[0].record.runs) >= 3
