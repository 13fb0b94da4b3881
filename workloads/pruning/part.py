"""Where an unfinished pruning is kept: the plan as JSON, and of each block that is done its tensors and, as JSON, its layers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import XmsimError
from xmsim.configs.files import MOST_RECORD_BYTES, check_ordinary, read_bytes, write_text, write_whole
from xmsim.workloads.pruning.record import PrunedLayer

_PLAN = "plan.json"


class UnfinishedPruning:
    """The folder `<out>.part` of a pruning that is not finished."""

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        """Find out whether there is a pruning to go on with; nothing is written.

        Args:
            plan: everything that decides the outcome, as plain JSON values.
        Raises:
            XmsimError: the folder holds something else, or a pruning of another plan.
        """
        self.folder = out.with_name(f"{out.name}.part")
        self._plan = plan
        if (self.folder / _PLAN).is_file():
            found = self._stored()["plan"]
            if other := [key for key in plan if plan[key] != found.get(key)]:
                raise XmsimError(
                    f"{self.folder}: holds an unfinished pruning with another {', '.join(other)}; "
                    "finish it with its own options, delete it, or choose another --out"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(not child.match(".*.tmp") for child in self.folder.iterdir())):
            raise XmsimError(f"{self.folder}: exists and is no unfinished pruning; move it away or choose another --out")

    @property
    def sparsities(self) -> list[float] | None:
        """Of each block, as planned; None: there is nothing to go on with."""
        return self._stored()["block_sparsities"] if (self.folder / _PLAN).is_file() else None

    def begin(self, sparsities: list[float]) -> None:
        """Keep the plan, now that it is whole."""
        write_text(self.folder / _PLAN, json.dumps({"plan": self._plan, "block_sparsities": sparsities}, indent=1) + "\n")

    def has(self, number: int) -> bool:
        """Whether a block is done."""
        return self.path(number).is_file()

    def path(self, number: int) -> Path:
        """The file of a block's tensors."""
        return self.folder / f"block_{number:04}.safetensors"

    def write(self, number: int, tensors: dict[str, Any], layers: list[PrunedLayer]) -> None:
        """Keep a block that is done, its tensors by their names in the model's files.

        Raises:
            XmsimError: the disk is full or the folder cannot be written; the blocks before it stay.
        """
        write_text(self._layers_path(number), json.dumps(encode(layers), indent=1) + "\n")
        write_tensors(self.path(number), tensors)  # last: where it is, the block is done

    def read(self, number: int) -> tuple[dict[str, Any], list[PrunedLayer]]:
        """A block that is done.

        Raises:
            XmsimError: the file is damaged.
        """
        path = self.path(number)
        try:
            check_ordinary(path)
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
            layers = json.loads(read_bytes(self._layers_path(number), MOST_RECORD_BYTES))
        except (OSError, SafetensorError, ValueError, RecursionError, MemoryError) as error:
            raise XmsimError(f"{path}: a damaged block ({error}); delete it and run the same command again") from error
        return tensors, list(decode(tuple[PrunedLayer, ...], layers, str(self._layers_path(number))))

    def delete(self) -> None:
        """Forget the pruning: it is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _layers_path(self, number: int) -> Path:
        return self.path(number).with_suffix(".json")

    def _stored(self) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = json.loads(read_bytes(self.folder / _PLAN, MOST_RECORD_BYTES))
            plan, sparsities = stored.get("plan"), stored.get("block_sparsities")
            shares = isinstance(sparsities, list) and all(isinstance(share, int | float) and 0 <= share <= 1 for share in sparsities)
            if isinstance(plan, dict) and shares:
                return stored
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise XmsimError(f"{self.folder / _PLAN}: damaged ({error}); delete {self.folder}") from error
        raise XmsimError(f"{self.folder / _PLAN}: not the plan of a pruning; delete {self.folder}")


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write a safetensors file as transformers reads it, whole or not at all.

    Raises:
        XmsimError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    kept = {key: tensor.contiguous() for key, tensor in tensors.items()}
    try:
        write_whole(path, lambda temporary: save_file(kept, temporary, metadata={"format": "pt"}))
    except SafetensorError as error:
        raise XmsimError(f"{path}: cannot be written ({error}); free some space and run the same command again") from error


def place(finished: Path, target: Path) -> None:
    """Put a finished file into another folder without a second copy of it on the disk, where the file system can."""
    try:
        os.link(finished, target)
    except OSError:
        shutil.copyfile(finished, target)
