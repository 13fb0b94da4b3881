"""Builds the CUDA kernels by this host's own nvcc, or their emulator by its C++ compiler: `python -m xmsim.reference.kernels.cuda.build`.

Needs no other package: it serves GPU hosts on which xmsim is only checked out.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xmsim.reference.kernels.cuda.native import LIBRARY

SOURCES = Path(__file__).parent
TARGETS = {  # of nvcc; the first one's PTX, too, which newer GPUs translate for themselves
    "sm_80": "arch=compute_80,code=[sm_80,compute_80]",
    "sm_90a": "arch=compute_90a,code=sm_90a",
}
# kernels read memory as other types than it was written as, as is usual on a GPU
_CXX_OPTIONS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wextra")


class BuildError(RuntimeError):
    """A compiler that is missing, or what it said."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An object file, and what ptxas said of its kernels."""

    path: Path
    report: str


def find_nvcc() -> Path | None:
    """nvcc by PATH, CUDA_HOME, or from NVIDIA's wheels in this environment; None if there is none."""
    found = shutil.which("nvcc")
    homes = [Path(os.environ["CUDA_HOME"])] if "CUDA_HOME" in os.environ else []
    homes += [Path("/usr/local/cuda"), *(Path(entry) / "nvidia" / "cu13" for entry in sys.path if entry)]
    paths = [Path(found)] if found else [home / "bin" / "nvcc" for home in homes]
    return next((path for path in paths if path.is_file()), None)


def find_cxx() -> Path | None:
    """This host's C++ compiler; None if there is none."""
    found = shutil.which(os.environ.get("CXX", "c++"))
    return Path(found) if found else None


def compile_object(nvcc: Path, source: Path, out: Path, targets: Sequence[str] = tuple(TARGETS)) -> Compiled:
    """Compile one source for these GPUs.

    Raises:
        BuildError: what nvcc said.
    """
    machine = [f"-gencode={TARGETS[target]}" for target in targets]
    options = ["-std=c++17", "-O3", *machine, f"-I{SOURCES}", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    return Compiled(out, _run([nvcc, *options, "-c", source, "-o", out]))


def build_library(folder: Path, sources: Sequence[Path] | None = None) -> Path:
    """Build the kernels for sm_80 and sm_90a, or other sources, into a folder; the path of the library.

    Raises:
        BuildError: no nvcc, or what it said.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc: install the CUDA toolkit and put nvcc on PATH, or set CUDA_HOME")
    folder.mkdir(parents=True, exist_ok=True)
    units = sorted(SOURCES.glob("*.cu")) if sources is None else sources
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compile_object(nvcc, source, Path(scratch) / f"{source.stem}.o").path, units))
        return _linked([nvcc, "-shared", "-cudart", "static", *objects], folder / LIBRARY)


def build_emulator(folder: Path, sources: Sequence[Path] | None = None) -> Path:
    """Build the emulator of the same kernels, or of other sources, into a folder; the path of the library.

    CXX and CXXFLAGS name the compiler and more options for it, e.g. -fsanitize=address.

    Raises:
        BuildError: no C++ compiler, or what it said.
    """
    compiler = find_cxx()
    if compiler is None:
        raise BuildError("no C++ compiler: install g++ or clang, or set CXX")
    flags = shlex.split(os.environ.get("CXXFLAGS", ""))
    folder.mkdir(parents=True, exist_ok=True)
    units = [SOURCES / "emulator.cpp", *(sorted(SOURCES.glob("*.cu")) if sources is None else sources)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compiled(unit: Path) -> Path:
            out = Path(scratch) / f"{unit.stem}.o"
            _run([compiler, *_CXX_OPTIONS, *flags, "-I", SOURCES, "-x", "c++", "-c", unit, "-o", out])
            return out

        return _linked([compiler, *flags, "-shared", *pool.map(compiled, units)], folder / "libxmsim_cuda_emulated.so")


def _linked(command: Sequence[str | Path], out: Path) -> Path:
    """The library, which appears whole or not at all."""
    part = out.with_suffix(f".{os.getpid()}.part")
    _run([*command, "-o", part])
    part.replace(out)
    return out


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed on {command[-3]}:\n{done.stderr.strip()}")
    return done.stderr + done.stdout


def main() -> None:
    """Build into a folder, by default beside the package, where it is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[3] / "_native", help="folder for the library")
    parser.add_argument("--emulator", action="store_true", help="build the emulator, which needs no nvcc and no GPU")
    arguments = parser.parse_args()
    try:
        path = (build_emulator if arguments.emulator else build_library)(arguments.out)
    except BuildError as error:
        sys.exit(str(error))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
