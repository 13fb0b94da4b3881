"""Where an unfinished training is kept: the weights that are trained and the optimizer's state as safetensors, the rest as JSON.

Nothing in the file can run when it is read.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import SafetensorError, safe_open

from xmsim.configs.codec import decode, encode
from xmsim.configs.errors import XmsimError
from xmsim.configs.files import write_whole

_FILE = "checkpoint.safetensors"
_KEY = "xmsim.tuning"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    seconds: float
    losses: tuple[float, ...]  # of each step done

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.losses)


AnyProgress = TypeVar("AnyProgress", bound=Progress)


class Checkpoint(Generic[AnyProgress]):
    """The folder `<out>.part` of a training that is not finished."""

    def __init__(self, out: Path, plan: dict[str, Any], kind: type[AnyProgress], *, name: str) -> None:
        """Find out whether there is a training to go on with; nothing is written.

        Args:
            plan: everything that decides the outcome, as plain JSON values.
            kind: what is noted of how far it has come.
            name: what errors call such a training, e.g. tuning.
        Raises:
            XmsimError: the folder holds something else, or a training of another plan.
        """
        self.folder = out.with_name(f"{out.name}.part")
        self._file = self.folder / _FILE
        self._plan, self._kind, self._name = plan, kind, name
        self._check()

    @property
    def exists(self) -> bool:
        """Whether there is something to go on with."""
        return self._file.is_file()

    def _check(self) -> None:
        if self.exists:
            found = self._header()["plan"]
            if other := [key for key in self._plan if self._plan[key] != found.get(key)]:
                raise XmsimError(
                    f"{self.folder}: holds an unfinished {self._name} with another {', '.join(other)}; "
                    "finish it with its own options, delete it, or choose another --out"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(not child.match(".*.tmp") for child in self.folder.iterdir())):
            raise XmsimError(f"{self.folder}: exists and is no unfinished {self._name}; move it away or choose another --out")

    def _header(self) -> dict[str, Any]:
        try:
            with safe_open(self._file, framework="pt") as file:
                header: dict[str, Any] = json.loads(file.metadata()[_KEY])
                return header
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise XmsimError(f"{self._file}: not a checkpoint of xmsim, or a damaged one ({error}); delete {self.folder}") from error

    def write(self, parameters: dict[str, Any], optimizer: Any, progress: AnyProgress) -> None:
        """Replace what is kept.

        Args:
            parameters: {name: tensor}, those that are trained.
        Raises:
            XmsimError: the disk is full or the folder cannot be written; what was kept before stays.
        """
        from safetensors.torch import save_file

        tensors = {f"weight/{name}": tensor.detach() for name, tensor in parameters.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items()}
        header = {_KEY: json.dumps({"plan": self._plan, "progress": encode(progress)})}
        try:
            write_whole(self._file, lambda temporary: save_file(tensors, temporary, metadata=header))
        except SafetensorError as error:
            with suppress(OSError):  # what was kept before stays; a folder that never held anything goes
                self.folder.rmdir()
            raise XmsimError(f"{self._file}: cannot be written ({error}); free some space and run the same command again") from error

    def read(self, parameters: dict[str, Any], optimizer: Any) -> AnyProgress:
        """Put weights and optimizer state back; gives how far the training had come.

        Raises:
            XmsimError: the file is damaged.
        """
        import torch

        progress = decode(self._kind, self._header()["progress"], str(self._file))
        states: dict[int, dict[str, Any]] = {}
        try:
            with safe_open(self._file, framework="pt") as file, torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(file.get_tensor(f"weight/{name}"))
                for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    owner, _, rest = key.partition("/")
                    if owner == "optimizer":
                        index, name = rest.split("/")
                        states.setdefault(int(index), {})[name] = file.get_tensor(key)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise XmsimError(f"{self._file}: a damaged checkpoint ({error}); delete {self.folder}") from error
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return progress

    def delete(self) -> None:
        """Forget the training: it is finished, or cannot be."""
        shutil.rmtree(self.folder, ignore_errors=True)
