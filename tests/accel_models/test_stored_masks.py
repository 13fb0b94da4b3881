"""Simulation on masks that were stored with the trace, and on masks made anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.runs import simulate_trace
from xmsim.sim.result import HeadSampling
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import Maker, TraceWriter
from xmsim.workloads.extraction.derived import layer_mask
from xmsim.workloads.methods.library import Method, load_method

HEADS, KV_HEADS, TOKENS, HEAD_DIM = 8, 4, 70, 16


@pytest.fixture
def writer(tmp_path: Path) -> TraceWriter:
    """Of a trace of two layers and two windows of normal noise."""
    rng = np.random.default_rng(0)
    model = ModelFacts("noise", "llama", 2, HEADS, KV_HEADS, HEAD_DIM, HEADS * HEAD_DIM, 64, "0" * 64, "1" * 64)
    plan = Manifest(model, "float32", (TOKENS, 50), (0, 1), tuple(range(HEADS)), tuple(range(KV_HEADS)), seed=0)
    writer = TraceWriter(tmp_path / "trace", plan)
    for layer in (0, 1):
        q, k, v = (rng.standard_normal((2, heads, TOKENS, HEAD_DIM), np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
        writer.write_layer(layer, q, k, v, scale=0.25, bias=Bias("causal"))
    return writer


def with_mask(writer: TraceWriter, path: Path, method: Method, *, as_kept: bool) -> Trace:
    """Store the method's mask of layer 1, or for the sake of the test that of every allowed pair."""
    made = method if as_kept else load_method("dense")
    words, _ = layer_mask(made, open_trace(path).read_layer(1))
    writer.write_mask(1, method.name, method.parameters, words, Maker("native", "avx2", 0.1))
    return open_trace(path)


@pytest.mark.parametrize("sampling", [None, HeadSampling(2, seed=3)])
def test_a_stored_mask_is_used_and_gives_what_the_method_gives(writer: TraceWriter, tmp_path: Path, sampling: HeadSampling | None):
    machine, method = load_accelerator("dynax_s"), load_method("xm_32:1_2_4bit")
    before = simulate_trace(open_trace(tmp_path / "trace"), machine, method, sampling=sampling)
    assert "masks" not in before.trace
    trace = with_mask(writer, tmp_path / "trace", method, as_kept=True)
    record = simulate_trace(trace, machine, method, sampling=sampling)
    assert record.runs == before.runs
    assert record.trace == before.trace | {"masks": "1 of 2 layers as stored, the others made anew"}


def test_it_is_the_stored_mask_that_is_simulated(writer: TraceWriter, tmp_path: Path):
    machine, method = load_accelerator("dense"), load_method("xm_32")
    trace = with_mask(writer, tmp_path / "trace", method, as_kept=False)
    densities = [run.result.densities.density for run in simulate_trace(trace, machine, method, layers=[1]).runs]
    assert densities == [1.0, 1.0]
    assert simulate_trace(trace, machine, method, layers=[1]).trace["masks"] == "1 of 1 layers as stored"


def test_a_mask_of_other_parameters_or_scales_and_a_decode_are_made_anew(writer: TraceWriter, tmp_path: Path):
    machine, method = load_accelerator("dense"), load_method("xm_32")
    trace = with_mask(writer, tmp_path / "trace", method, as_kept=False)
    stale = replace(trace.manifest, layers=tuple(replace(facts, q_max=facts.q_max * 2) for facts in trace.manifest.layers))
    for given, options in ((trace, {"method": load_method("xm")}), (replace(trace, manifest=stale), {}), (trace, {"decode_tokens": 1})):
        record = simulate_trace(given, machine, **({"method": method} | options), layers=[1])
        assert record.trace["masks"] == "0 of 1 layers as stored, the others made anew"
        assert all(run.result.densities.density < 1 for run in record.runs)
