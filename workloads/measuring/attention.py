"""Attention on a trace's own tensors, timed on this host: dense, the making of a mask, and sparse with that mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from xmsim.configs.errors import XmsimError
from xmsim.reference.kernels.attention import sparse_attention
from xmsim.reference.kernels.cpu_attention import gather_attention, kept_pairs
from xmsim.reference.kernels.native import offered_isa
from xmsim.reference.kernels.torch_attention import GatherAttention
from xmsim.traces.bits import pack
from xmsim.traces.store import LayerTrace, Trace
from xmsim.workloads.evaluation import method_label
from xmsim.workloads.measurement import MeasuredRun, MeasurementRecord
from xmsim.workloads.measuring.accuracy import MASK_ROUNDING, AttentionProblem, check_attention, check_mask
from xmsim.workloads.measuring.dense_attention import DenseAttention, DenseKernel, fastest_dense_kernel
from xmsim.workloads.measuring.host import available_cores, describe_host
from xmsim.workloads.measuring.threads import thread_limit
from xmsim.workloads.measuring.timing import time_calls
from xmsim.workloads.methods.library import Method

Progress = Callable[[int, int], None]  # (layers done, layers in all)


def no_progress(done: int, layers: int) -> None:
    """Show nothing."""


def measure_trace(
    trace: Trace,
    method: Method,
    *,
    layers: Sequence[int] | None = None,
    window: int = 0,
    repeats: int = 25,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress = no_progress,
) -> MeasurementRecord:
    """Time dense attention, the making of the method's mask, and sparse attention with it; all stored heads of a layer at once.

    Dense attention is PyTorch's, in the backend and number format that a trial on the first layer finds fastest. Every
    output is checked against a float64 reference before it is timed. Nothing but the attention itself, or the mask in the form
    that the attention takes, is in a time: tensors lie ready in the kernel's number format.

    Args:
        layers: of the model, among those stored; None: all.
        window: of the text.
        repeats: samples of each time; fewer, but at least 5, when they take longer than 0.3 s.
        threads: for each operation; None: all cores this process may use.
        device: "cpu", or "cuda" for dense attention, and sparse attention with the mask given, on the GPU as well; None: the GPU too
            if this host has one.
        progress: called after each layer.
    Raises:
        XmsimError: no torch, no such layer, window, device or thread count, or a kernel whose result is wrong on this host.
    """
    threads = available_cores() if threads is None else threads
    chosen = trace.layers if layers is None else layers
    refuse_other_window(trace, window)
    devices = devices_of(device)
    gpus = [name for name in devices if name != "cpu"]
    runs: list[MeasuredRun] = []
    kernels: list[DenseKernel] = []
    with thread_limit(threads):
        for done, number in enumerate(chosen):
            layer = trace.read_layer(number)
            kernels = kernels or [fastest_dense_kernel(layer, window, name) for name in devices]
            runs += [_dense_run(layer, window, kernel, repeats, threads) for kernel in kernels]
            if method.parameters["method"] != "dense":
                keep = method.keep(layer, window)
                runs += _sparse_runs(layer, window, method, keep, repeats, threads)
                runs += [torch_sparse_run(layer, window, method, keep, name, repeats, threads) for name in gpus]
            progress(done + 1, len(chosen))
    used = {"name": method.name} | method.parameters
    return MeasurementRecord(describe_host(), trace.source(), used, {"phase": "prefill"}, tuple(runs))


def refuse_other_window(trace: Trace, window: int) -> None:
    """Raises XmsimError if the trace has no such window."""
    if not 0 <= window < trace.windows:
        raise XmsimError(f"{trace.path}: no window {window}; the trace has windows 0 to {trace.windows - 1}")


def _dense_run(layer: LayerTrace, window: int, kernel: DenseKernel, repeats: int, threads: int) -> MeasuredRun:
    attention = DenseAttention(layer, window, kernel)
    q, k, v = (tensor[0] for tensor in (attention.q, attention.k, attention.v))
    allowed = layer.bias.allowed(layer.valid_tokens[window])
    problem = AttentionProblem(q, k, v, allowed, layer.scale, position_bias(layer, window))
    name = f"layer {layer.layer}: dense attention, {kernel.name}, {kernel.dtype} on {kernel.device}"
    checked = check_attention(attention()[0], problem, name)
    return run_of(layer, window, threads)(
        device=kernel.device,
        operation="dense attention",
        method="dense",
        backend=kernel.name,
        dtype=kernel.dtype,
        density=1.0,
        timing=time_calls(attention, repeats=repeats),
        max_error=checked.max_error,
        allowed_error=checked.allowed_error,
    )


def _sparse_runs(layer: LayerTrace, window: int, method: Method, keep: np.ndarray, repeats: int, threads: int) -> list[MeasuredRun]:
    """The making of the mask, and attention with it, on the CPU."""
    import torch

    tokens = layer.valid_tokens[window]
    q, k, v = (x[window, :, :tokens].copy() for x in (layer.q, layer.k, layer.v))
    slopes = None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32)
    pairs = kept_pairs(keep)
    isa = offered_isa()
    if isa is None:
        attention, backend = partial(gather_attention, q, k, v, pairs, scale=layer.scale, slopes=slopes), "numba gather"
    else:
        attention = partial(sparse_attention, q, k, v, pack(keep), scale=layer.scale, slopes=slopes, threads=threads)
        backend = f"native, {isa}"
    q_tensor, k_tensor, v_tensor = (torch.from_numpy(x) for x in (q, k, v))
    problem = AttentionProblem(q_tensor, k_tensor, v_tensor, keep, layer.scale, position_bias(layer, window))
    checked = check_attention(torch.from_numpy(attention()), problem, f"layer {layer.layer}: sparse attention, {backend}, float32")
    allowed = np.count_nonzero(layer.bias.allowed(tokens)) * len(q)
    run = partial(run_of(layer, window, threads), device="cpu", method=label_of(method), dtype="float32", density=len(pairs.keys) / allowed)
    make_mask, mask_backend = _mask_maker(layer, window, method, keep, threads)
    return [
        run(
            operation="mask",
            backend=mask_backend,
            timing=time_calls(make_mask, repeats=repeats),
            max_error=None,
            allowed_error=None,
        ),
        run(
            operation="sparse attention",
            backend=backend,
            timing=time_calls(attention, repeats=repeats),
            max_error=checked.max_error,
            allowed_error=checked.allowed_error,
        ),
    ]


def _mask_maker(layer: LayerTrace, window: int, method: Method, keep: np.ndarray, threads: int) -> tuple[Callable[[], Any], str]:
    """What makes the mask from q and k in the form that the attention takes, and its name.

    The compiled kernels make packed words where they serve the method, numba makes lists of kept keys elsewhere.

    Raises:
        XmsimError: a kernel's mask is not that of the reference.
    """
    make = partial(method.mask, layer, window, threads=threads)
    mask = make()
    if mask is None or mask.isa is None:
        return lambda: kept_pairs(method.keep(layer, window)), "numpy + numba"
    rounding = 0 if method.prediction else MASK_ROUNDING  # exact scores are added up in another order
    check_mask(mask.keep(), keep, f"layer {layer.layer}: mask {method.name}, native {mask.isa}", rounding=rounding)
    return make, f"native, {mask.isa}"


def torch_sparse_run(
    layer: LayerTrace, window: int, method: Method, keep: np.ndarray, device: str, repeats: int, threads: int
) -> MeasuredRun:
    """Attention with a mask that is given, on a device of torch's; lists of kept keys lie there already."""
    import torch

    tokens = layer.valid_tokens[window]
    q, k, v = (torch.from_numpy(x[window, :, :tokens].copy()).to(device) for x in (layer.q, layer.k, layer.v))
    slopes = None if layer.bias.slopes is None else np.array(layer.bias.slopes, np.float32)
    pairs = kept_pairs(keep)
    kernel = GatherAttention(q, k, v, pairs, scale=layer.scale, slopes=slopes)

    def attention() -> Any:
        out = kernel()
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    problem = AttentionProblem(q, k, v, keep, layer.scale, position_bias(layer, window))
    checked = check_attention(attention(), problem, f"layer {layer.layer}: sparse attention, torch gather, float32 on {device}")
    return run_of(layer, window, threads)(
        device=device,
        operation="sparse attention",
        method=label_of(method),
        backend="torch gather",
        dtype="float32",
        density=len(pairs.keys) / (np.count_nonzero(layer.bias.allowed(tokens)) * len(q)),
        timing=time_calls(attention, repeats=repeats),
        max_error=checked.max_error,
        allowed_error=checked.allowed_error,
    )


def label_of(method: Method) -> str:
    """What a measurement calls a method: exact and predicted scores make different masks."""
    return method_label({"name": method.name} | method.parameters)


def run_of(layer: LayerTrace, window: int, threads: int, queries: int | None = None) -> Callable[..., MeasuredRun]:
    """MeasuredRun with what all runs of a layer share filled in; queries None: as many as there are tokens."""
    tokens = layer.valid_tokens[window]
    return partial(
        MeasuredRun,
        layer=layer.layer,
        window=window,
        threads=threads,
        query_tokens=queries or tokens,
        key_tokens=tokens,
        heads=layer.q.shape[1],
        kv_heads=layer.k.shape[1],
        head_dim=layer.q.shape[3],
    )


def position_bias(layer: LayerTrace, window: int) -> np.ndarray | None:
    """ALiBi, float32 [heads, 1, keys]; None where the bias only says which pairs are allowed."""
    if layer.bias.slopes is None:
        return None
    return np.array(layer.bias.slopes, np.float32)[:, None, None] * np.arange(layer.valid_tokens[window], dtype=np.float32)


def devices_of(device: str | None) -> tuple[str, ...]:
    """The devices to measure on, "cpu" first; None: the GPU too if this host has one.

    Raises:
        XmsimError: no torch, or no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise XmsimError("measuring needs PyTorch, whose dense attention is the baseline: pip install 'xmsim[capture]'") from error
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return ("cpu",)
    if device not in ("cuda", None):
        raise XmsimError(f"no device {device}; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise XmsimError("device cuda: PyTorch sees no GPU on this host; leave the device out to measure on the CPU")
    return ("cpu", "cuda")
