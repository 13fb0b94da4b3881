"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from xmsim.configs.errors import XmsimError
from xmsim.configs.files import check_writable


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something, or cannot be made.

    Raises:
        XmsimError: it is a file, or not empty, or the place may not be written to.
    """
    check_writable(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise XmsimError(f"{folder}: exists and is not empty; nothing in it is overwritten, choose another --out")


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `folder`, sync its files, and rename it.

    Raises:
        XmsimError: the folder holds something already, the disk is full or the place cannot be written; nothing is left behind.
    """
    check_free(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        temporary.replace(folder)
    except (OSError, SafetensorError) as error:
        raise XmsimError(f"{folder}: cannot be written ({error}); nothing was, free some space and run the same command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
