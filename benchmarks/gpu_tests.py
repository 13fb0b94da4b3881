"""The tests that need a GPU, file by file: python benchmarks/gpu_tests.py [--out FOLDER]

From the simplest to the hardest, each file in a process of its own: after a wrong address no CUDA call of a process works, and a kernel may
hang. Builds the kernels beside the package first, where the tests look for them. Needs pytest and pytest-xdist.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a checkout need not be installed

from gpu_processes import Ended, run_limited

from xmsim.reference.kernels.cuda import build, native

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "reference" / "kernels" / "cuda"
FIRST = (
    "native",
    "emulator",
    "rates",
    "unpack",
    "linear",
    "attention",
    "decode",
    "key_codes",
    "masks",
    "ops",
    "modules",
)  # the simplest first
NO_GPU = ("build", "weights")
FILE_SECONDS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for what each file's tests said")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        try:
            library = build.build_library(Path(scratch))
        except build.BuildError as error:
            sys.exit(str(error))
        logs = Path(scratch) if arguments.out is None else arguments.out
        logs.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--rootdir", ROOT)
        failed = [file.name for file in files() if tested(command, file, library, logs, ends)]
    if failed:
        sys.exit(f"{len(failed)} files failed: {', '.join(failed)}")


def files() -> list[Path]:
    """Files of tests that need a GPU, in their order."""
    names = {file.stem.removeprefix("test_"): file for file in sorted(TESTS.glob("test_*.py"))}
    return [names[name] for name in dict.fromkeys((*FIRST, *names)) if name in names and name not in NO_GPU]


def tested(command: Sequence[str | Path], file: Path, library: Path, logs: Path, ends: float) -> bool:
    """Run the tests of a file and say how they ended; whether they failed."""
    left, log = ends - time.monotonic(), logs / f"{file.stem}.txt"
    if left < 5:
        print(f"{file.name}: not run: the time was up", flush=True)
        return True
    python_path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {native.LIBRARY_VARIABLE: str(library), "PYTHONPATH": python_path, "XMSIM_CPU_LIBRARY": "none"}
    ended = run_limited([*command, file], log, min(FILE_SECONDS, left), environment)
    print(f"{file.name}: {verdict(ended, log)}, {ended.seconds:.0f} s", flush=True)
    return bool(ended.failure)


def verdict(ended: Ended, log: Path) -> str:
    """What pytest said last, and the first test that failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")
    return ", ".join(part for part in (ended.failure or (lines[-1] if lines else "nothing"), first) if part)


if __name__ == "__main__":
    main()
