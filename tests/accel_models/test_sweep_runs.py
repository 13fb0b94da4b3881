"""Points simulated: the numbers of `simulate`, whoever does the work; and a bad point costs no other its result."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models.accelerator import Accelerator
from xmsim.accel_models.runs import simulate_trace
from xmsim.accel_models.sweep.masks import MaskFolder
from xmsim.accel_models.sweep.points import Point, Sweep, TracePart
from xmsim.accel_models.sweep.runs import run_points
from xmsim.accel_models.sweep.simulate import Outcome, simulate_points
from xmsim.accel_models.sweep.sweep_file import read_sweep
from xmsim.accel_models.sweep.workers import Workers, workers
from xmsim.configs.errors import XmsimError
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.decode import decode_workloads, with_prefill_scale
from xmsim.workloads.methods.library import load_method

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TRACE = GOLDEN / "trace_v2"
IN_THIS_PROCESS = Workers("loky", 1)
SMALL = """\
machines: [dynax_s, sanger]
methods: [native, topk]
axes:
  clock_mhz: [400, 500]
  dram: [{gigabytes_per_second: 16, latency_ns: 100}, {kind: lpddr5_6400, latency_ns: 40}]
"""


PHASES = ("", "decode: 1\n", "decode: 2\n")


def trace_of(folder: Path, *, tokens: int, layers: int = 1) -> Trace:
    """A causal trace of random operands: 4 heads on 2 KV heads."""
    model = ModelFacts("random", "llama", layers, 4, 2, 16, 64, 100, "0" * 64, "0" * 64)
    writer = TraceWriter(folder, Manifest(model, "float32", (tokens,), tuple(range(layers)), (0, 1, 2, 3), (0, 1), seed=0))
    for layer in writer.missing:
        q, k, v = (np.random.default_rng([layer, at]).standard_normal((1, n, tokens, 16), np.float32) for at, n in enumerate((4, 2, 2)))
        writer.write_layer(layer, q=q, k=k, v=v, scale=0.25, bias=Bias("causal"))
    return open_trace(folder)


def sweep_of(folder: Path, text: str, trace: Path = TRACE) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return read_sweep(path, [trace])


def outcomes(sweep: Sweep, folder: Path, by: Workers = IN_THIS_PROCESS, done: frozenset[str] = frozenset()) -> dict[str, Outcome]:
    found = list(run_points(sweep.points(), by, folder / "masks", done=done, error_bars=sweep.error_bars))
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


def machine_of(point: Point) -> Accelerator:
    named = point.machine.machine
    return type(named)(named.name, named.Config.model_validate(point.config()))


def test_a_point_has_the_numbers_that_simulate_gives(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SMALL + "error_bars: true\n")
    found = outcomes(sweep, tmp_path)
    assert len(found) == 16
    for point in sweep.points():
        record = simulate_trace(point.trace, machine_of(point), point.method if point.same_mask else None)
        metrics = found[point.key].metrics
        assert metrics is not None and record.costs is not None
        assert metrics["total_cycles"] == record.cycles
        assert metrics["latency_ms"] == record.milliseconds(record.cycles)
        assert metrics["roofline_cycles"] == sum(run.result.roofline_cycles for run in record.runs)
        assert metrics["dram_bytes"] == sum(sum(sum(c.values()) for c in run.result.traffic.values()) for run in record.runs)
        assert metrics["area_mm2"] == pytest.approx(record.costs.area.total.nominal, rel=1e-12)
        assert metrics["energy_pj"] == pytest.approx(record.costs.energy.nominal, rel=1e-12)
        assert metrics["power_mw"] == pytest.approx(record.costs.power.nominal, rel=1e-12)
        bar = record.costs.energy
        assert (metrics["energy_low_pj"], metrics["energy_high_pj"]) == pytest.approx((bar.low, bar.high), rel=1e-12)
        assert metrics["energy_low_pj"] < metrics["energy_pj"] < metrics["energy_high_pj"]


@pytest.mark.parametrize(
    ("asked", "layers", "decode"), [("layers: 1\n", [1], None), ("decode: 3\n", None, 3), ("layers: 0-0\ndecode: 2\n", [0], 2)]
)
def test_a_part_of_a_trace_has_the_numbers_that_simulate_gives(
    tmp_path: Path, asked: str, layers: list[int] | None, decode: int | None
) -> None:
    trace = trace_of(tmp_path / "trace", tokens=66, layers=2)
    text = "machines: [dynax_s, sanger]\nmethods: [native, topk]\naxes:\n  clock_mhz: [400, 500]\n"
    found = outcomes(sweep := sweep_of(tmp_path, text + asked, trace.path), tmp_path)
    assert len(found) == 8
    for point in sweep.points():
        record = simulate_trace(trace, machine_of(point), point.method if point.same_mask else None, layers=layers, decode_tokens=decode)
        metrics = found[point.key].metrics
        assert metrics is not None and record.costs is not None
        assert metrics["total_cycles"] == record.cycles
        assert metrics["latency_ms"] == record.milliseconds(record.cycles)
        assert metrics["dram_bytes"] == sum(sum(sum(c.values()) for c in run.result.traffic.values()) for run in record.runs)
        assert metrics["energy_pj"] == pytest.approx(record.costs.energy.nominal, rel=1e-12)
        assert len(record.runs) == (decode or 1) * (2 if layers is None else 1)


def test_phases_of_one_trace_share_a_folder_of_masks(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "trace", tokens=66)
    apart = [
        outcomes(sweep_of(tmp_path, f"machines: [sanger]\n{asked}", trace.path), tmp_path / str(at)) for at, asked in enumerate(PHASES)
    ]
    together = [outcomes(sweep_of(tmp_path, f"machines: [sanger]\n{asked}", trace.path), tmp_path) for asked in PHASES]
    assert together == apart
    assert len({key for found in together for key in found}) == len(PHASES)


def test_error_bars_are_made_only_if_asked_for(tmp_path: Path) -> None:
    (found,) = outcomes(sweep_of(tmp_path, "machines: [dynax_s]\n"), tmp_path).values()
    assert found.metrics is not None and {"area_mm2", "energy_pj"} <= set(found.metrics)
    assert not any("low" in name or "high" in name for name in found.metrics)


def test_outcomes_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SMALL)
    with workers(2) as two:
        assert outcomes(sweep, tmp_path / "two", two) == outcomes(sweep, tmp_path / "one")


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SMALL)
    keys = [point.key for point in sweep.points()]
    rest = outcomes(sweep, tmp_path, done=frozenset(keys[3:]))
    assert set(rest) == set(keys[:3])
    assert outcomes(sweep, tmp_path / "nothing", done=frozenset(keys)) == {}
    assert not (tmp_path / "nothing").exists()


def test_a_schedule_is_built_once_for_points_that_differ_in_clock_and_dram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = Accelerator.layer_schedule

    def counted(self: Accelerator, workload: object) -> object:
        built.append(self.name)
        return original(self, workload)  # type: ignore[arg-type]

    monkeypatch.setattr(Accelerator, "layer_schedule", counted)
    text = "machines: [dynax_s]\naxes:\n  clock_mhz: [400, 500, 600]\n  dram.gigabytes_per_second: [16, 32]\n  dividers: [64, 128]\n"
    sweep = sweep_of(tmp_path, text)
    assert len(outcomes(sweep, tmp_path)) == 12
    trace = sweep.traces[0]
    assert len(built) == 2 * len(trace.layers) * trace.windows  # one for each number of dividers


def test_a_mask_is_made_once_for_each_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = MaskFolder.make
    monkeypatch.setattr(
        MaskFolder, "make", lambda self, trace, part, method, layer: made.append(method.name) or original(self, trace, part, method, layer)
    )
    sweep = sweep_of(tmp_path, SMALL)
    outcomes(sweep, tmp_path)
    layers = len(sweep.traces[0].layers)
    assert sorted(made) == sorted(["sanger", "topk", "xm_32"] * layers)
    outcomes(sweep, tmp_path)
    assert len(made) == 3 * layers


def test_a_mask_file_holds_the_methods_mask_and_its_shape(tmp_path: Path) -> None:
    trace, method = open_trace(TRACE), load_method("xm")
    folder, part, layer = MaskFolder(tmp_path), TracePart(trace.layers), trace.layers[1]
    folder.make(trace, part, method, layer)
    captured = trace.read_layer(layer)
    for window, tokens in enumerate(captured.valid_tokens):
        workload = folder.workload(trace, part, method, layer, window, tokens)
        assert np.array_equal(workload.keep(), method.keep(captured, window))
        assert workload.kv_heads == len(captured.kv_head_ids) and workload.head_dim == captured.q.shape[3]


def test_a_mask_file_holds_the_masks_of_decoded_tokens(tmp_path: Path) -> None:
    """Their rows end in different words: 64 keys are one, 65 are two."""
    trace, method = trace_of(tmp_path / "trace", tokens=66), load_method("topk")
    folder, part = MaskFolder(tmp_path), TracePart(trace.layers, decode_tokens=3)
    assert list(part.cache_tokens(66)) == [64, 65, 66]
    folder.make(trace, part, method, 0)
    captured = with_prefill_scale(trace.read_layer(0), 3)
    for keys, expected in zip((64, 65, 66), decode_workloads(captured, 0, method, 3), strict=True):
        workload = folder.workload(trace, part, method, 0, 0, keys)
        assert (workload.queries, workload.keys, workload.causal) == (1, keys, True)
        assert np.array_equal(workload.words, expected.words)


BAD = """\
machines: [dynax_s]
axes:
  pruning.block: [32, 64]
  kv.buffer_bytes: [128, 131072]
  clock_mhz: [500, 90000]
"""


def test_a_bad_point_fails_with_its_sentence_and_the_others_go_on(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BAD)
    found = outcomes(sweep, tmp_path)
    for point in sweep.points():
        error, metrics = found[point.key].error, found[point.key].metrics
        if point.values["pruning.block"] == 64:  # the configuration contradicts itself
            assert error is not None and error.startswith("dynax_s with its overrides: pruning.block: the cascades rank blocks of 64 keys")
        elif point.values["kv.buffer_bytes"] == 128:  # the workload does not fit
            assert error is not None and error.startswith("dynax_s: kv.buffer_bytes: 128 do not hold K and V of one block of 32 keys")
        elif point.values["clock_mhz"] == 90000:  # the technology is too slow
            assert error is not None and "a lower clock_mhz" in error
        else:
            assert error is None
        assert (error is None) == (metrics is not None)
        assert error is None or "\n" not in error


def test_a_fault_in_a_model_is_a_failed_point_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Accelerator, workload: object) -> object:
        if self.config.clock_mhz == 900:
            raise ZeroDivisionError("division by zero")
        return original(self, workload)  # type: ignore[arg-type]

    original = Accelerator.layer_schedule
    monkeypatch.setattr(Accelerator, "layer_schedule", broken)
    sweep = sweep_of(tmp_path, "machines: [sanger]\naxes:\n  clock_mhz: [900, 500]\n")
    failed, fine = (outcomes(sweep, tmp_path)[point.key] for point in sweep.points())
    assert failed.error == "ZeroDivisionError: division by zero" and fine.error is None


def test_a_mask_that_cannot_be_made_fails_the_points_that_need_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    for file in TRACE.iterdir():
        (trace / file.name).write_bytes(file.read_bytes())
    layer = next(iter(sorted(trace.glob("layer_*1.safetensors"))))
    layer.write_bytes(layer.read_bytes()[:-3])
    found = outcomes(sweep_of(tmp_path, "machines: [sanger, dense]\n", trace), tmp_path)
    assert all(one.error is not None and str(layer) in one.error for one in found.values()) and len(found) == 2


def test_a_worker_of_another_xmsim_or_another_trace_stops_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path, "machines: [sanger]\n")
    outcomes(sweep, tmp_path)
    tasks = []
    monkeypatch.setattr(Workers, "map", lambda self, work, given: tasks.extend(given) or iter(()))
    list(run_points(sweep.points(), IN_THIS_PROCESS, tmp_path / "masks", done=(), error_bars=False))
    (task,) = tasks
    with pytest.raises(XmsimError, match="a worker has another xmsim than this command; install the same one"):
        simulate_points(replace(task, code_sha256="0" * 64))
    with pytest.raises(XmsimError, match="not the trace that the sweep was started with"):
        simulate_points(replace(task, trace_sha256="0" * 64))


MEMORY = """\
import re, sys
from pathlib import Path
from xmsim.accel_models.sweep.runs import run_points
from xmsim.accel_models.sweep.sweep_file import read_sweep
from xmsim.accel_models.sweep.workers import Workers
sweep = read_sweep(Path(sys.argv[1]), [Path(sys.argv[2])])
assert all(o.error is None for o in run_points(sweep.points(), Workers("loky", 1), Path(sys.argv[3]), done=(), error_bars=False))
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # getrusage's counts the process that started this one
print(int(peak_kb) // 1024, "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_worker_stays_within_600_megabytes_and_needs_no_torch(tmp_path: Path) -> None:
    sweep_of(tmp_path, SMALL)
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "sweep.yaml"), str(TRACE), str(tmp_path / "masks")]
    megabytes, torch = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert int(megabytes) <= 600 and torch == "False"
