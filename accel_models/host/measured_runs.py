"""The records of measured kernels as runs that a host model can be asked about; those it cannot, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmsim.configs.codec import decode
from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record, record_kind
from xmsim.workloads.measurement import Host, Timing
from xmsim.workloads.measuring.generation_record import read_generation
from xmsim.workloads.measuring.host_check_record import (
    DECODE,
    LINEAR,
    MASK,
    PREDICTION,
    PREFILL,
    HostRun,
    LeftOut,
    Minute,
    read_host_check,
)

LINE_BYTES = 64
UNKNOWN = Minute(None, None)
READ = "plain read"
LLAMA_HEADS = {"heads": 32, "kv_heads": 8}  # of benchmarks/cpu_attention.py's decoding
PREFILL_HEADS = {"heads": 4, "kv_heads": 1}  # and of its prefill
MASK_SHAPE = {"tokens": 2048, "heads": 8, "kv_heads": 8, "head_dim": 64}  # of benchmarks/test_masks.py
KEPT_OF_64 = re.compile(r"(\d{1,2}) of 64")
LINEAR_NAME = re.compile(r"(torch|dense|sparse) (float32|bfloat16|int8)(?: s=(\d(?:\.\d+)?))?")
MASK_NAME = re.compile(r"test_mask_and_its_scores_by_the_native_kernel\[(\w+)-(exact|4_bit)\]")
TORCH_MASK_NAME = re.compile(r"test_dense_attention_of_torch\[(\w+)\]")
DECODE_NAMES = {
    "torch sdpa": (DECODE, "torch"),
    "own dense": (DECODE, "dense"),
    "xm, 4-bit prediction, group lists: attention": (DECODE, "sparse"),
    "xm, 4-bit prediction, group lists: prediction": (PREDICTION, "xm"),
}
KERNELS = {"torch": ("torch", None), "packed": ("dense", None), "bitmap": ("sparse", None), "bitmap_int8": ("sparse", "int8")}


def measured_runs(path: Path) -> tuple[Host, tuple[HostRun, ...], tuple[LeftOut, ...]]:
    """The host of a record, its runs, and series that no model predicts.

    Raises:
        RecordError: not a record of host checks, benchmarks or generations.
    """
    kind = record_kind(path)
    if kind == "host_check":
        checked = read_host_check(path)
        return checked.calibration.host, checked.runs, ()
    if kind == "generation":
        return _of_generation(path)
    if kind == "benchmark":
        body = read_record(path, "benchmark", 1)
        host = decode(Host, body.get("host"), f"{path}: host")
        runs = decode(_Benchmark, body, str(path)).runs
        rows = [BenchmarkedRun(run, f"{path}: runs[{number}]") for number, run in enumerate(runs)]
        entries = list(_of_benchmark(rows, host, path.name))
        return host, tuple(x for x in entries if isinstance(x, HostRun)), tuple(x for x in entries if isinstance(x, LeftOut))
    raise RecordError(f"{path}: a {kind} file holds no kernels of this host; give a host_check, benchmark or generation record")


@dataclass(frozen=True, slots=True)
class _Benchmark:
    """What is read of a benchmark."""

    runs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class BenchmarkedRun:
    """A row of a benchmark; values are looked at as they are taken, for each kind of run has its own.

    Raises:
        RecordError: by every method, where a value is missing or of another kind.
    """

    values: dict[str, Any]
    place: str

    def text(self, name: str) -> str:
        return decode(str, self.values.get(name), f"{self.place}.{name}")

    def whole(self, name: str) -> int:
        return decode(int, self.values.get(name), f"{self.place}.{name}")

    def number(self, name: str) -> float:
        return decode(float, self.values.get(name), f"{self.place}.{name}")

    def timing(self) -> Timing:
        return decode(Timing, self.values, self.place)

    def shape(self) -> tuple[Any, ...]:
        """What a run shares with the plain read beside it."""
        return tuple(self.whole(key) for key in ("in_features", "out_features", "threads", "tokens"))


def _of_benchmark(rows: Sequence[BenchmarkedRun], host: Host, source: str) -> Iterator[HostRun | LeftOut]:
    reads = {row.shape(): row.number("gigabytes_per_second") for row in rows if row.text("name") == READ}
    shape: dict[str, Any]
    for row in rows:
        name, phase = row.text("name"), row.values.get("phase")
        if name == READ:
            continue  # a constant of its minute, not a kernel
        if match := LINEAR_NAME.fullmatch(name):
            kernel, element, sparsity = match.groups()
            shape = {key: row.whole(key) for key in ("in_features", "out_features", "tokens")} | {"sparsity": float(sparsity or 0)}
            rate = reads.get(row.shape(), 0.0)
            line = row.whole("threads") * LINE_BYTES / rate if rate > 0 else None
            yield HostRun(LINEAR, kernel, element, row.whole("threads"), shape, row.timing(), Minute(line, None))
        elif match := MASK_NAME.fullmatch(name):
            shape = MASK_SHAPE | {"bits": {"exact": 0, "4_bit": 4}[match[2]]}
            yield HostRun(MASK, match[1], "float32", host.cores, shape, row.timing(), UNKNOWN)
        elif match := TORCH_MASK_NAME.fullmatch(name):
            yield HostRun(PREFILL, "torch", match[1], host.cores, MASK_SHAPE | {"kept": 64}, row.timing(), UNKNOWN)
        elif phase == "prefill":
            kept = KEPT_OF_64.fullmatch(name)
            shape = PREFILL_HEADS | {"tokens": row.whole("tokens"), "head_dim": row.whole("head_dim"), "kept": int(kept[1]) if kept else 64}
            yield HostRun(PREFILL, "sparse" if kept else "torch", row.text("dtype"), row.whole("threads"), shape, row.timing(), UNKNOWN)
        elif phase == "decode" and name in DECODE_NAMES:
            operation, kernel = DECODE_NAMES[name]
            sizes = LLAMA_HEADS | {"tokens": row.whole("tokens"), "head_dim": row.whole("head_dim")}
            shape = {**sizes, "bits": 4} if operation == PREDICTION else {**sizes, "kv_density": row.number("kv_density")}
            yield HostRun(operation, kernel, row.text("dtype"), row.whole("threads"), shape, row.timing(), UNKNOWN)
        else:
            threads = f", {row.values['threads']} threads" if "threads" in row.values else ""
            yield LeftOut(source, f"{name}{threads}", _reason(name))


def _of_generation(path: Path) -> tuple[Host, tuple[HostRun, ...], tuple[LeftOut, ...]]:
    record = read_generation(path)
    runs, left = [], []
    for one in record.linears:
        if one.kernel not in KERNELS:
            left.append(LeftOut(path.name, f"linear layer, kernel {one.kernel}", "no model of this kernel"))
            continue
        kernel, element = KERNELS[one.kernel]
        shape = {"in_features": one.in_features, "out_features": one.out_features, "tokens": one.tokens, "sparsity": one.sparsity}
        runs.append(HostRun(LINEAR, kernel, element or one.dtype, one.threads, shape, one.timing, UNKNOWN))
    for generation in record.generations:
        for what in ("time to first token", "time of a token"):
            left.append(
                LeftOut(path.name, f"{what}, kernel {generation.kernel}", "torch's small operators between the layers have no model")
            )
    return record.host, tuple(runs), tuple(left)


def _reason(name: str) -> str:
    if name.startswith("test_mask_of_"):
        return "the reference in NumPy and torch, no kernel of ours"
    if name.startswith("pruned"):
        return "keys and values expanded into L1 have no model"
    if name.endswith("head lists"):
        return "how many keys each head keeps alone is not in the record"
    if name == "xm, 4-bit prediction, group lists":
        return "the sum of its two parts, which are predicted one by one"
    return "no model of this kernel"
