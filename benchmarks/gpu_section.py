"""One section of benchmarks/gpu.py, in a process of its own: python benchmarks/gpu_section.py JOB ROWS

JOB is a file that says which section on which shapes; ROWS is written line by line, so that a process that is stopped loses nothing it
had found. An error that a kernel leaves behind ends the CUDA work of its own process only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a checkout need not be installed

import gpu_attention
import gpu_host
import gpu_linear
import gpu_masks
import gpu_rates
from gpu_rows import Row
from gpu_shapes import Shapes

from xmsim.configs.codec import decode, encode


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to do."""

    section: str
    device: str
    shapes: Shapes
    left_out: tuple[str, ...]  # kernels whose checks failed: those are not run again


Section = Callable[[Shapes, str, Collection[str]], Iterator[Row]]


def check_linear(name: str, shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """A linear kernel against float64, on shapes that fill no tile."""
    for tokens in (1, 5, 16):
        error = gpu_linear.check(name, 200, 456, tokens, 0.5, device)
        if error is not None:
            yield f"{name}, {tokens} tokens: error {error:.1e}"


def check_prefill(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Tile-skipping attention against float64."""
    yield f"prefill: error {gpu_attention.check_prefill(4, 2, 128, 0.5, device).error:.1e}"


def check_shared(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Attention with masks that heads share, against float64."""
    yield f"shared masks: error {gpu_attention.check_shared(8, 2, 150, 0.2, device).error:.1e}"


def check_decode(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Attention of one token against float64."""
    yield f"decode: error {gpu_attention.check_decode(8, 2, 256, 0.1, device).error:.1e}"


def check_prediction(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Predicted keys against the CPU's."""
    yield f"prediction in decode: the CPU's keys, {gpu_attention.check_prediction(8, 2, 512, device):.3f} of all"


def check_masks(shapes: Shapes, device: str, left_out: Collection[str]) -> Iterator[Row]:
    """Masks against the CPU's."""
    yield f"masks: {gpu_masks.check(4, 1, 200)} rows, bit for bit the CPU's"


CHECKS: dict[str, Section] = {
    **{name: partial(check_linear, name) for name in gpu_linear.KERNELS},
    "decode": check_decode,
    "prediction": check_prediction,
    "prefill": check_prefill,
    "shared masks": check_shared,
    "masks": check_masks,
}
TIMED: dict[str, Section] = {
    "host": gpu_host.host,
    "ceilings": gpu_rates.ceilings,
    "time decode": gpu_attention.measure_decode,
    "time linear": gpu_linear.measure,
    "time prefill": gpu_attention.measure_prefill,
    "time masks": gpu_masks.measure,
    "rates": gpu_rates.rates,
}


def main() -> None:
    job_file, rows_file = map(Path, sys.argv[1:])
    job = decode(Job, json.loads(job_file.read_text(encoding="utf-8")), str(job_file))
    with rows_file.open("w", encoding="utf-8") as out:
        for row in (CHECKS | TIMED)[job.section](job.shapes, job.device, job.left_out):
            out.write(json.dumps(row, allow_nan=False) + "\n")
            out.flush()


def job_text(job: Job) -> str:
    """What main reads."""
    return json.dumps(encode(job))


if __name__ == "__main__":
    main()
