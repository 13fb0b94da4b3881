"""torch's dense products and attention on a core: a black box, whose time lies on a line through two shapes.

Their code is not ours and chooses among many ways, so no step of it is modelled. Products: a call and so much a weight. Prefill: so much
a pair, and more of it the fewer tokens there are, as blocks at the causal edge are computed whole. Between numbers of tokens, or of
channels, that were measured time lies on a line.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from xmsim.accel_models.host.black_box import pair_ns
from xmsim.accel_models.host.constants import HostConstants, MissingConstantError
from xmsim.accel_models.host.cpu_linear import ELEMENT_BYTES, LinearShape
from xmsim.accel_models.host.prediction import HostPrediction, between
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.measuring.calibration.whole_calls import DECODE_GROUP, DECODE_KEYS, LINEAR_SHAPES, LINEAR_TOKENS, PREFILL_TOKENS


def linear(host: HostConstants, shape: LinearShape, *, element: str, threads: int) -> HostPrediction:
    """torch.nn.functional.linear with weights in memory.

    Raises:
        MissingConstantError: more tokens than the calibration went to.
    """
    if shape.tokens > LINEAR_TOKENS[-1]:
        raise MissingConstantError(f"{host.name}: torch's products are known up to {LINEAR_TOKENS[-1]} tokens, {shape.tokens} are more")
    above = LINEAR_TOKENS[bisect_left(LINEAR_TOKENS, shape.tokens)]
    below = above if above == shape.tokens else LINEAR_TOKENS[bisect_left(LINEAR_TOKENS, shape.tokens) - 1]

    def known_ns(tokens: int) -> float:
        of = {"element": element, "tokens": tokens, "threads": threads}
        measured = {float(n): n * host.ns("torch_linear", **of, weights=n) for n in (math.prod(size) for size in LINEAR_SHAPES)}
        return between(measured, shape.weights)

    low, high = known_ns(below), known_ns(above)
    found = low if above == below else between({below: low, above: high}, shape.tokens)
    return HostPrediction(ns=found, parts_ns={"products": found})


def prefill(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int) -> HostPrediction:
    """scaled_dot_product_attention of whole windows, the fastest of repeated and grouped heads."""
    pairs = workload.heads * workload.allowed_pairs()
    pair = pair_ns(host, "torch_prefill", PREFILL_TOKENS, workload, element=element, threads=threads)
    return HostPrediction(ns=pairs * pair, parts_ns={"products": pairs * pair})


def decode(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int) -> HostPrediction:
    """The same of one token against a cache in memory, the heads of a group as queries of one.

    Raises:
        MissingConstantError: another group or head dimension than the calibration's.
    """
    if workload.group != DECODE_GROUP or workload.head_dim != 128:
        raise MissingConstantError(f"{host.name}: torch's decoding is known for {DECODE_GROUP} heads of 128 channels that share a KV head")
    measured = {float(keys): keys * host.ns("torch_decode", element=element, keys=keys, threads=threads) for keys in DECODE_KEYS}
    products = workload.kv_heads * between(measured, workload.keys)
    call = host.call_ns("torch attention", 2 * workload.kv_heads * workload.keys * workload.head_dim * ELEMENT_BYTES[element])
    return HostPrediction(ns=call + products, parts_ns={"call": call, "products": products})
