"""torch's dense products and attention on a core: a black box whose time is scaled from one small shape.

Their code is not ours and chooses among many ways, so no step of it is modelled: time grows with the weights, or with the pairs, from
what the calibration's own shape took; between numbers of tokens that were measured it lies on a line.
"""

from __future__ import annotations

from bisect import bisect_left

from xmsim.accel_models.host.constants import HostConstants, MissingConstantError
from xmsim.accel_models.host.cpu_linear import LinearShape
from xmsim.accel_models.host.prediction import HostPrediction
from xmsim.workloads.attention import AttentionWorkload
from xmsim.workloads.measuring.calibration.whole_calls import DECODE_GROUP, LINEAR_TOKENS


def linear(host: HostConstants, shape: LinearShape, *, element: str, threads: int) -> HostPrediction:
    """torch.nn.functional.linear with weights in memory.

    Raises:
        MissingConstantError: more tokens than the calibration went to.
    """
    if shape.tokens > LINEAR_TOKENS[-1]:
        raise MissingConstantError(f"{host.name}: torch's products are known up to {LINEAR_TOKENS[-1]} tokens, {shape.tokens} are more")
    above = LINEAR_TOKENS[bisect_left(LINEAR_TOKENS, shape.tokens)]
    below = above if above == shape.tokens else LINEAR_TOKENS[bisect_left(LINEAR_TOKENS, shape.tokens) - 1]
    low, high = (host.ns("torch_linear", element=element, tokens=tokens, threads=threads) for tokens in (below, above))
    a_weight = low if above == below else low + (high - low) * (shape.tokens - below) / (above - below)
    call, products = host.ns("call", of="torch linear"), shape.weights * a_weight
    return HostPrediction(ns=call + products, parts_ns={"call": call, "products": products})


def prefill(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int) -> HostPrediction:
    """scaled_dot_product_attention of whole windows, the fastest of repeated and grouped heads."""
    pairs = workload.heads * workload.allowed_pairs()
    low, high = (host.ns("torch_prefill", element=element, head_dim=dim, threads=threads) for dim in (64, 128))
    products = pairs * (low + (high - low) * (workload.head_dim - 64) / 64)
    call = host.ns("call", of="torch attention")
    return HostPrediction(ns=call + products, parts_ns={"call": call, "products": products})


def decode(host: HostConstants, workload: AttentionWorkload, *, element: str, threads: int) -> HostPrediction:
    """The same of one token against a cache in memory, the heads of a group as queries of one.

    Raises:
        MissingConstantError: another group or head dimension than the calibration's.
    """
    if workload.group != DECODE_GROUP or workload.head_dim != 128:
        raise MissingConstantError(f"{host.name}: torch's decoding is known for {DECODE_GROUP} heads of 128 channels that share a KV head")
    products = workload.kv_heads * workload.keys * host.ns("torch_decode", element=element, threads=threads)
    call = host.ns("call", of="torch attention")
    return HostPrediction(ns=call + products, parts_ns={"call": call, "products": products})
