"""Where an unfinished training is kept: the weights that are trained and the optimizer's state as safetensors, the rest as JSON.

Nothing in the file can run when it is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class _Header:
    plan: dict[str, Any]
    progress: Any  # as encoded


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
            found = self._header().plan
            if other := [key for key in self._plan if self._plan[key] != found.get(key)]:
                raise XmsimError(
                    f"{self.folder}: holds an unfinished {self._name} with another {', '.join(other)}; "
                    "finish it with its own options, delete it, or choose another --out"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(not child.match(".*.tmp") for child in self.folder.iterdir())):
            raise XmsimError(f"{self.folder}: exists and is no unfinished {self._name}; move it away or choose another --out")

    def _header(self) -> _Header:
        try:
            with safe_open(self._file, framework="pt") as file:
                header = json.loads(file.metadata()[_KEY])
            if not isinstance(header["plan"], dict):
                raise ValueError("its plan is no mapping")
            return _Header(header["plan"], header["progress"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
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
            XmsimError: the file is damaged; nothing was put back.
        """
        import torch

        progress = decode(self._kind, self._header().progress, str(self._file))
        weights: dict[str, Any] = {}
        states: dict[int, dict[str, Any]] = {}
        try:
            with safe_open(self._file, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                    owner, _, rest = key.partition("/")
                    if owner == "weight":
                        weights[rest] = file.get_tensor(key)
                    else:
                        index, name = rest.split("/")
                        states.setdefault(int(index), {})[name] = file.get_tensor(key)
            _check_progress(progress, states)
            _check_weights(weights, parameters)
            _check_states(states, [parameter for group in optimizer.param_groups for parameter in group["params"]])
        except (OSError, SafetensorError, ValueError, RuntimeError, MemoryError) as error:
            raise XmsimError(f"{self._file}: a damaged checkpoint ({error}); delete {self.folder}") from error
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return progress

    def delete(self) -> None:
        """Forget the training: it is finished, or cannot be."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _check_progress(progress: Progress, states: Mapping[int, object]) -> None:
    """Raises: ValueError: steps without the optimizer's state that they leave, or a time that cannot be."""
    if progress.seconds < 0 or bool(progress.losses) != bool(states):
        raise ValueError(f"{progress.steps} steps in {progress.seconds:g} s do not go with an optimizer of {len(states)} states")


def _check_weights(weights: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises: ValueError: not these parameters, each of its shape, all finite."""
    if other := sorted(weights.keys() ^ parameters.keys()):
        raise ValueError(f"weights of another model, e.g. {other[0]}")
    for name, parameter in parameters.items():
        _check_tensor(f"weight {name}", weights[name], parameter)


def _check_states(states: Mapping[int, Mapping[str, Any]], parameters: Sequence[Any]) -> None:
    """Raises: ValueError: not of these parameters, or not the same for each; a parameter that no gradient reached has none."""
    kinds = {frozenset(state) for state in states.values()}
    if len(kinds) > 1 or not all(0 <= index < len(parameters) for index in states):
        raise ValueError("optimizer states of other parameters")
    for index, state in states.items():
        for name, tensor in state.items():
            if tensor.ndim or name != "step":
                _check_tensor(f"optimizer state {name} of parameter {index}", tensor, parameters[index])


def _check_tensor(name: str, tensor: Any, parameter: Any) -> None:
    if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {parameter.dtype} {tuple(parameter.shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} is not finite")
