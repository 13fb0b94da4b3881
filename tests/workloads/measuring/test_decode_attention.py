"""Decoding of a trace, timed: which tokens, which kernels, what is checked before, and what the record says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xmsim.configs.errors import XmsimError
from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.reference.kernels.native import offered_isa
from xmsim.traces.manifest import Bias
from xmsim.traces.store import Trace
from xmsim.workloads.decode import decode_workloads, with_prefill_scale
from xmsim.workloads.measurement import MeasurementRecord, read_measurement, write_measurement
from xmsim.workloads.measuring import cpu_decoder, decode_attention, dense_decode
from xmsim.workloads.measuring.decode_attention import measure_decode
from xmsim.workloads.measuring.gpu_decoder import GpuDecoder
from xmsim.workloads.measuring.timing import time_in_turns
from xmsim.workloads.methods.library import load_method

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(offered_isa() is None, reason="no compiled kernels")
SLOPES = (0.5, 0.25, 0.125, 0.0625)
BIASES = [Bias("causal"), Bias("sliding_window", window=30), Bias("alibi", slopes=SLOPES)]
TraceMaker = Callable[[Bias, tuple[int, ...]], Trace]


def measured(trace: Trace, name: str, tokens: int = 2, **options: object) -> MeasurementRecord:
    return measure_decode(trace, load_method(name), tokens, rounds=2, threads=1, device="cpu", **options)


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: bias.kind)
def test_the_tokens_and_masks_are_those_that_simulate_decodes(bias: Bias, trace_with: TraceMaker, tmp_path: Path) -> None:
    trace = trace_with(bias, (90, 70))
    record = measured(trace, "xm:1_2_4bit", tokens=3, window=1)
    assert [(run.layer, run.key_tokens) for run in record.runs if run.operation == "sparse attention"] == [
        (layer, keys) for layer in (0, 1) for keys in (68, 69, 70)
    ]
    layer = trace.read_layer(1)
    q, k, v = (bfloat16_values(bfloat16_bits(x)) for x in (layer.q, layer.k, layer.v))
    steps = decode_workloads(with_prefill_scale(replace(layer, q=q, k=k, v=v), 3), 1, load_method("xm:1_2_4bit"), 3)
    allowed = [min(keys, bias.window or keys) for keys in (68, 69, 70)]
    wanted = [step.keep().sum() / (4 * keys) for step, keys in zip(steps, allowed, strict=True)]
    assert [run.density for run in record.runs if run.layer == 1 and run.operation == "sparse attention"] == wanted
    for run in record.runs:
        assert (run.query_tokens, run.heads, run.kv_heads, run.head_dim, run.window, run.threads) == (1, 4, 2, 16, 1, 1)
        assert run.timing.n == 2 and (run.operation == "mask") == (run.max_error is None)
        assert run.max_error is None or 0 < run.max_error <= run.allowed_error
    assert record.conditions["phase"] == "decode" and record.conditions["decoded_tokens"] == 3
    assert record.conditions["read_before_each_call_bytes"]["cpu"] > 0
    write_measurement(tmp_path / "measured.json", record)
    assert read_measurement(tmp_path / "measured.json") == record


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("dense", None),
        ("xm", None),  # exact scores: to rank them would be attention itself, so its keys are given
        ("xm:1_2_4bit", "few-bit copy of the keys"),
        ("xm_shared_sum:1_2_4bit", "few-bit copy of the keys"),
        ("topk:1_2_4bit", "few-bit copy of the keys"),
        ("xm_32:1_2_4bit", "keys quantised each time"),
        ("sanger:1_1_4bit", "keys quantised each time"),
    ],
)
def test_prediction_is_timed_apart_where_the_method_predicts(name: str, mask: str | None, trace_with: TraceMaker) -> None:
    runs = measured(trace_with(Bias("causal"), (70,)), name, tokens=1, layers=[0]).runs
    assert [run.method for run in runs[:2]] == ["dense", "dense"]
    assert runs[0].backend.startswith("torch sdpa, ") and runs[1].backend == f"native, {offered_isa()}"
    sparse = [] if name == "dense" else ["sparse attention"]
    assert [run.operation for run in runs[2:]] == (["mask", *sparse] if mask else sparse)
    if mask:
        assert runs[2].backend.endswith(mask) and runs[2].density == runs[3].density


def test_a_sparse_kernel_that_is_wrong_is_refused_before_it_is_timed(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu_decoder.decode_attention
    monkeypatch.setattr(cpu_decoder, "decode_attention", lambda *args, **options: right(*args, **options) * 1.1)
    monkeypatch.setattr(decode_attention, "time_in_turns", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(XmsimError, match=r"^layer 0, token 38: dense attention, native, .* on cpu: off the float64 reference by "):
        measured(trace_with(Bias("causal"), (40,)), "xm")


def test_torch_is_checked_too(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    right = dense_decode.DenseDecode.__call__
    monkeypatch.setattr(dense_decode.DenseDecode, "__call__", lambda self: right(self) * torch.nan)
    with pytest.raises(XmsimError, match=r"^layer 0, token 38: dense attention, torch sdpa, "):
        measured(trace_with(Bias("causal"), (40,)), "dense")


@pytest.mark.parametrize("name", ["xm:1_2_4bit", "xm_32:1_2_4bit"])
def test_a_prediction_of_other_keys_is_refused(name: str, trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    right = decode_attention._tokens

    def other(*args: object) -> object:
        for token in right(*args):
            token.keep[0, 0, 0] ^= True
            yield token

    monkeypatch.setattr(decode_attention, "_tokens", other)
    with pytest.raises(XmsimError, match=r"^layer 0, token 68: prediction xm.*: 1 pairs are not those of the reference; "):
        measured(trace_with(Bias("causal"), (70,)), name)


def test_what_does_not_decode_is_refused_in_one_sentence(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = trace_with(Bias("causal"), (40,))
    with pytest.raises(XmsimError, match=r"^--decode 40: window 0 has 40 tokens and the prefill needs one of them; decode at most 39$"):
        measured(trace, "xm", tokens=40)
    with pytest.raises(XmsimError, match="no window 1; the trace has windows 0 to 0"):
        measured(trace, "xm", window=1)
    monkeypatch.setattr("xmsim.workloads.measuring.cold_caches.kernel", lambda *_: None)
    with pytest.raises(XmsimError, match=r"^decoding is timed with the compiled kernels, which are not here: xmsim doctor "):
        measured(trace, "xm")


def test_an_encoder_does_not_decode(trace_with: TraceMaker) -> None:
    with pytest.raises(XmsimError, match="so the model does not decode"):
        measured(trace_with(Bias("none"), (40,)), "xm")


def test_kernels_take_turns_each_after_a_sweep_and_the_first_round_is_not_counted() -> None:
    done: list[str] = []
    timings = time_in_turns({name: lambda name=name: done.append(name) for name in "ab"}, rounds=2, before=lambda: done.append("-"))
    assert "".join(done) == "-a-b" * 3 and {name: timing.n for name, timing in timings.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(("bias", "name"), [(BIASES[0], "xm:1_2_4bit"), (BIASES[1], "xm"), (BIASES[2], "xm_shared_max:1_2_4bit")])
def test_the_kernels_for_gpus_serve_the_same_tokens(
    bias: Bias, name: str, trace_with: TraceMaker, emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xmsim.reference.kernels.cuda import native

    monkeypatch.setenv(native.LIBRARY_VARIABLE, os.fspath(emulator))
    native.cuda_library.cache_clear()
    method = load_method(name)
    decoder = GpuDecoder(method, "cpu", lambda: None)  # on the emulator
    layer = with_prefill_scale(decode_attention._in_bfloat16(trace_with(bias, (90, 70)).read_layer(1)), 2)
    decoder.begin(layer, 1, 68)
    for token in decode_attention._tokens(layer, 1, method, 2):
        runs = decode_attention._runs(token, decoder, method, lambda: None, 2, 1)
        backends = ["cuda", "cuda, few-bit copy of the keys", "cuda"] if method.prediction else ["cuda", "cuda"]
        assert [run.backend for run in runs][1:] == backends and runs[-1].max_error <= runs[-1].allowed_error
    native.cuda_library.cache_clear()


def test_without_built_kernels_a_gpu_gathers_with_torch(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmsim.reference.kernels.cuda import native

    monkeypatch.setenv(native.LIBRARY_VARIABLE, "none")
    native.cuda_library.cache_clear()
    method = load_method("xm")
    decoder = GpuDecoder(method, "cpu", lambda: None)
    layer = with_prefill_scale(decode_attention._in_bfloat16(trace_with(BIASES[2], (70,)).read_layer(0)), 1)
    decoder.begin(layer, 0, 69)
    (token,) = decode_attention._tokens(layer, 0, method, 1)
    assert [run.backend for run in decode_attention._runs(token, decoder, method, lambda: None, 2, 1)][1:] == ["torch gather"]
    native.cuda_library.cache_clear()
