"""Decoding on a trace's own tensors, timed on this host: each of the last tokens of a window against the keys so far.

The same tokens, masks and prefill scales as `xmsim simulate --decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from xmsim.reference.formats.bfloat16 import bfloat16_bits, bfloat16_values
from xmsim.traces.store import LayerTrace, Trace
from xmsim.workloads.decode import with_prefill_scale
from xmsim.workloads.measurement import MeasuredRun, MeasurementRecord
from xmsim.workloads.measuring.accuracy import check_attention
from xmsim.workloads.measuring.attention import Progress, devices_of, label_of, no_progress, refuse_other_window, run_of
from xmsim.workloads.measuring.cold_caches import cache_sweeper, swept_bytes
from xmsim.workloads.measuring.cpu_decoder import CpuDecoder
from xmsim.workloads.measuring.decode_contenders import DENSE, Decoder, Token
from xmsim.workloads.measuring.gpu_decoder import GpuDecoder
from xmsim.workloads.measuring.host import available_cores, describe_host
from xmsim.workloads.measuring.threads import thread_limit
from xmsim.workloads.measuring.timing import time_in_turns
from xmsim.workloads.methods.library import Method

ROUNDS = 9


def measure_decode(
    trace: Trace,
    method: Method,
    tokens: int,
    *,
    layers: Sequence[int] | None = None,
    window: int = 0,
    rounds: int = ROUNDS,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress = no_progress,
) -> MeasurementRecord:
    """Time the attention of the last tokens of a window, one by one: dense by torch and by our kernel, the prediction of the kept keys
    where the method predicts, and sparse with the method's keys.

    The tensors are the trace's in bfloat16, as a decoder's cache holds them; torch may take float32, if that is faster. Kernels take
    turns, and before each call twice the last cache of other data is read, as a model's weights would be. Every output is checked
    against a float64 reference before it is timed, and predicted keys against the method's, bit for bit.

    Args:
        tokens: how many of the last; those before are the prefill, which sets the scales of prediction.
        layers, window, threads, device, progress: as `measure_trace`.
        rounds: samples of each time, at least 2.
    Raises:
        XmsimError: a trace that does not decode, no torch, no compiled kernels, no such layer, window, device or thread count, or a kernel
            whose result is wrong on this host.
    """
    threads = available_cores() if threads is None else threads
    chosen = trace.layers if layers is None else layers
    refuse_other_window(trace, window)
    devices = devices_of(device)
    runs: list[MeasuredRun] = []
    with thread_limit(threads):
        sweepers = {name: cache_sweeper(name, threads) for name in devices}
        decoders: list[Decoder] = [CpuDecoder(method, threads, sweepers["cpu"])]
        decoders += [GpuDecoder(method, name, sweepers[name]) for name in devices if name != "cpu"]
        for done, number in enumerate(chosen):
            layer = with_prefill_scale(_in_bfloat16(trace.read_layer(number)), tokens)
            for decoder in decoders:
                decoder.begin(layer, window, layer.valid_tokens[window] - tokens)
            for token in _tokens(layer, window, method, tokens):
                for decoder in decoders:
                    runs += _runs(token, decoder, method, sweepers[decoder.device], rounds, threads)
            progress(done + 1, len(chosen))
    conditions = {
        "phase": "decode",
        "decoded_tokens": tokens,
        "read_before_each_call_bytes": {name: swept_bytes(name) for name in devices},
    }
    return MeasurementRecord(describe_host(), trace.source(), {"name": method.name} | method.parameters, conditions, tuple(runs))


def _in_bfloat16(layer: LayerTrace) -> LayerTrace:
    q, k, v = (bfloat16_values(bfloat16_bits(x)) for x in (layer.q, layer.k, layer.v))
    return replace(layer, q=q, k=k, v=v)


def _tokens(layer: LayerTrace, window: int, method: Method, tokens: int) -> Iterator[Token]:
    """The last tokens of a window, with the keys that each keeps."""
    valid = layer.valid_tokens[window]
    for keys in range(valid - tokens + 1, valid + 1):
        so_far = replace(layer, valid_tokens=(*layer.valid_tokens[:window], keys, *layer.valid_tokens[window + 1 :]))
        keep = None if method.parameters["method"] == "dense" else method.keep_last(so_far, window)
        yield Token(so_far, window, keep)


def _runs(token: Token, decoder: Decoder, method: Method, sweep: Callable[[], object], rounds: int, threads: int) -> list[MeasuredRun]:
    """Check what attends, then time all that serve the token by turns."""
    contenders = decoder.contenders(token)
    errors = [
        check_attention(one.call(), one.problem, f"{token.name}: {one.label} on {decoder.device}") if one.problem else None
        for one in contenders
    ]
    timings = time_in_turns({one.label: one.call for one in contenders}, rounds=rounds, before=sweep)
    run = partial(run_of(token.so_far, token.window, threads, queries=1), device=decoder.device)
    return [
        run(
            operation=one.operation,
            method="dense" if one.operation == DENSE else label_of(method),
            backend=one.backend,
            dtype=one.dtype,
            density=1.0 if one.operation == DENSE else token.density,
            timing=timings[one.label],
            max_error=checked.max_error if checked else None,
            allowed_error=checked.allowed_error if checked else None,
        )
        for one, checked in zip(contenders, errors, strict=True)
    ]
