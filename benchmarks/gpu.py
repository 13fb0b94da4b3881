"""All benchmarks of the CUDA kernels: python benchmarks/gpu.py [--quick] [--seconds N] [--out FOLDER]

Builds the kernels by this host's nvcc, checks each against float64 in a process of its own, and measures what was right: the ceilings of
this GPU, then contenders that take turns (kernels as graphs of calls on copies that no cache holds, medians and quartiles of at least 50
rounds, ratios round by round), then what its units give one by one, beside what was predicted. A section that fails, hangs or finds no time
left is a sentence in the record, and the others go on; the record is written anew after each. Needs a checkout, torch, numpy and nvcc.
Without a GPU, --emulated runs the checks alone, on the emulator of the kernels; nothing is timed then and no record is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a checkout need not be installed

from gpu_clocks import clocks, sampled
from gpu_processes import run_limited
from gpu_shapes import FULL, QUICK, Shapes

from xmsim.configs.codec import encode
from xmsim.configs.record import write_record
from xmsim.reference.kernels.cuda import build, native

FORMAT, VERSION = "benchmark", 1
HERE = Path(__file__).parent
CHECKS = (
    "own dense",
    "tca-bme",
    "macko",
    "teal",
    "spdp",
    "decode",
    "prediction",
    "prefill",
    "shared masks",
    "masks",
)  # as gpu_section has them
HOST_SECONDS, CHECK_SECONDS, CHECKS_AT_ONCE = 90, 90, 4
TIMED = {  # the longest that each may take, in the order of how much they are wanted
    "ceilings": 60,
    "time decode": 150,
    "time linear": 150,
    "time prefill": 180,
    "time masks": 90,
    "rates": 90,
}
OF_RATES = ("ceilings", "rates")  # sections whose kernels are in a library of their own
Build = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class Runner:
    """What runs a section."""

    command: tuple[str | Path, ...]  # that a job and a file for rows are added to
    device: str
    shapes: Shapes
    folder: Path  # for what is built and for logs
    ends: float  # of time.monotonic
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, section: str, seconds: float, left_out: Sequence[str]) -> Section:
        folder = self.folder / section.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        left = self.ends - time.monotonic()
        if left < 5:
            return Section(section, "not run: the time was up", 0.0)
        library = self.library("rates" if section in OF_RATES else "kernels")
        if library is None:
            return Section(section, "not run: its kernels were not built", 0.0)
        job = {"section": section, "device": self.device, "shapes": encode(self.shapes), "left_out": list(left_out)}
        job_file, rows_file = folder / "job.json", folder / "rows.jsonl"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        environment = {**self.environment, native.LIBRARY_VARIABLE: str(library)}
        with sampled(folder / "clocks.csv"):
            ended = run_limited([*self.command, job_file, rows_file], folder / "log.txt", min(seconds, left), environment)
        return Section(section, ended.failure or "done", ended.seconds, clocks(folder / "clocks.csv"), rows_of(rows_file))

    def library(self, name: str) -> Path | None:
        return next((self.folder / "built" / name).glob("*.so"), None)


@dataclass(frozen=True, slots=True)
class Section:
    """How a section ended, and what it found."""

    name: str
    outcome: str  # "done", or a sentence
    seconds: float
    clocks: dict[str, float] = field(default_factory=dict)
    rows: tuple[Any, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    parser.add_argument(
        "--out", type=Path, help="folder for the record, kernels_gpu.json, and attention as measurement files, which xmsim compare reads"
    )
    parser.add_argument("--emulated", action="store_true", help="check the kernels on the CPU, without timing them")
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        folder, shapes = Path(scratch), QUICK if arguments.quick else FULL
        command = (sys.executable, HERE / "gpu_section.py")
        if arguments.emulated:
            run = Runner(command, "cpu", shapes, folder, ends)
            failures = [*built(folder, build.build_emulator), *(s for s in check_all(run) if s.outcome != "done")]
        else:
            run = Runner(command, "cuda", shapes, folder, ends)
            failures = measure_all(run, built(folder, build.build_library), arguments.out)
    if failures:
        sys.exit(f"{len(failures)} sections did not do what they should: {', '.join(section.name for section in failures)}")


def built(folder: Path, build_with: Build) -> list[Section]:
    """Build the kernels and those of gpu_rates.cu; what failed."""
    begin = time.monotonic()
    sources = {"kernels": None, "rates": [build.SOURCES / "device.cu", HERE / "gpu_rates.cu"]}
    failures = []
    for name, units in sources.items():
        try:
            build_with(folder / "built" / name, units)
        except build.BuildError as error:
            failures.append(Section(f"build {name}", " ".join(str(error).split())[:400], time.monotonic() - begin))
            print(failures[-1].outcome)
    print(f"built in {time.monotonic() - begin:.0f} s", flush=True)
    return failures


def check_all(run: Runner, seconds: float = CHECK_SECONDS) -> list[Section]:
    """Every kernel against float64 or the CPU's bits, each in its own process, which may take so long."""
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        return [shown(section) for section in pool.map(lambda name: run(name, seconds, ()), CHECKS)]


def measure_all(run: Runner, failures: list[Section], out: Path | None) -> list[Section]:
    """Check, then measure what was right; the record is written after every section, and what failed is given."""
    sections = [*failures, shown(run("host", HOST_SECONDS, ()))]
    keep(out, sections)
    sections += check_all(run)
    keep(out, sections)
    left_out = [section.name for section in sections if section.outcome != "done"]
    for name, seconds in TIMED.items():
        sections.append(shown(run(name, seconds, left_out)))
        keep(out, sections)
    return [section for section in sections if section.outcome != "done"]


def shown(section: Section) -> Section:
    """Print what a section found."""
    for row in section.rows:
        if isinstance(row, str):
            print(row)
        elif "speedup_median" in row:
            print(f"{row['name']}: {row['median_ms']:.4g} ms, {row['speedup_median']:.2f}x {row['baseline']}")
        elif "rate" in row:
            predicted = f", predicted {row['predicted_rate']:.4g}" if "predicted_rate" in row else ""
            print(f"{row['name']}: {row['rate']:.4g} {row['unit']}{predicted}")
    print(f"{section.name}: {section.outcome}, {section.seconds:.0f} s", flush=True)
    return section


def keep(out: Path | None, sections: Iterable[Section]) -> None:
    """Write what there is, whole."""
    if out is None:
        return
    from gpu_record import write_measurements

    from xmsim.configs.codec import decode
    from xmsim.workloads.measurement import Host

    out.mkdir(parents=True, exist_ok=True)
    rows = [row for section in sections for row in section.rows]
    runs = [row for row in rows if isinstance(row, dict) and "median_ms" in row]
    unknown = encode(Host("", 0, (), 0, "", "", "", {}))  # where the section that says it failed
    host = next((row["host"] for row in rows if isinstance(row, dict) and "host" in row), unknown)
    said = [
        {
            "name": section.name,
            "outcome": section.outcome,
            "taken_s": section.seconds,
            **section.clocks,
            "notes": [row for row in section.rows if isinstance(row, str)],
        }
        for section in sections
    ]
    write_record(out / "kernels_gpu.json", FORMAT, VERSION, {"host": host, "runs": runs, "sections": said})
    write_measurements(out, runs, decode(Host, json.loads(json.dumps(host)), "host"))


def rows_of(path: Path) -> tuple[Any, ...]:
    """What a process wrote; a line that it was stopped at is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return tuple(rows)


if __name__ == "__main__":
    main()
