"""xmsim measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from xmsim.cli.measure import measure
from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels.native import offered_isa
from xmsim.reports.words import significant
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.measurement import read_measurement

pytest.importorskip("torch")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    model = ModelFacts("noise", "llama", 2, 2, 1, 16, 64, 100, "0" * 64, "0" * 64)
    writer = TraceWriter(tmp_path / "trace", Manifest(model, "float32", (70,), layer_ids=(0, 1), head_ids=(0, 1), kv_head_ids=(0,), seed=0))
    rng = np.random.default_rng(0)
    for layer in (0, 1):
        q, k, v = (rng.standard_normal((1, heads, 70, 16), dtype=np.float32) for heads in (2, 1, 1))
        writer.write_layer(layer, q, k, v, scale=0.25, bias=Bias("causal"))
    return tmp_path / "trace"


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(measure)
    return made


def test_it_prints_each_time_with_its_spread_and_writes_the_record(tmp_path: Path, trace: Path, app: typer.Typer) -> None:
    out = tmp_path / "results" / "cpu.json"
    result = CliRunner().invoke(app, [str(trace), "--method", "xm", "--layers", "1", "--threads", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    record = read_measurement(out)
    lines = result.output.splitlines()
    assert lines[0].split() == f"noise, method xm, all heads of window 0 (measured: {record.host.cpu}, 1 threads)".split()
    assert "median [q1–q3] ms" in lines[1]
    for run, line in zip(record.runs, lines[2:5], strict=True):
        timing = run.timing
        spread = f"{significant(timing.median_ms)} [{significant(timing.first_quartile_ms)}–{significant(timing.third_quartile_ms)}]"
        words = [
            str(run.layer),
            run.operation.split()[0],
            *run.backend.split(),
            run.dtype,
            *spread.split(),
            str(timing.n),
            f"{run.density:.4f}",
        ]
        assert line.split() == words
    assert lines[5] == f"wrote {out}" or "".join(lines[5:]) == f"wrote {out}"


@pytest.mark.skipif(offered_isa() is None, reason="no compiled kernels")
def test_decoded_tokens_are_one_row_for_each_kernel_of_a_layer(tmp_path: Path, trace: Path, app: typer.Typer) -> None:
    out = tmp_path / "decode.json"
    options = ["--method", "xm:1_2_4bit", "--decode", "2", "--layers", "1", "--threads", "1", "--device", "cpu", "--out"]
    result = CliRunner().invoke(app, [str(trace), *options, str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    record = read_measurement(out)
    assert [run.key_tokens for run in record.runs] == [69] * 4 + [70] * 4
    lines = result.output.splitlines()
    assert "a decoded token (mean of 2)" in " ".join(lines)
    (head,) = [place for place, line in enumerate(lines) if line.startswith("layer")]
    assert [line.split()[:2] for line in lines[head + 1 : head + 5]] == [["1", "dense"], ["1", "dense"], ["1", "mask"], ["1", "sparse"]]
    mean = sum(run.timing.median_ms for run in record.runs if run.operation == "sparse attention") / 2
    assert f" {significant(mean)} [" in lines[head + 4]


def test_decode_is_of_a_trace(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--model", "xm-tiny", "--decode", "2"])
    assert isinstance(result.exception, XmsimError) and str(result.exception).startswith("--decode is of a trace; ")
