"""From a measured run to what the model of a CPU says about it.

`shape` of a run holds, by operation:
    linear       in_features, out_features, tokens, sparsity
    prefill      tokens, heads, kv_heads, head_dim, kept: keys of every 64 (64: dense)
    decode       tokens, heads, kv_heads, head_dim, kv_density; lists shared by the heads of a KV head
    prediction   tokens, heads, kv_heads, head_dim, bits, classified_again, ranked_again: lists that were decided in float64 (0: not said)
    mask         tokens, heads, kv_heads, head_dim, bits (0: exact scores)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from xmsim.accel_models.host import cpu_attention, cpu_linear, cpu_masks, torch_cpu
from xmsim.accel_models.host.constants import HostConstants, MissingConstantError
from xmsim.accel_models.host.cpu_linear import LinearShape
from xmsim.accel_models.host.prediction import HostPrediction
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.measuring.host_check_record import DECODE, LINEAR, MASK, PREDICTION, PREFILL, HostRun

TORCH, DENSE, SPARSE = "torch", "dense", "sparse"
WORD_KEYS = 64


def predict(host: HostConstants, run: HostRun) -> HostPrediction:
    """What a run takes.

    Raises:
        MissingConstantError: the model does not know this kernel, or the host lacks a constant for it.
    """
    if run.operation == LINEAR:
        return _linear(host, run)
    workload = workload_of(run.operation, run.shape)
    if run.operation == MASK:
        return cpu_masks.mask(host, workload, rule=run.kernel, bits=run.shape["bits"], threads=run.threads)
    if run.operation == PREDICTION:
        again = {name: int(run.shape.get(name, 0)) for name in ("classified_again", "ranked_again")}
        return cpu_attention.predict_xm(host, workload, bits=run.shape["bits"], threads=run.threads, **again)
    if run.operation == PREFILL:
        model = {TORCH: torch_cpu.prefill, DENSE: cpu_attention.prefill, SPARSE: cpu_attention.prefill}
    elif run.operation == DECODE:
        model = {TORCH: torch_cpu.decode, DENSE: cpu_attention.decode, SPARSE: cpu_attention.decode}
    else:
        raise MissingConstantError(f"{host.name}: {run.operation} has no model")
    return model[run.kernel](host, workload, element=run.element, threads=run.threads)


def workload_of(operation: str, shape: dict[str, Any]) -> AttentionWorkload:
    """A workload of a run's shape; which keys of a block are kept does not matter to the model, how many does."""
    tokens, heads, kv_heads, head_dim = (int(shape[key]) for key in ("tokens", "heads", "kv_heads", "head_dim"))
    if operation in (PREFILL, MASK):
        return _prefill_workload(tokens, heads, kv_heads, head_dim, int(shape.get("kept", WORD_KEYS)))
    return _decode_workload(tokens, heads, kv_heads, head_dim, float(shape.get("kv_density", 1.0)))


@lru_cache(maxsize=16)
def _prefill_workload(tokens: int, heads: int, kv_heads: int, head_dim: int, kept: int) -> AttentionWorkload:
    """Every block of 64 keys keeps `kept`, evenly apart from a start that differs; the causal edge cuts them off."""
    blocks = -(-tokens // WORD_KEYS)
    pattern = np.uint64(sum(1 << int(place) for place in np.arange(kept) * WORD_KEYS // kept))
    turn = np.random.default_rng(0).integers(0, WORD_KEYS, (heads, tokens, blocks)).astype(np.uint64)
    turned = pattern << turn | pattern >> (-turn & np.uint64(WORD_KEYS - 1))
    allowed = AttentionWorkload.from_keep(np.tri(tokens, dtype=bool)[None], head_dim=head_dim).words
    return AttentionWorkload(turned & allowed, tokens, head_dim, kv_heads)


@lru_cache(maxsize=16)
def _decode_workload(tokens: int, heads: int, kv_heads: int, head_dim: int, kv_density: float) -> AttentionWorkload:
    """One query; blocks keep eight keys, or none, or sixteen where eight in each are too few."""
    blocks = -(-tokens // WORD_KEYS)
    if kv_density >= 1:
        keep = np.ones(tokens, bool)
    else:
        kept = 8 if kv_density <= 8 / WORD_KEYS else 16 if kv_density <= 16 / WORD_KEYS else WORD_KEYS
        live = round(kv_density * WORD_KEYS / kept * blocks)
        keep = np.zeros((blocks, WORD_KEYS), bool)
        keep[(np.arange(live) * blocks) // max(live, 1), :: WORD_KEYS // kept] = True
        keep = keep.reshape(-1)[:tokens]
    one = AttentionWorkload.from_keep(keep[None, None], head_dim=head_dim).words
    return AttentionWorkload(np.broadcast_to(one, (heads, *one.shape[1:])), tokens, head_dim, kv_heads)


def _linear(host: HostConstants, run: HostRun) -> HostPrediction:
    shape = run.shape
    weights = shape["in_features"] * shape["out_features"]
    nonzeros = round(weights * (1 - shape["sparsity"]))
    linear = LinearShape(shape["in_features"], shape["out_features"], shape["tokens"], nonzeros)
    if run.kernel == TORCH:
        return torch_cpu.linear(host, linear, element=run.element, threads=run.threads)
    return cpu_linear.linear(host, linear, element=run.element, stored=run.kernel, threads=run.threads)  # type: ignore[arg-type]
