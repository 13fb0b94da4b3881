"""A host whose constants are round numbers, so that times can be counted by hand."""

from __future__ import annotations

import math
from itertools import product

from xmsim.accel_models.host.constants import HostConstants
from xmsim.workloads.measurement import Host
from xmsim.workloads.measuring.calibration.core_rates import CHUNK_GROUP, CHUNK_TIMES, DECIDED_KEYS, PACKED_GROUPS
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, Constant
from xmsim.workloads.measuring.calibration.whole_calls import DECODE_KEYS, LINEAR_SHAPES, LINEAR_TOKENS, MASK_TOKENS, PREFILL_TOKENS

CACHES = {"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20}
HOST = Host("a processor", 2, ("avx2", "avx512f"), 1 << 34, "", "Linux 6.1 x86_64", "3.11.7", {"numpy": "2.0.0"})


def constant(name: str, per: str, ns: float, **of: object) -> Constant:
    return Constant(name, of, per, 9, ns, 0.99 * ns, 1.01 * ns)


def calibration(*, line_ns: float = 2.0, token_ns: float = 0.5, hidden: bool = True) -> CalibrationRecord:
    """Lines of memory at `line_ns`; a row costs `token_ns` a token, and 1 ns more if it is expanded.

    hidden: memory hides behind products entirely; else the two add up.
    """
    rows = []
    for element, group, (stored, extra), words, threads in product(
        ("float32", "bfloat16", "int8"), (1, 2, 4, 8, 12), (("whole", 0.0), ("expanded", 1.0)), ("few", "many"), (1, 2)
    ):
        of = {"element": element, "stored": stored, "group": group, "words": words, "threads": threads}
        rows.append(constant("row", "row", token_ns * group + extra, **of, **{"from": "l1"}))
    for group, threads in product((1, 4, 8), (1, 2)):
        products = token_ns * group
        together = max(line_ns, products) if hidden else line_ns + products
        of = {"element": "bfloat16", "stored": "whole", "group": group, "words": "many", "threads": threads, "from": "memory"}
        rows.append(constant("row", "row", together, **of))
    for threads in (1, 2):
        rows += [constant("fork", "call", 4000.0 * (threads - 1) + 1, threads=threads)]
        rows += [constant("read", "64-byte line", line_ns, **{"from": "memory", "threads": threads})]
        chunk_ns = CHUNK_TIMES * CHUNK_GROUP * token_ns
        for stored, more_ns in (("whole", 4.0), ("expanded", 1.0 + (0.5 + 1 / 16) * 4.0)):
            rows.append(constant("chunk", "row", chunk_ns + more_ns, **{"stored": stored, "from": "memory", "threads": threads}))
        rows += [constant("read", "64-byte line", 0.5, **{"from": level, "threads": threads}) for level in ("l1", "l2", "l3")]
        rows += [
            constant("gather", "64-byte line", 1.0, **{"from": "l3", "row_bytes": size, "threads": threads}) for size in (128, 256, 512)
        ]
        rows += [
            constant(name, "64-byte line", 4.0, **{"from": "memory", "row_bytes": 256, "threads": threads}) for name in ("gather", "burst")
        ]
        rows += [constant("expand", "row", 1.0, element=element, threads=threads) for element in ("float32", "bfloat16", "int8")]
        for element, dim, keys in product(("float32", "bfloat16"), (64, 128), (16, 32, 48, 64)):
            rows.append(constant("attend", "row", keys * dim / 64, element=element, head_dim=dim, keys=keys, threads=threads))
        rows += [constant("list", "list", 2.0 * words, words=words, threads=threads) for words in (4, 16)]
        for rule, bits, dim, tokens in product(("xm", "nm"), (0, 4), (64, 128), MASK_TOKENS):
            of = {"rule": rule, "bits": bits, "head_dim": dim, "tokens": tokens, "threads": threads}
            rows.append(constant("mask", "pair of query and key", (3.0 + 512 / tokens) / threads, **of))
        for element, tokens, weights in product(("float32", "bfloat16"), LINEAR_TOKENS, map(math.prod, LINEAR_SHAPES)):
            of = {"element": element, "tokens": tokens, "weights": weights, "threads": threads}
            rows.append(constant("torch_linear", "weight", 0.1 * tokens + 1000 / weights, **of))
        for element, dim, tokens in product(("float32", "bfloat16"), (64, 128), PREFILL_TOKENS):
            of = {"element": element, "head_dim": dim, "tokens": tokens, "threads": threads}
            rows.append(constant("torch_prefill", "pair of query and key", dim / 64, **of))
        for keys in DECODE_KEYS:
            rows.append(constant("torch_decode", "key of a KV head", 10.0 + 8192 / keys, element="bfloat16", keys=keys, threads=threads))
    rows += [constant("chase", "load", 16.0, **{"from": level, "threads": 1}) for level in ("l2", "l3", "memory")]
    rows += [constant("predict", "block of 64 keys, 4 heads", 300.0, bits=4, head_dim=dim, threads=1) for dim in (64, 128)]
    for element in ("float32", "bfloat16", "int8"):
        rows += [constant("pack", "64 inputs", 8.0 * group, element=element, group=group, threads=1) for group in PACKED_GROUPS]
        rows.append(constant("finish", "32 outputs of a token", 3.0, element=element, threads=1))
    for keys in DECIDED_KEYS:
        rows.append(constant("classify_again", "key of 4 heads", 100.0 + keys / 64, keys=keys, threads=1))
        rows.append(constant("rank_again", "key of 4 heads", 20.0, keys=keys, threads=1))
    rows.append(constant("select_xm", "block of 64 keys, 4 heads", 100.0, threads=1))
    names = ("linear", "attention", "decode", "prediction", "torch attention")
    for name, (level, ns) in product(names, (("l3", 1000.0), ("memory", 5000.0))):
        rows.append(constant("call", "call", ns, of=name, **{"from": level}))
    return CalibrationRecord(HOST, CACHES, (1, 2), tuple(rows))


def host(**changes: object) -> HostConstants:
    return HostConstants.of_calibration(calibration(**changes), "a host")  # type: ignore[arg-type]
