"""Linear layers of one token or a few, dense and sparse, against stock torch: python benchmarks/cpu_linear.py [--quick] [--out RECORD]

What is compared runs by turns in one process: torch's bfloat16 F.linear, our dense layers, sparse ones, and a plain read of as many bytes
as the dense bfloat16 weights. Every contender has copies of its weights that together are larger than twice the last cache, all in huge
pages; threads are bound to cores. Ratios are taken round by round, and given as median and quartiles. Goals at one token and one thread:
sparse bfloat16 1.4 times our dense and 3.5 times torch at half sparsity, 2 and 5 times at 0.7; sparse int8 2.6 times our dense bfloat16;
dense bfloat16 reads at 85 % of what the plain read reaches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from ctypes import c_int, c_int64, c_uint64, c_void_p
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import FORMAT, VERSION

from xmsim.configs.codec import encode
from xmsim.configs.record import write_record
from xmsim.reference.kernels import DenseLinear, Int8SparseLinear, SparseLinear, native
from xmsim.reference.kernels.linear_modules import PackedLinear
from xmsim.workloads.measurement import Timing
from xmsim.workloads.measuring.host import describe_host

SHAPES = ((4096, 4096), (4096, 14336))  # (in_features, out_features)
SPARSITIES = (0.5, 0.7)
TORCH, DENSE, READ = "torch bfloat16", "dense bfloat16", "plain read"
BASELINES = (DENSE, TORCH)
WARM_UP_ROUNDS = 3

Call = Callable[[torch.Tensor], Any]


def measure_linear(
    *, threads: tuple[int, ...] = (2, 1), tokens: tuple[int, ...] = (1, 2, 4, 8, 16, 64), rounds: int = 60, quick: bool = False
) -> list[dict[str, Any]]:
    """Rows of a record: one for each shape, number of threads and tokens, and contender.

    Args:
        threads: numbers of threads, the largest first, as binding a thread narrows what its process may use.
        quick: the small shape, one token and a third of the rounds.
    """
    shapes, tokens, rounds = (SHAPES[:1], (1,), rounds // 3) if quick else (SHAPES, tokens, rounds)
    rows = []
    for in_features, out_features in shapes:
        contenders, weight_bytes = _contenders(in_features, out_features)
        for thread_count in threads:
            torch.set_num_threads(thread_count)
            native.default_threads()  # shares torch's threads, before they are bound
            native.pin_threads(thread_count)
            for token_count in tokens:
                x = torch.randn(token_count, in_features).bfloat16()
                samples_ms = _timed_by_turns(contenders, x, rounds)
                for name, samples in samples_ms.items():
                    rows.append(
                        {
                            "name": name,
                            "in_features": in_features,
                            "out_features": out_features,
                            "threads": thread_count,
                            "tokens": token_count,
                            **encode(Timing.of(samples)),
                            "weight_bytes": weight_bytes[name],
                            "gigabytes_per_second": weight_bytes[name] / np.median(samples) / 1e6,
                            **{f"times_as_fast_as_{base.replace(' ', '_')}": _ratio(samples_ms[base], samples) for base in BASELINES},
                            "share_of_plain_read": _ratio(samples_ms[READ], samples),
                        }
                    )
    return rows


def _contenders(in_features: int, out_features: int) -> tuple[dict[str, list[Call]], dict[str, int]]:
    """For each name: one call for each copy of the weights, and the bytes of one copy."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator)
    order = torch.rand(out_features, in_features, generator=generator)
    calls: dict[str, list[Call]] = {}
    weight_bytes: dict[str, int] = {}

    def enter(name: str, make: Callable[[], tuple[Call, int]]) -> None:
        call, nbytes = make()
        copies = 2 * _last_cache_bytes() // nbytes + 2
        calls[name], weight_bytes[name] = [call, *(make()[0] for _ in range(copies - 1))], nbytes

    def packed(form: type[PackedLinear], matrix: torch.Tensor) -> tuple[Call, int]:
        layer = form.from_weight(matrix)
        return layer, layer.nbytes

    enter(TORCH, lambda: _torch_linear(weight))
    enter(DENSE, lambda: packed(DenseLinear, weight.bfloat16()))
    for sparsity in SPARSITIES:
        kept = torch.where(order < sparsity, 0, weight)
        enter(f"sparse bfloat16 s={sparsity}", lambda kept=kept: packed(SparseLinear, kept.bfloat16()))
        enter(f"sparse int8 s={sparsity}", lambda kept=kept: packed(Int8SparseLinear, kept))
    enter(READ, lambda: _plain_read(2 * weight.numel()))
    return calls, weight_bytes


def _torch_linear(weight: torch.Tensor) -> tuple[Call, int]:
    """Stock torch on a matrix in huge pages, as ours are."""
    own = torch.from_numpy(native.huge_empty(tuple(weight.shape), np.uint16)).view(torch.bfloat16)
    own.copy_(weight)
    return lambda x: torch.nn.functional.linear(x, own), own.numel() * own.element_size()


def _plain_read(nbytes: int) -> tuple[Call, int]:
    read = native.kernel("xm_read", c_uint64, c_void_p, c_int64, c_int)
    if read is None:
        raise SystemExit("benchmarks/cpu_linear.py needs the compiled kernels; install xmsim where a C++ compiler is")
    words = native.huge_empty((nbytes // 8,), np.uint64)
    words[:] = 1
    return lambda _: read(native.address(words), len(words), torch.get_num_threads()), nbytes


def _timed_by_turns(contenders: dict[str, list[Call]], x: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each contender in each round; every round takes the next copy of the weights."""
    samples_ms: dict[str, list[float]] = {name: [] for name in contenders}
    copies = {name: cycle(calls) for name, calls in contenders.items()}
    with torch.no_grad():
        for turn in range(-WARM_UP_ROUNDS, rounds):
            for name in contenders:
                call = next(copies[name])
                started = time.perf_counter()
                call(x)
                if turn >= 0:
                    samples_ms[name].append(1e3 * (time.perf_counter() - started))
    return samples_ms


def _ratio(base_ms: list[float], samples_ms: list[float]) -> dict[str, float]:
    """How many times as fast, round by round."""
    first, median, third = np.quantile(np.array(base_ms) / np.array(samples_ms), [0.25, 0.5, 0.75])
    return {"median": float(median), "first_quartile": float(first), "third_quartile": float(third)}


def _last_cache_bytes() -> int:
    """Of the first core, as Linux tells; 32 MiB where it does not."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes if size[-1] in "KM"), default=32 << 20)


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'in x out':>12} {'threads':>7} {'tokens':>6}  {'':22} {'median ms':>9} {'GB/s':>6}  {'x dense':>17}  {'x torch':>17}  of read")
    for row in rows:
        place = f"{row['in_features']}x{row['out_features']:<6} {row['threads']:>7} {row['tokens']:>6}"
        ratios = [
            "{median:5.2f} ({first_quartile:4.2f}-{third_quartile:4.2f})".format(**row[f"times_as_fast_as_{base.replace(' ', '_')}"])
            for base in BASELINES
        ]
        share = 100 * row["share_of_plain_read"]["median"]
        share_of_bandwidth = share * row["weight_bytes"] / (2 * row["in_features"] * row["out_features"])
        print(
            f"{place:>12}  {row['name']:22} {row['median_ms']:9.3f} {row['gigabytes_per_second']:6.1f}  {ratios[0]:>17}  {ratios[1]:>17}"
            f"  {share_of_bandwidth:4.0f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small shape, one token, fewer rounds")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--out", type=Path, help="keep the rows as a record")
    arguments = parser.parse_args()
    host = describe_host()
    threads = tuple(range(min(2, host.cores), 0, -1))
    rows = measure_linear(threads=threads, tokens=tuple(arguments.tokens), rounds=arguments.rounds, quick=arguments.quick)
    print_rows(rows)
    if arguments.out:
        write_record(arguments.out, FORMAT, VERSION, {"host": encode(host), "runs": rows})


if __name__ == "__main__":
    main()
