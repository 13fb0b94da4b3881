"""The kernels' checks under NVIDIA's compute-sanitizer: python benchmarks/gpu_sanitize.py [TOOL ...] [--out FOLDER]

TOOL is memcheck (addresses) or racecheck (shared memory that threads touch without a barrier between), both by default; also synccheck and
initcheck. Each check of benchmarks/gpu.py runs in a process of its own, on tensors that lie in allocations of their own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # a checkout need not be installed

from gpu import HERE, Runner, built, check_all
from gpu_shapes import FULL

from xmsim.reference.kernels.cuda import build

TOOLS = ("memcheck", "racecheck")
CHECK_SECONDS = 240  # kernels are ten to a hundred times slower under a tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", nargs="*", default=TOOLS)
    parser.add_argument("--out", type=Path, help="folder for what the tools said")
    parser.add_argument("--seconds", type=float, default=540, help="time for all of it")
    arguments = parser.parse_args()
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        sys.exit("no compute-sanitizer: it comes with the CUDA toolkit; put it on PATH")
    ends = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        if built(Path(scratch), build.build_library):
            sys.exit("the kernels were not built")
        wrong = []
        for tool in arguments.tool:
            print(f"{tool}:")
            folder = Path(scratch) / tool
            folder.mkdir()
            (folder / "built").symlink_to(Path(scratch) / "built")
            command = (sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, HERE / "gpu_section.py")
            run = Runner(command, "cuda", FULL, folder, ends, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
            wrong += [f"{tool} of {section.name}" for section in check_all(run, CHECK_SECONDS) if section.outcome != "done"]
            if arguments.out is not None:
                shutil.copytree(folder, arguments.out / tool, ignore=shutil.ignore_patterns("built", "*.json*"), dirs_exist_ok=True)
    if wrong:
        sys.exit(f"something is wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
