"""xmsim measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from xmsim.cli.measure import measure
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.measurement import read_measurement

pytest.importorskip("torch")


def test_it_prints_each_time_with_its_spread_and_writes_the_record(tmp_path: Path) -> None:
    model = ModelFacts("noise", "llama", 2, 2, 1, 16, 64, 100, "0" * 64, "0" * 64)
    writer = TraceWriter(tmp_path / "trace", Manifest(model, "float32", (70,), layer_ids=(0, 1), head_ids=(0, 1), kv_head_ids=(0,), seed=0))
    rng = np.random.default_rng(0)
    for layer in (0, 1):
        q, k, v = (rng.standard_normal((1, heads, 70, 16), dtype=np.float32) for heads in (2, 1, 1))
        writer.write_layer(layer, q, k, v, scale=0.25, bias=Bias("causal"))
    app = typer.Typer()
    app.command()(measure)
    out = tmp_path / "results" / "cpu.json"
    result = CliRunner().invoke(app, [str(tmp_path / "trace"), "--method", "xm", "--layers", "1", "--threads", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    record = read_measurement(out)
    lines = result.output.splitlines()
    assert lines[0].split() == f"noise, method xm, all heads of window 0 (measured: {record.host.cpu}, 1 threads)".split()
    assert "median [q1–q3] ms" in lines[1]
    for run, line in zip(record.runs, lines[2:5], strict=True):
        timing = run.timing
        spread = f"{timing.median_ms:.2f} [{timing.first_quartile_ms:.2f}–{timing.third_quartile_ms:.2f}]"
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
