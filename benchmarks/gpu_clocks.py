"""What the GPU's clock and power were while a section ran, by nvidia-smi."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_QUERY = ("--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=200")


@contextmanager
def sampled(log: Path) -> Iterator[None]:
    """Write samples into a file meanwhile, where nvidia-smi is."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(["nvidia-smi", *_QUERY], stdout=out, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def clocks(log: Path) -> dict[str, float]:
    """Of the samples in a file; {} of none."""
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            rows.append([float(part) for part in line.split(",")])
        except ValueError:  # a number that this GPU does not say, or a line that was cut
            continue
    rows = [row for row in rows if len(row) == 3]
    if not rows:
        return {}
    megahertz, watts, celsius = zip(*rows, strict=True)
    return {
        "sm_clock_median_mhz": statistics.median(megahertz),
        "sm_clock_least_mhz": min(megahertz),
        "power_most_w": max(watts),
        "temperature_most_c": max(celsius),
    }
