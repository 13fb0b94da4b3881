"""What this GPU gives at most, and what its units give each: measured beside what docs/make_cuda_predictions.py assumes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from ctypes import c_int, c_int64, c_void_p
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_rows import Row
from gpu_shapes import Shapes
from gpu_timing import Contender, summary, timed_by_turns

from xmsim.reference.kernels.cuda import native

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_name("gpu_rates.cu")
THREADS, CHAINS = 256, 8  # of gpu_rates.cu
BLOCKS, ASYNC_BLOCKS = 8, 3  # that a multiprocessor holds
ROW_BYTES = 256
BFLOAT16_TFLOPS, INT8_TOPS = 790.0, 1200.0  # of large products (published for H200, assumed)
GATHERED = 0.8  # of a stream's rate (assumed by the predictions of decode)


def ceilings(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Bytes of a copy, read and written, and operations of large products."""
    expected = predictions()
    blocks = BLOCKS * torch.cuda.get_device_properties(0).multi_processor_count
    source, size = torch.randn(shapes.copied_elements, device=device), shapes.product_size
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    a8, b8 = (torch.randint(-127, 128, (size, size), device=device).to(torch.int8) for _ in range(2))
    copied, multiplied = 8 * source.numel() / 1e9, 2 * size**3 / 1e12
    calls: dict[str, tuple[Callable[[], Any], float, str, float]] = {
        "copy": (lambda: native.copy(source, target, blocks=blocks), copied, "GB/s", expected.MEMORY_BYTES_A_SECOND / 1e9),
        f"bfloat16 product, {size}": (lambda: a @ b, multiplied, "TFLOP/s", BFLOAT16_TFLOPS),
        f"int8 product, {size}": (lambda: torch._int_mm(a8, b8.t()), multiplied, "TOP/s", INT8_TOPS),
    }
    samples, failures = timed_by_turns([Contender(name, (call,)) for name, (call, *_) in calls.items()], shapes)
    yield from failures
    for name, each in samples.items():
        _, work, unit, predicted = calls[name]
        yield _row(name, each, 1e3 * work / summary(each)["median_ms"], unit, predicted)


def rates(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Instructions, products of fragments, caches and memory; one row each, with what was predicted."""
    expected = predictions()
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    clocks = expected.MULTIPROCESSORS * expected.CLOCK_HZ
    threads = BLOCKS * processors * THREADS
    words = torch.randint(1 << 31, (threads,), dtype=torch.int32, device=device)
    floats = torch.rand(threads, device=device)
    out = torch.empty(threads * CHAINS * 4, dtype=torch.int32, device=device)
    few = max(1, shapes.rate_rounds // 256)  # of products, which are a thousand times as much work
    steps = threads * CHAINS * shapes.rate_rounds
    products = threads // 32 * CHAINS * few
    for name, launcher, work, unit, predicted in (
        ("population counts", "population_counts", steps, "G/s", 16 * clocks),
        ("exponentials", "exponentials", steps, "G/s", 16 * clocks),
        ("comparisons of pairs of 16 bits", "comparisons", 2 * steps, "G/s", 64 * clocks),
        ("mma.sync of bfloat16", "bfloat16_products", 4096 * products, "GFLOP/s", expected.TENSOR_FLOP_A_CLOCK * clocks),
        ("mma.sync of int8", "int8_products", 8192 * products, "GOP/s", 2 * expected.TENSOR_FLOP_A_CLOCK * clocks),
    ):
        operands = (words, words) if "products" in launcher else (floats,) if launcher == "exponentials" else (words,)
        rounds = few if "products" in launcher else shapes.rate_rounds
        launch = _launcher(launcher, words, *operands, out, BLOCKS * processors, rounds)
        yield from _rate(name, launch, shapes, work / 1e9, unit, predicted / 1e9)
    buffer = torch.randint(1 << 31, (shapes.read_bytes // 4,), dtype=torch.int32, device=device)
    yield from reading(shapes, buffer, out, processors, expected)
    yield from gathering(shapes, buffer, out, processors, expected)
    yield from waiting(shapes, buffer, out, processors, expected)


def reading(shapes: Shapes, buffer: torch.Tensor, out: torch.Tensor, processors: int, expected: Any) -> Iterator[Row]:
    """Bytes read once from memory, and again and again from the second-level cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    second = expected.L2_BYTES_A_CLOCK * expected.MULTIPROCESSORS * expected.CLOCK_HZ
    for name, nbytes, rounds, predicted in (
        ("reading memory", buffer.nbytes, 1, expected.MEMORY_BYTES_A_SECOND * expected.MEMORY_SHARE),
        ("reading the second-level cache", min(cache // 3, buffer.nbytes) // 16 * 16, 16, second),
    ):
        launch = _launcher("read", buffer, buffer, nbytes // 16, out, BLOCKS * processors, rounds, kinds=(c_void_p, c_int64, c_void_p))
        yield from _rate(name, launch, shapes, rounds * nbytes / 1e9, "GB/s", predicted / 1e9)


def gathering(shapes: Shapes, buffer: torch.Tensor, out: torch.Tensor, processors: int, expected: Any) -> Iterator[Row]:
    """Bytes of rows that a list names, in its order and shuffled, by reads and by copies to shared memory."""
    rows = buffer.nbytes // ROW_BYTES
    predicted = GATHERED * expected.MEMORY_BYTES_A_SECOND * expected.MEMORY_SHARE / 1e9
    for share in shapes.gathered_shares:
        ordered = (torch.rand(rows, device=buffer.device) < share).nonzero()[:, 0].int()
        if not len(ordered):
            yield f"no row of {rows} was chosen for a share of {share:g}"
            continue
        shuffled = ordered[torch.randperm(len(ordered), device=buffer.device)]
        for order, indices in (("in order", ordered), ("shuffled", shuffled)):
            for how, launcher, blocks in (("reads", "gather", BLOCKS), ("copies", "gather_async", ASYNC_BLOCKS)):
                kinds = (c_void_p, c_void_p, c_int, c_void_p)
                launch = _launcher(launcher, buffer, buffer, indices, len(indices), out, blocks * processors, kinds=kinds)
                name = f"gathering {share:.0%} of rows of {ROW_BYTES} bytes, {order}, {how}"
                yield from _rate(name, launch, shapes, len(indices) * ROW_BYTES / 1e9, "GB/s", predicted)


def waiting(shapes: Shapes, buffer: torch.Tensor, out: torch.Tensor, processors: int, expected: Any) -> Iterator[Row]:
    """Nanoseconds of a kernel after another in a graph, and of reads that wait for each other."""
    steps = max(1, shapes.rate_rounds // 4)
    nothing = _launcher("nothing", buffer, out, kinds=(c_void_p,))
    yield from _wait("an empty kernel in a graph", [nothing], [], shapes, 1, expected.LAUNCH_SECONDS)
    words = buffer.view(-1, 4)
    count = 1 << (len(words).bit_length() - 1)
    places = torch.arange(steps + 1, device=buffer.device) * 40503 * 64 % count  # far from each other
    if len(places.unique()) <= steps:
        places = torch.arange(steps + 1, device=buffer.device) % count
    words[places[:-1], 0] = places[1:].int()
    follow = _launcher("follow", buffer, buffer, steps, out, kinds=(c_void_p, c_int, c_void_p))
    flush = _launcher("read", buffer, buffer, len(words), out, BLOCKS * processors, 1, kinds=(c_void_p, c_int64, c_void_p))
    yield from _wait("a read of the second-level cache", [follow], [], shapes, steps, expected.CACHED_READ_SECONDS)
    yield from _wait("a read of memory", [flush, follow], [flush], shapes, steps, expected.READ_SECONDS)


def _wait(
    name: str, calls: list[Callable[[], Any]], without: list[Callable[[], Any]], shapes: Shapes, steps: int, predicted: float
) -> Iterator[Row]:
    """Nanoseconds of a step of the calls, less what the calls without them take."""
    contenders = [Contender(part, (partial(_each, each),)) for part, each in ((name, calls), ("without", without)) if each]
    samples, failures = timed_by_turns(contenders, shapes)
    yield from failures
    if name in samples:
        rest = summary(samples["without"])["median_ms"] if "without" in samples else 0.0
        yield _row(name, samples[name], 1e6 * (summary(samples[name])["median_ms"] - rest) / steps, "ns", 1e9 * predicted)


def _each(calls: list[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def _rate(name: str, launch: Callable[[], Any], shapes: Shapes, work: float, unit: str, predicted: float) -> Iterator[Row]:
    samples, failures = timed_by_turns([Contender(name, (launch,))], shapes)
    yield from failures
    for each in samples.values():
        yield _row(name, each, 1e3 * work / summary(each)["median_ms"], unit, predicted)


def _row(name: str, samples: list[float], rate: float, unit: str, predicted: float) -> dict[str, Any]:
    return {"name": name, **summary(samples), "rate": rate, "unit": unit, "predicted_rate": predicted}


def _launcher(name: str, tensor: torch.Tensor, *values: Any, kinds: tuple[Any, ...] = ()) -> Callable[[], Any]:
    """A launch of a kernel of gpu_rates.cu; tensors are passed by their addresses, and kept."""
    given = kinds + tuple(c_void_p if isinstance(value, torch.Tensor) else c_int for value in values[len(kinds) :])
    launch = native.cuda_kernel(f"xm_cuda_rate_{name}", *given)
    addresses = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in values]
    return lambda: (launch(tensor, *addresses), values)


def predictions() -> Any:
    """docs/make_cuda_predictions.py."""
    if str(ROOT / "docs") not in sys.path:
        sys.path.append(str(ROOT / "docs"))
    import make_cuda_predictions

    return make_cuda_predictions
