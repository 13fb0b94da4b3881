"""All benchmarks of the CUDA kernels: python benchmarks/gpu.py [--quick] [--out FOLDER]

Builds the kernels by this host's nvcc, checks each against float64 on fresh inputs, measures the ceilings of this GPU (copy, bfloat16
product), then lets contenders take turns: kernels as graphs of calls on copies that no cache holds, medians and quartiles of at least 50
rounds, ratios round by round. Works from a bare checkout with torch, numpy and nvcc. Without a GPU, --emulated runs the checks alone, on
small shapes and the emulator of the kernels; nothing is timed then and no record is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a checkout need not be installed

import torch

from xmsim.reference.kernels.cuda import build, native

FORMAT, VERSION = "benchmark", 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument(
        "--out", type=Path, help="folder for the record, kernels_gpu.json, and attention as measurement files, which xmsim compare reads"
    )
    parser.add_argument("--emulated", action="store_true", help="check the kernels on the CPU, without timing them")
    arguments = parser.parse_args()
    if not arguments.emulated and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --emulated checks the kernels on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = (build.build_emulator if arguments.emulated else build.build_library)(Path(folder))
        except build.BuildError as error:
            sys.exit(str(error))
        os.environ[native.LIBRARY_VARIABLE] = str(library)
        if arguments.emulated:
            check_all("cpu")
        else:
            check_all("cuda")
            measure_all(arguments.out, quick=arguments.quick)


def check_all(device: str) -> None:
    """Every kernel against float64, on shapes that fill no tile."""
    import gpu_attention
    import gpu_linear
    import gpu_masks

    for tokens in (1, 5, 16):
        errors = gpu_linear.check(200, 456, tokens, 0.5, device)
        print(f"linear, {tokens} tokens: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    print(f"prefill: {gpu_attention.check_prefill(4, 2, 128, 0.5, device).error:.1e}")
    print(f"decode: {gpu_attention.check_decode(8, 2, 256, 0.1, device).error:.1e}")
    print(f"prediction in decode: the CPU's keys, {gpu_attention.check_prediction(8, 2, 512, device):.3f} of all")
    print(f"masks: {gpu_masks.check(4, 1, 200)} rows, bit for bit the CPU's", flush=True)


def measure_all(out: Path | None, *, quick: bool) -> None:
    """Print every row, and keep them as a record."""
    import gpu_attention
    import gpu_linear
    import gpu_masks
    from gpu_record import write_measurements
    from gpu_timing import LEAST_ROUNDS

    from xmsim.configs.codec import encode
    from xmsim.configs.record import write_record
    from xmsim.workloads.measuring.host import describe_host

    limits = ceilings(LEAST_ROUNDS)
    rows = [*limits]
    for row in limits:
        print(f"{row['name']}: {row['median_ms']:.4g} ms, {row['rate']:.4g} {row['unit']}", flush=True)
    for part in (
        gpu_attention.measure_decode(LEAST_ROUNDS, quick=quick),
        gpu_linear.measure(LEAST_ROUNDS, quick=quick),
        gpu_attention.measure_prefill(LEAST_ROUNDS, quick=quick),
        gpu_masks.measure(LEAST_ROUNDS, quick=quick),
    ):
        for row in part:
            print(f"{row['name']}: {row['median_ms']:.4g} ms, {row['speedup_median']:.2f}x {row['baseline']}", flush=True)
            rows.append(row)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        host = describe_host()
        write_record(out / "kernels_gpu.json", FORMAT, VERSION, {"host": encode(host), "runs": rows})
        write_measurements(out, rows, host)


def ceilings(rounds: int) -> list[dict[str, object]]:
    """What this GPU gives at most: bytes of a copy (read and written) and operations of a large product."""
    from gpu_timing import Contender, summary, timed_by_turns

    source = torch.randn(1 << 28, device="cuda")
    target, a, b = torch.empty_like(source), *(torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    copy, product = "copy", "bfloat16 product, 8192"
    samples = timed_by_turns([Contender(copy, (lambda: native.copy(source, target),)), Contender(product, (lambda: a @ b,))], rounds)
    work = {copy: (8 * source.numel() / 1e9, "GB/s"), product: (2 * 8192**3 / 1e12, "TFLOP/s")}
    rows = []
    for name, each in samples.items():
        timing = summary(each)
        rows.append({"name": name, **timing, "rate": work[name][0] / timing["median_ms"] * 1e3, "unit": work[name][1]})
    return rows


if __name__ == "__main__":
    main()
