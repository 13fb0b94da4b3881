"""Measurement: what is timed, that it is checked before, and what the record says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xmsim.configs.errors import XmsimError
from xmsim.traces.manifest import Bias
from xmsim.traces.store import Trace
from xmsim.workloads.measurement import read_measurement, write_measurement
from xmsim.workloads.measuring import attention as measure
from xmsim.workloads.measuring.accuracy import AttentionProblem, check_attention, plain_attention
from xmsim.workloads.measuring.attention import measure_trace, torch_sparse_run
from xmsim.workloads.measuring.timing import FEWEST_SAMPLES, time_calls
from xmsim.workloads.methods.library import load_method

torch = pytest.importorskip("torch")
HEADS = 4
TraceMaker = Callable[[Bias, tuple[int, ...]], Trace]


@pytest.mark.parametrize(
    "bias",
    [Bias("causal"), Bias("none"), Bias("sliding_window", window=30), Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625))],
    ids=lambda bias: bias.kind,
)
def test_each_layer_gets_dense_mask_and_sparse_times_whatever_the_bias(bias: Bias, trace_with: TraceMaker, tmp_path: Path) -> None:
    trace = trace_with(bias, (90, 70))
    steps: list[tuple[int, int]] = []
    record = measure_trace(
        trace, load_method("xm"), window=1, repeats=5, threads=1, device="cpu", progress=lambda done, total: steps.append((done, total))
    )
    assert [(run.layer, run.operation) for run in record.runs] == [
        (layer, operation) for layer in (0, 1) for operation in ("dense attention", "mask", "sparse attention")
    ]
    assert steps == [(1, 2), (2, 2)]
    for run in record.runs:
        assert (run.query_tokens, run.key_tokens, run.heads, run.kv_heads, run.head_dim, run.window, run.threads) == (
            70,
            70,
            4,
            2,
            16,
            1,
            1,
        )
        assert run.timing.n == 5 and 0 < run.timing.first_quartile_ms <= run.timing.median_ms <= run.timing.third_quartile_ms
        if run.operation == "mask":
            assert run.max_error is None and run.allowed_error is None
        else:
            assert run.max_error is not None and run.allowed_error is not None and 0 < run.max_error <= run.allowed_error
    dense, mask, sparse = record.runs[:3]
    keep = load_method("xm").keep(trace.read_layer(0), 1)
    assert dense.density == 1.0 and dense.method == "dense"
    assert sparse.density == mask.density == keep.sum() / (4 * bias.allowed(70).sum()) < 1
    assert record.method == {"name": "xm"} | load_method("xm").parameters
    assert record.trace == trace.source()
    write_measurement(tmp_path / "measured.json", record)
    assert read_measurement(tmp_path / "measured.json") == record


def test_the_dense_method_and_one_layer_give_one_run(trace_with: TraceMaker) -> None:
    record = measure_trace(trace_with(Bias("causal"), (40,)), load_method("dense"), layers=[1], repeats=5, threads=1, device="cpu")
    assert [(run.layer, run.operation) for run in record.runs] == [(1, "dense attention")]


def test_a_kernel_that_is_wrong_is_refused_before_it_is_timed(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sparse_attention", "gather_attention"):  # compiled, and what stands in for it
        right = getattr(measure, name)
        monkeypatch.setattr(measure, name, lambda *args, right=right, **options: right(*args, **options) * np.float32(1.001))
    with pytest.raises(XmsimError, match=r"^layer 0: sparse attention, .*, float32: off the float64 reference by "):
        measure_trace(trace_with(Bias("causal"), (40,)), load_method("xm"), repeats=5, threads=1, device="cpu")


def test_a_wrong_dense_kernel_is_refused_too(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    right = measure.DenseAttention.__call__
    monkeypatch.setattr(measure.DenseAttention, "__call__", lambda self: right(self) * torch.nan)
    with pytest.raises(XmsimError, match=r"^layer 0: dense attention, torch sdpa, "):
        measure_trace(trace_with(Bias("causal"), (40,)), load_method("dense"), repeats=5, threads=1, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_attention_in_a_precision_is_the_reference_up_to_its_rounding(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 20, 8, generator=generator).to(getattr(torch, dtype)) for heads in (4, 2, 2))
    keep = np.tri(20, dtype=bool)
    keep[7] = False
    problem = AttentionProblem(q, k, v, keep, 0.3, None)
    plain = plain_attention(problem)
    assert plain.dtype == q.dtype and not plain[:, 7].any()
    checked = check_attention(plain, problem, "plain")
    eps = torch.finfo(q.dtype).eps
    assert 0 < checked.max_error < 8 * eps
    with pytest.raises(XmsimError, match=r"^shifted: off the float64 reference by "):
        check_attention(plain + 20 * eps * float(v.abs().max()), problem, "shifted")


def test_what_is_not_there_is_refused_in_one_sentence(trace_with: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, method = trace_with(Bias("causal"), (40,)), load_method("xm")
    for wrong, sentence in (
        ({"window": 1}, "no window 1; the trace has windows 0 to 0"),
        ({"layers": [2]}, "no layer 2; the trace has layers 0, 1"),
        ({"threads": 0}, "threads: 0 is not possible here; choose 1 to "),
        ({"threads": 10**6}, "threads: 1000000 is not possible here; choose 1 to "),
        ({"device": "tpu"}, "no device tpu; choose cpu or cuda"),
    ):
        with pytest.raises(XmsimError, match=sentence):
            measure_trace(trace, method, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(XmsimError, match=r"^device cuda: PyTorch sees no GPU on this host; "):
            measure_trace(trace, method, device="cuda")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(XmsimError, match=r"pip install 'xmsim\[capture\]'$"):
        measure_trace(trace, method)


def test_thread_counts_are_put_back(trace_with: TraceMaker) -> None:
    import numba

    before = torch.get_num_threads(), numba.get_num_threads()
    measure_trace(trace_with(Bias("causal"), (40,)), load_method("dense"), layers=[0], repeats=5, threads=1, device="cpu")
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


def test_samples_end_at_their_number_or_their_time_but_never_below_five() -> None:
    assert time_calls(lambda: None, repeats=8).n == 8
    assert time_calls(lambda: None, repeats=2).n == FEWEST_SAMPLES
    assert time_calls(lambda: sum(range(100_000)), repeats=1000, seconds=0.0).n == FEWEST_SAMPLES


def test_the_kernel_for_gpus_is_checked_and_timed_like_the_others(trace_with: TraceMaker) -> None:
    layer = trace_with(Bias("alibi", slopes=(0.5, 0.25, 0.125, 0.0625)), (90, 70)).read_layer(1)
    method = load_method("xm")
    keep = method.keep(layer, 1)
    run = torch_sparse_run(layer, 1, method, keep, "cpu", repeats=5, threads=1)  # torch runs it on any device
    assert (run.layer, run.window, run.query_tokens, run.backend) == (1, 1, 70, "torch gather")
    assert run.density == np.count_nonzero(keep) / (HEADS * 70 * 71 / 2)
    assert run.max_error is not None and run.allowed_error is not None and run.max_error <= run.allowed_error
