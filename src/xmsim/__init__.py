"""xmsim: cycle-level simulation of sparse-attention accelerators on the sparsity that real models have.

    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import simulate_trace
    from xmsim.traces.store import open_trace

    record = simulate_trace(open_trace("xm-tiny-trace"), load_accelerator("dynax_s"))  # xmsim simulate dynax_s --trace xm-tiny-trace
    print(record.cycles, record.costs.area.total)

`xmsim.workloads` has what needs a model (extract_trace, load_model, attach, sparsify) and AttentionWorkload, for masks of your own;
`xmsim.reference` has the methods and kernels; `xmsim.sim.result` reads and writes results. docs/tutorials/python.md walks through it;
`xmsim --help` lists the verbs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # slow, and few ask

    try:
        return version("xmsim")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"


def _choose_numba_cache() -> None:
    """Send numba's compiled code to the user's cache folder, so that a read-only install works and stays clean.

    numba compiles a file anew when that file changes, but not when a function or a tuple that it takes from another file
    does, and then runs what is wrong by now. So the folder is named after all the sources that are compiled.
    """
    name = _compiled_sources_digest()
    for home in _cache_folders():
        folder = home / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
            return


def _cache_folders() -> Iterator[Path]:
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "xmsim" / "numba"
    import tempfile  # slow, and seldom needed

    yield Path(tempfile.gettempdir()) / f"xmsim-numba-{os.getuid()}"


def _compiled_sources_digest() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for room in ("accel_models", "reference", "sim", "traces", "workloads"):
        for path in sorted((package / room).rglob("*.py")):
            source = path.read_bytes()
            if b"njit" in source:
                digest.update(source)
    return digest.hexdigest()[:16]


if "NUMBA_CACHE_DIR" not in os.environ:  # before numba's first import, which is inside the rooms
    _choose_numba_cache()
