"""xmsim: cycle-level simulation of sparse-attention accelerators on the sparsity that real models have."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

__version__ = version("xmsim")


def _choose_numba_cache() -> None:
    """Send numba's compiled code to the user's cache folder, so that a read-only install works and stays clean."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (home / "xmsim" / "numba", Path(tempfile.gettempdir()) / f"xmsim-numba-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
            return


if "NUMBA_CACHE_DIR" not in os.environ:  # before numba's first import, which is inside the rooms
    _choose_numba_cache()
