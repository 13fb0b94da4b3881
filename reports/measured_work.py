"""Measured work that is not the trace's attention, as rows: whole models that generate, linear layers, and benchmarks of attention.

A row says how many times as fast as a baseline a kernel is, in pairs of runs that took turns; rows of one `Work` may stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmsim.configs.errors import RecordError
from xmsim.configs.record import read_record
from xmsim.reports.benchmark_file import Benchmark, BenchmarkRow, in_order
from xmsim.reports.words import counted
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.generation_record import GENERATION_VERSION, GenerationRecord, Ratio, read_generation

GENERATION, LINEAR, PREFILL, DECODE, OTHER = "whole model", "linear layers", "attention, prefill", "attention, decode", "other kernels"
TTFT, TPOT = "time to first token", "time per output token"
PART_OF = ": "  # what parts the name of a kernel from that of its part
ON_GPU = "GPU"  # what conditions end in, where no threads are named
PLAIN_READ = "plain read"  # of as many bytes, with no product
OWN_DENSE = ("packed", "dense bfloat16", "own dense")  # baselines of ours that skip nothing


@dataclass(frozen=True, slots=True)
class Generated:
    """A file of a model that generates."""

    path: Path
    software: str
    record: GenerationRecord


@dataclass(frozen=True, slots=True)
class Speedup:
    """Over one baseline; quartiles of the ratio over pairs, or None where only the medians of both are known."""

    median: float
    first_quartile: float | None
    third_quartile: float | None


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel did, so that two rows of one work differ in the kernel alone."""

    kind: str  # GENERATION, LINEAR, PREFILL, DECODE or OTHER
    what: str  # TTFT of llama-3.2-1b; 4096 → 14336, 1 token; 4096 tokens, d = 128
    conditions: str
    host: str  # the CPU, or the GPU where that did it
    file: str

    @property
    def title(self) -> str:
        return f"{self.what}; {self.conditions}"


@dataclass(frozen=True, slots=True)
class MeasuredKernel:
    """One kernel on one work."""

    work: Work
    kernel: str
    dense: bool  # skips nothing
    timing: Timing
    over_torch: Speedup | None  # None: it is torch, or torch was not measured beside it
    over_dense: Speedup | None  # over our own dense kernel
    density: float | None  # share that is kept, where the record says so
    sparsity: float | None  # share of zeros in the weights, where the record says so
    shape: tuple[int, int, int] | None  # of a linear layer: in, out, tokens
    is_part: bool = False  # of another kernel of this work, which alone does all of it


def read_generated(path: Path) -> Generated:
    """Read a generation file.

    Raises:
        RecordError: not such a file, nothing in it, or a median is not between its quartiles.
    """
    record = read_generation(path)
    timings = [one.timing for one in record.linears]
    timings += [timing for one in record.generations for timing in (one.time_to_first_token, one.time_per_output_token)]
    ratios = [ratio for run in record.linears for ratio in run.speedup.values()]
    ratios += [ratio for one in record.generations for ratio in one.speedup.values()]
    if (
        not timings
        or not all(map(in_order, timings))
        or not all(0 < one.first_quartile <= one.median <= one.third_quartile for one in ratios)
    ):
        raise RecordError(f"{path}: nothing was timed, or a median is not between its quartiles; measure again")
    return Generated(path, str(read_record(path, "generation", GENERATION_VERSION).get("xmsim", "unknown")), record)


def measured_kernels(generated: Sequence[Generated], benchmarks: Sequence[Benchmark]) -> tuple[MeasuredKernel, ...]:
    """All rows, those of one work one after the other."""
    rows = [*(row for one in generated for row in _of_generation(one)), *(row for one in benchmarks for row in _of_benchmark(one))]
    return tuple(sorted(rows, key=lambda row: [GENERATION, LINEAR, PREFILL, DECODE, OTHER].index(row.work.kind)))


def works(rows: Sequence[MeasuredKernel]) -> dict[Work, list[MeasuredKernel]]:
    """The rows by their work, in order of appearance."""
    found: dict[Work, list[MeasuredKernel]] = {}
    for row in rows:
        found.setdefault(row.work, []).append(row)
    return found


def threads_of(work: Work) -> int:
    """From `bfloat16, 2 threads`; 0 on a GPU, and where it is not said."""
    last = work.conditions.rpartition(", ")[2].partition(" ")[0]
    return int(last) if last.isdigit() else 0


def _of_generation(one: Generated) -> Iterator[MeasuredKernel]:
    record = one.record
    given = record.conditions
    model = f"{record.model.get('name', 'a model')}{' (random weights)' if record.model.get('weights') == 'random' else ''}"
    sparsity = given.get("sparsity")
    host = record.host.gpu if str(given.get("device", "cpu")).startswith("cuda") else record.host.cpu
    pruned = f"{100 * sparsity:g} % of the weights zero" if isinstance(sparsity, int | float) else "weights not pruned"
    include = given.get("include")
    head = "lm_head sparse too" if isinstance(include, list | tuple) and "lm_head" in include else "lm_head dense"
    said = (
        f"{given.get('dtype')}, {pruned}, {head}, batch {given.get('batch')}, {given.get('input_tokens')} tokens in and "
        f"{given.get('new_tokens')} out, {_threads(given.get('threads'))}"
    )
    first = {run.kernel: run.time_to_first_token for run in record.generations}
    for name in (TPOT, TTFT):
        work = Work(GENERATION, f"{name} of {model}", said, host, one.path.name)
        for run in record.generations:
            timing = run.time_per_output_token if name == TPOT else run.time_to_first_token
            over_torch, over_dense = (
                _pairs(run.speedup.get(base)) if name == TPOT else _medians(first.get(base), timing, same=base == run.kernel)
                for base in ("torch", "packed")
            )
            dropped = f", {100 * run.dynamic_sparsity:.0f} % of products dropped" if run.dynamic_sparsity else ""
            label = f"{run.kernel}, attention {run.attention}{dropped}"
            yield MeasuredKernel(work, label, run.kernel in ("torch", "packed"), timing, over_torch, over_dense, None, sparsity, None)
    for layer in record.linears:
        shape = (layer.in_features, layer.out_features, layer.tokens)
        conditions = f"{layer.dtype}, {100 * layer.sparsity:.0f} % zeros, {_threads(layer.threads)}"
        work = Work(LINEAR, _shape_words(shape), conditions, host, one.path.name)
        over_torch, over_dense = (_pairs(layer.speedup.get(base)) for base in ("torch", "packed"))
        dense = layer.kernel in ("torch", "packed")
        yield MeasuredKernel(work, layer.kernel, dense, layer.timing, over_torch, over_dense, None, layer.sparsity, shape)


def _of_benchmark(one: Benchmark) -> Iterator[MeasuredKernel]:
    names = {row.name for row in one.rows}
    for row in one.rows:
        torch = next((over for name, over in row.over.items() if name.startswith("torch") and name.replace("_", " ") != row.name), None)
        dense = next((over for name, over in row.over.items() if _is_own_dense(name) and not _is_own_dense(row.name)), None)
        if not row.over or row.name == PLAIN_READ:
            continue  # what the host can do at most, and work without a baseline
        shape = _linear_shape(row)
        kind = LINEAR if shape else {"prefill": PREFILL, "decode": DECODE}.get(str(row.facts.get("phase")), OTHER)
        host = one.host.cpu if "threads" in row.facts or not one.host.gpu else one.host.gpu
        work = Work(kind, _what(row, shape), _conditions(row), host, one.path.name)
        yield MeasuredKernel(
            work=work,
            kernel=row.name,
            dense=row.name.startswith("torch") or _is_own_dense(row.name),
            timing=row.timing,
            over_torch=Speedup(torch.median, torch.first_quartile, torch.third_quartile) if torch else None,
            over_dense=Speedup(dense.median, dense.first_quartile, dense.third_quartile) if dense else None,
            density=_number(row, "density") or _number(row, "kv_density"),
            sparsity=_sparsity(row),
            shape=shape,
            is_part=row.name.partition(PART_OF)[0] in names - {row.name},
        )


def _is_own_dense(name: str) -> bool:
    return name.replace("_", " ") in OWN_DENSE


def _pairs(ratio: Ratio | None) -> Speedup | None:
    return Speedup(ratio.median, ratio.first_quartile, ratio.third_quartile) if ratio else None


def _medians(base: Timing | None, own: Timing, *, same: bool) -> Speedup | None:
    return Speedup(base.median_ms / own.median_ms, None, None) if base and not same else None


def _linear_shape(row: BenchmarkRow) -> tuple[int, int, int] | None:
    sizes = [row.facts.get(name) for name in ("in_features", "out_features", "tokens")]
    return tuple(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[return-value]


def _shape_words(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} → {shape[1]}, {counted(shape[2], 'token')}"


def _what(row: BenchmarkRow, shape: tuple[int, int, int] | None) -> str:
    if shape:
        return _shape_words(shape)
    facts = row.facts
    if "phase" not in facts:
        return str(facts.get("name", row.name))
    keys = "tokens" if facts["phase"] == "prefill" else "keys"
    return f"{facts['phase']}, {facts.get('tokens')} {keys}, d = {facts.get('head_dim')}"


def _conditions(row: BenchmarkRow) -> str:
    parts = [str(row.facts["dtype"])] if "dtype" in row.facts else []
    parts += ["mask given"] if row.facts.get("phase") == "prefill" else []
    parts += [f"{100 * share:g} % zeros"] if (share := _number(row, "weight_sparsity")) else []
    parts += [_threads(row.facts["threads"])] if "threads" in row.facts else [ON_GPU]
    return ", ".join(parts)


def _threads(count: object) -> str:
    return counted(count, "thread") if isinstance(count, int) else "threads not known"


def _number(row: BenchmarkRow, key: str) -> float | None:
    value = row.facts.get(key)
    return float(value) if isinstance(value, int | float) else None


def _sparsity(row: BenchmarkRow) -> float | None:
    """As the record says it, or as the kernel's name does: `sparse bfloat16 s=0.5`."""
    if (said := _number(row, "weight_sparsity")) is not None:
        return said
    _, _, last = row.name.rpartition(" s=")
    try:
        return float(last) if " s=" in row.name else None
    except ValueError:
        return None
