"""A host whose constants are round numbers, so that times can be counted by hand."""

from __future__ import annotations

from itertools import product

from xmsim.accel_models.host.constants import HostConstants
from xmsim.workloads.measurement import Host
from xmsim.workloads.measuring.calibration.record import CalibrationRecord, Constant
from xmsim.workloads.measuring.calibration.whole_calls import LINEAR_TOKENS

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
        for rule, bits, dim in product(("xm", "nm"), (0, 4), (64, 128)):
            rows.append(constant("mask", "pair of query and key", 3.0 / threads, rule=rule, bits=bits, head_dim=dim, threads=threads))
        for element, tokens in product(("float32", "bfloat16"), LINEAR_TOKENS):
            rows.append(constant("torch_linear", "weight", 0.1 * tokens, element=element, tokens=tokens, threads=threads))
        for element, dim in product(("float32", "bfloat16"), (64, 128)):
            rows.append(constant("torch_prefill", "pair of query and key", dim / 64, element=element, head_dim=dim, threads=threads))
        rows.append(constant("torch_decode", "key of a KV head", 10.0, element="bfloat16", threads=threads))
    rows += [constant("chase", "load", 16.0, **{"from": level, "threads": 1}) for level in ("l2", "l3", "memory")]
    rows += [constant("predict", "block of 64 keys, 4 heads", 300.0, bits=4, head_dim=dim, threads=1) for dim in (64, 128)]
    rows.append(constant("quantise", "64 inputs", 8.0, element="bfloat16", threads=1))
    rows.append(constant("select_xm", "block of 64 keys, 4 heads", 100.0, threads=1))
    names = ("linear", "attention", "decode", "prediction", "torch linear", "torch attention")
    rows += [constant("call", "call", 1000.0, of=name) for name in names]
    return CalibrationRecord(HOST, CACHES, (1, 2), tuple(rows))


def host(**changes: object) -> HostConstants:
    return HostConstants.of_calibration(calibration(**changes), "a host")  # type: ignore[arg-type]
