"""Whole traces through machines: prefill, decode, samples of heads, and masks that are not the machine's own."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.accelerator import Accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.machine_file import shipped_accelerators
from xmsim.accel_models.runs import result_file_name, simulate_trace
from xmsim.configs.errors import XmsimError
from xmsim.sim.head_sampling import Stratum, estimate_total
from xmsim.sim.result import HeadSampling, read_result, write_result
from xmsim.traces.manifest import Bias, Manifest, ModelFacts
from xmsim.traces.store import Trace, open_trace
from xmsim.traces.writer import TraceWriter
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.methods.library import MethodReference, load_method
from xmsim.workloads.synthetic import sink_local_operands

LAYERS, WINDOWS, HEADS, KV_HEADS, TOKENS, HEAD_DIM = 3, 2, 16, 8, 96, 16


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """KV groups whose scores, and so densities, differ from group to group and layer to layer."""
    model = ModelFacts("made up", "llama", LAYERS, HEADS, KV_HEADS, HEAD_DIM, HEADS * HEAD_DIM, 64, "0" * 64, "1" * 64)
    plan = Manifest(model, "float32", (TOKENS,) * WINDOWS, tuple(range(LAYERS)), tuple(range(HEADS)), tuple(range(KV_HEADS)), seed=1)
    folder = tmp_path_factory.mktemp("runs") / "trace"
    writer = TraceWriter(folder, plan)
    for layer in range(LAYERS):
        windows = [sink_local_operands(HEADS, TOKENS, HEAD_DIM, seed=10 * layer + at, kv_heads=KV_HEADS) for at in range(WINDOWS)]
        sharpness = np.random.default_rng(layer).uniform(0.3, 2, KV_HEADS).astype(np.float32).repeat(HEADS // KV_HEADS)
        q = np.stack([one.q for one in windows]) * sharpness[:, None, None]
        k, v = (np.stack([getattr(one, name) for one in windows]) for name in ("k", "v"))
        writer.write_layer(layer, q=q, k=k, v=v, scale=HEAD_DIM**-0.5, bias=Bias("causal"))
    return open_trace(folder)


@pytest.mark.parametrize("name", shipped_accelerators())
def test_every_shipped_machine_serves_prefill_and_decode(trace: Trace, name: str) -> None:
    machine = load_accelerator(name)
    prefill = simulate_trace(trace, machine, layers=[0])
    decode = simulate_trace(trace, machine, layers=[0], decode_tokens=2)
    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    assert [(run.window, run.query_tokens, run.key_tokens) for run in prefill.runs] == [(0, TOKENS, TOKENS), (1, TOKENS, TOKENS)]
    assert [(run.window, run.query_tokens, run.key_tokens) for run in decode.runs] == [(0, 1, 95), (0, 1, 96), (1, 1, 95), (1, 1, 96)]
    for run in (*prefill.runs, *decode.runs):
        assert run.result.roofline_cycles <= run.result.cycles <= run.result.serial_cycles
        assert sum(head.cycles for head in run.result.heads) == run.result.cycles
    assert result_file_name(decode) == f"{name}.decode.json"


def test_a_token_takes_all_its_layers_and_the_record_states_the_median(trace: Trace) -> None:
    record = simulate_trace(trace, load_accelerator("dense"), decode_tokens=3)
    tokens = {(run.window, run.key_tokens): 0 for run in record.runs}
    for run in record.runs:
        tokens[run.window, run.key_tokens] += run.result.cycles
    assert len(tokens) == 6
    assert record.median_token_cycles == np.median(list(tokens.values()))
    assert record.cycles == sum(tokens.values())


def test_a_sample_of_all_heads_is_the_whole_without_an_interval(trace: Trace) -> None:
    machine = load_accelerator("dynax_s")
    whole, sample = (simulate_trace(trace, machine, layers=[1], sampling=sampling) for sampling in (None, HeadSampling(KV_HEADS, seed=3)))
    assert sample.cycles == whole.cycles and sample.estimate.half_width == 0
    assert [run.result for run in sample.runs] == [run.result for run in whole.runs]


@pytest.mark.parametrize("decode_tokens", [None, 2])
def test_sampled_heads_are_those_of_the_layer_and_come_back_from_the_file(trace: Trace, tmp_path: Path, decode_tokens: int | None) -> None:
    machine, sampling = load_accelerator("dynax_s"), HeadSampling(3, seed=5)
    whole = simulate_trace(trace, machine, decode_tokens=decode_tokens)
    record = simulate_trace(trace, machine, decode_tokens=decode_tokens, sampling=sampling)
    assert len({run.sampled_kv_heads for run in record.runs}) > 1, "layers and windows are drawn apart"
    for run, of_all in zip(record.runs, whole.runs, strict=True):
        assert run.kv_heads == KV_HEADS and run.heads == HEADS and len(run.sampled_kv_heads) == 3
        assert [head.head for head in run.result.heads] == [2 * kv_head + member for kv_head in run.sampled_kv_heads for member in (0, 1)]
        densities = {head.head: head.densities for head in of_all.result.heads}
        assert all(head.densities == densities[head.head] for head in run.result.heads)
    estimate = record.estimate
    assert estimate.low < estimate.total < estimate.high and record.cycles == round(estimate.total)
    write_result(tmp_path / "sample.json", record)
    assert read_result(tmp_path / "sample.json") == record
    again = simulate_trace(trace, machine, layers=[2], decode_tokens=decode_tokens, sampling=sampling)
    assert again.runs == tuple(run for run in record.runs if run.layer == 2), "a layer's sample depends on no other"


def test_over_many_seeds_the_interval_covers_the_total_of_a_full_simulation(trace: Trace) -> None:
    """The estimator on the heads' cycles of one full simulation; what overlap adds is in the next test."""
    runs = simulate_trace(trace, load_accelerator("dynax_s")).runs
    groups = [np.add.reduceat([head.cycles for head in run.result.heads], range(0, HEADS, 2)).tolist() for run in runs]
    total = sum(run.result.cycles for run in runs)
    covered, seeds = 0, 1000
    for seed in range(seeds):
        stream = random.Random(seed)
        estimate = estimate_total(Stratum(KV_HEADS, tuple(stream.sample(cycles, 4))) for cycles in groups)
        covered += estimate.low <= total <= estimate.high
    assert 0.92 <= covered / seeds <= 0.985


def test_samples_count_the_fill_of_a_layer_once_for_each_of_their_heads(trace: Trace) -> None:
    """The known bias: too high, by no more than the fill of the layers times the heads that are not simulated, over those that are."""
    machine = load_accelerator("dynax_s")
    truth = simulate_trace(trace, machine, layers=[0]).cycles
    means = np.mean([simulate_trace(trace, machine, layers=[0], sampling=HeadSampling(4, seed)).cycles for seed in range(30)])
    assert -0.01 < means / truth - 1 < 0.10


def test_one_head_of_several_is_refused(trace: Trace) -> None:
    with pytest.raises(XmsimError, match=r"--sample-heads 1: one of 8 KV heads .* at least 2"):
        simulate_trace(trace, load_accelerator("dense"), sampling=HeadSampling(1, seed=0))


def with_method(machine: Accelerator, **parameters: int) -> Accelerator:
    """The machine with its own method, some parameters replaced."""
    method = MethodReference(**(machine.config.method.model_dump() | parameters))
    return type(machine)(machine.name, machine.config.model_copy(update={"method": method}))


@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_that_a_machine_does_not_reach_is_refused_with_the_nearest_value_that_does(causal: bool) -> None:
    random_keep = np.random.default_rng(5).random((2, 150, 150)) < 0.2
    workload = AttentionWorkload.from_keep(random_keep & np.tri(150, dtype=bool) if causal else random_keep, head_dim=16, causal=causal)

    def refusal(name: str) -> str:
        with pytest.raises(WorkloadError) as error:
            load_accelerator(name).refuse_foreign_mask(workload)
        return str(error.value)

    most = workload.block_counts(32).max()
    assert f"pruning.kept: the cascade ranks 8 of 32 keys, and the mask keeps up to {most}; " in refusal("dynax_s")
    assert refusal("dynax_s").endswith(f"the least that does: {most}")
    window, dilation = map(int, re.search(r"window (\d+), dilation (\d+)$", refusal("salo")).groups())
    salo = load_accelerator("salo")
    with_method(salo, window=window, dilation=dilation).refuse_foreign_mask(workload)
    with pytest.raises(WorkloadError):
        with_method(salo, window=window - 1, dilation=dilation).refuse_foreign_mask(workload)
    picks = int(re.search(r"least that reach all: (\d+)$", refusal("salo_v2")).group(1))
    salo_v2 = load_accelerator("salo_v2")
    with_method(salo_v2, picks=picks).refuse_foreign_mask(workload)
    with pytest.raises(WorkloadError):
        with_method(salo_v2, picks=picks - 1).refuse_foreign_mask(workload)


@pytest.mark.parametrize("name", ["dynax_s", "dynax_l", "sanger", "salo", "salo_v2", "dense"])
@pytest.mark.parametrize("decode_tokens", [None, 2])
def test_every_machine_takes_the_masks_of_its_own_method(trace: Trace, name: str, decode_tokens: int | None) -> None:
    simulate_trace(trace, load_accelerator(name), layers=[0], decode_tokens=decode_tokens, strict=True)


def test_without_strict_a_foreign_mask_is_simulated_and_its_coverage_reported(trace: Trace) -> None:
    method, machine = load_method("sanger"), load_accelerator("salo_v2")
    assert simulate_trace(trace, machine, method, layers=[0]).runs[0].result.metrics["coverage"] < 1
    with pytest.raises(WorkloadError, match=r"method\.picks"):
        simulate_trace(trace, machine, method, layers=[0], strict=True)
