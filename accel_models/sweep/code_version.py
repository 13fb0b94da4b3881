"""Which code and tables a result was computed with."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from importlib.resources import files
from pathlib import Path

from xmsim.accel_models.accelerator import Accelerator

_ROOMS = ("configs", "traces", "reference", "sim", "workloads", "accel_models")
_SUFFIXES = {".py", ".yaml", ".csv"}
_SWEEPS = "sweeps"  # of configs: what is asked for, not how it is answered


@cache
def code_sha256() -> str:
    """A hash of every source and table of ours that a simulated number can depend on."""
    package = Path(str(files("xmsim.configs"))).parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((package / room).rglob("*")):
            if path.suffix in _SUFFIXES and path.parent.name != _SWEEPS:
                digest.update(f"{path.relative_to(package)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def model_sha256(machine: Accelerator) -> str:
    """A hash of the code of this machine: `code_sha256`, or of that and its own module where it is none of ours."""
    own = Path(inspect.getfile(type(machine)))
    if type(machine).__module__.startswith("xmsim."):
        return code_sha256()
    return hashlib.sha256(code_sha256().encode() + own.read_bytes()).hexdigest()
